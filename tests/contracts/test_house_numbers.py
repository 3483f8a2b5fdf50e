"""Sizes that keep files and functions readable in one sitting."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "kd3d"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS, MAX_POSITIONAL = 400, 50, 8, 3
COMMANDS = PACKAGE / "cli"  # an option is a parameter there, and takes a line or more of the signature


def functions(path):
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def body_lines(node, *, signature=True):
    first = node.body[0]
    documented = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    docstring = first.end_lineno - first.lineno + 1 if documented else 0
    return node.end_lineno - (node if signature else first).lineno + 1 - docstring


def named(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_file_is_longer_than_the_limit(path):
    assert len(path.read_text().splitlines()) <= MAX_FILE


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_function_is_longer_than_the_limit(path):
    signature = COMMANDS not in path.parents
    lines = {node.name: body_lines(node, signature=signature) for node in functions(path)}
    assert not {name: count for name, count in lines.items() if count > MAX_FUNCTION}


@pytest.mark.parametrize("path", [path for path in FILES if COMMANDS not in path.parents], ids=named)
def test_no_function_takes_too_many_parameters(path):
    many = {}
    for node in functions(path):
        arguments = node.args
        positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args) if a.arg not in ("self", "cls")]
        if len(positional) + len(arguments.kwonlyargs) > MAX_PARAMETERS + 4:
            many[node.name] = len(positional) + len(arguments.kwonlyargs)
    assert not many


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_public_name_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    public = [
        node
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    assert ast.get_docstring(tree) or path.name == "__main__.py"
    assert not [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_mutable_default_and_no_bare_except(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except at line {node.lineno}"
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            defaults = [*node.args.defaults, *[d for d in node.args.kw_defaults if d]]
            assert not any(isinstance(default, (ast.List, ast.Dict, ast.Set)) for default in defaults)
