"""Every TensorRT name that kd3d touches, found in its source, and what the published bindings have of them.

TensorRT's objects have no types here, so strict mypy makes the source call them ``Any``; that is how they are followed:
from the module (``trt``), through parameters, fields and return values that are ``Any``, assignments, calls and loops,
to each attribute and keyword that is asked of them.

``python -m tests.support.trt_names FOLDER`` writes the record anew, from wheels unpacked into ``FOLDER/<version>/``:
``tensorrt-bindings`` 8.6.1, ``tensorrt-cu12-bindings`` 10.3.0, ``tensorrt-cu13-bindings`` 10.16.1.11 and 11.4.0.106,
and ``tensorrt-rtx-cu13-bindings`` 1.7.1.116 (``pip download --no-deps``; no GPU is needed).
"""

import ast
import json
import sys
from pathlib import Path

import kd3d
from kd3d.export.rtx import CAPABILITIES
from kd3d.export.trt_build import HARDWARE

PACKAGE = Path(kd3d.__file__).parent
RECORD = Path(__file__).with_name("tensorrt_names.json")
VERSIONS = ("8.6.1", "10.3.0", "10.16.1.11", "11.4.0.106")
RTX = "1.7.1.116"
CHOSEN = frozenset(HARDWARE.values())  # read by getattr with a variable
CHOSEN_RTX = frozenset(CAPABILITIES)
OURS = frozenset(("errors", "warnings", "__init__", "__version__"))  # of kd3d.runtime.trt_logger, and of Python


def touching():
    """Source files that handle TensorRT's objects."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if names & {"trt", "_trt"}:
            found.append(path)
    return found


def used_names(paths=None):
    """Attributes and keywords asked of TensorRT's objects, by file name."""
    return {path.name: Follower(ast.parse(path.read_text())).names for path in paths or touching()}


def every_name():
    """All of them."""
    return set().union(*used_names().values()) | CHOSEN | CHOSEN_RTX


class Follower:
    """What one file asks of objects that came from TensorRT."""

    def __init__(self, tree):
        self.tree, self.held, self.names = tree, {"trt"}, set()
        self.fields, self.makers = {"_trt"}, set()
        for node in ast.walk(tree):
            if isinstance(node, ast.arg) and is_any(node.annotation):
                self.held.add(node.arg)
            if isinstance(node, ast.ClassDef):
                self.fields |= {
                    part.target.id for part in node.body if isinstance(part, ast.AnnAssign) and is_any(part.annotation)
                }
            if isinstance(node, ast.FunctionDef) and is_any(node.returns):
                self.makers.add(node.name)
        before = None
        while before != (len(self.held), len(self.fields)):
            before = (len(self.held), len(self.fields))
            for node in ast.walk(tree):
                self.follow(node)
        for node in ast.walk(tree):
            self.collect(node)
        self.names -= OURS

    def is_from(self, node):
        """Whether an expression is one of TensorRT's objects."""
        if isinstance(node, ast.Name):
            return node.id in self.held
        if isinstance(node, ast.Attribute):
            return node.attr in self.fields or self.is_from(node.value)
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            return (
                called in self.makers or (called == "getattr" and self.is_from(node.args[0])) or self.is_from(node.func)
            )
        return False

    def follow(self, node):
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(node.targets[0].elts, node.value.elts, strict=True))
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
            pairs = [(node.target, node.value)]
        elif isinstance(node, (ast.For, ast.comprehension)):
            pairs = [(node.target, node.iter)]
        else:
            return
        for target, value in pairs:
            if value is not None and self.is_from(value):
                if isinstance(target, ast.Name):
                    self.held.add(target.id)
                elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    self.fields.add(target.attr)

    def collect(self, node):
        if isinstance(node, ast.Attribute) and self.is_from(node.value):
            self.names.add(node.attr)
        if isinstance(node, ast.ClassDef) and any(self.is_from(base) for base in node.bases):
            self.names |= {part.name for part in node.body if isinstance(part, ast.FunctionDef)}  # TensorRT calls them
        if not isinstance(node, ast.Call):
            return
        if isinstance(node.func, ast.Attribute) and self.is_from(node.func.value):
            self.names |= {keyword.arg for keyword in node.keywords if keyword.arg}
        asked = getattr(node.func, "id", None) in ("hasattr", "getattr") and self.is_from(node.args[0])
        if asked and isinstance(node.args[1], ast.Constant):
            self.names.add(node.args[1].value)


def is_any(annotation):
    return annotation is not None and ast.unparse(annotation) == "Any"


def absent(folder, names):
    """Names that neither the library nor the Python files beside it hold.

    A linker lets a string share the end of a longer one, so a name counts where any string ends in it.
    """
    libraries = sorted(folder.rglob("tensorrt*.so"))
    assert libraries, f"no bindings below {folder}"
    binary = libraries[0].read_bytes()
    text = "".join(path.read_text() for path in libraries[0].parent.rglob("*.py"))
    return {name for name in names if name.encode() + b"\0" not in binary and f"def {name}(" not in text}


def looked_up(folder):
    """For each version, whether it has each name."""
    names = every_name()
    missing = {version: absent(Path(folder) / version, names) for version in (*VERSIONS, RTX)}
    return {name: [version for version in missing if name not in missing[version]] for name in sorted(names)}


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in looked_up(sys.argv[1]).items()]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
