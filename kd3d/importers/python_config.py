"""Configurations in Python syntax (mmdetection3d, det3d) read as data: parsed, never executed.

Only literals, ``dict(...)``, names assigned before, arithmetic on numbers, and what mm frameworks add (``_base_``,
``{{_base_.name}}``, ``_delete_``) have a value. Anything else is ``UNKNOWN``, and whoever needs it asks the user.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kd3d.errors import DataError


class Unknown:
    """The value of an expression that would have to be executed."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()
_MAX_DEPTH, _MAX_TEXT, _MAX_LIST, _MAX_NUMBER = 8, 4_000_000, 10_000, 1e12
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def read_python(path: Path, depth: int = 0) -> dict[str, Any]:
    """The assignments of a configuration file, with those of its ``_base_`` files that lie where it says.

    Raises:
        DataError: the file cannot be read or is not Python syntax.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}).") from error
    found = parse_python(text, str(path))
    bases = found.pop("_base_", [])
    inherited: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases if isinstance(bases, list) else []:
        beside = path.parent / base if isinstance(base, str) else path
        if beside != path and beside.is_file() and depth < _MAX_DEPTH:
            inherited = _merge(inherited, read_python(beside, depth + 1))
    return _merge(inherited, _with_base(found, inherited))


def parse_python(text: str, where: str) -> dict[str, Any]:
    """The top-level assignments of ``text``.

    Raises:
        DataError: it is not Python syntax, or too long.
    """
    if len(text) > _MAX_TEXT:
        raise DataError(f"{where}: a configuration of {len(text)} characters is not one.")
    text = re.sub(r"\{\{\s*_base_\.([\w.]+)\s*\}\}", r"'{{\1}}'", text)
    text = re.sub(r"['\"]'\{\{([\w.]+)\}\}'['\"]", r"'{{\1}}'", text)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{where}: not a configuration in Python syntax ({error}).") from error
    names: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                names[node.targets[0].id] = _value(node.value, names)
            except RecursionError:
                names[node.targets[0].id] = UNKNOWN
    return names


def _value(node: ast.expr, names: dict[str, Any]) -> Any:  # noqa: PLR0911  one return per kind of node
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        made = [_value(item, names) for item in node.elts]
        return tuple(made) if isinstance(node, ast.Tuple) else made
    if isinstance(node, ast.Dict):
        return _dict(node, names)
    if isinstance(node, ast.Name):
        return names.get(node.id, UNKNOWN)
    if isinstance(node, ast.Call):
        return _call(node, names)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, names)
        return -value if isinstance(value, (int, float)) else UNKNOWN
    if isinstance(node, ast.BinOp):
        return _arithmetic(node, names)
    if isinstance(node, ast.Subscript):
        return _item(_value(node.value, names), _value(node.slice, names))
    return UNKNOWN


def _dict(node: ast.Dict, names: dict[str, Any]) -> Any:
    found: dict[Any, Any] = {}
    for key, item in zip(node.keys, node.values, strict=True):
        value = _value(item, names)
        if key is None:
            found.update(value if isinstance(value, dict) else {})
        elif isinstance(key, ast.Constant):
            found[key.value] = value
    return found


def _call(node: ast.Call, names: dict[str, Any]) -> Any:
    if not isinstance(node.func, ast.Name) or node.func.id not in ("dict", "ConfigDict", "list", "tuple"):
        return UNKNOWN
    if node.func.id in ("list", "tuple"):
        inner = _value(node.args[0], names) if len(node.args) == 1 else UNKNOWN
        return inner if isinstance(inner, (list, tuple)) else UNKNOWN
    found: dict[Any, Any] = {}
    for argument in node.args:
        value = _value(argument, names)
        found.update(value if isinstance(value, dict) else {})
    for keyword in node.keywords:
        value = _value(keyword.value, names)
        if keyword.arg is None:
            found.update(value if isinstance(value, dict) else {})
        else:
            found[keyword.arg] = value
    return found


def _arithmetic(node: ast.BinOp, names: dict[str, Any]) -> Any:
    left, right = _value(node.left, names), _value(node.right, names)
    apply = _ARITHMETIC.get(type(node.op))
    numbers = all(isinstance(side, (int, float)) for side in (left, right))
    lists = isinstance(left, list) and isinstance(right, list) and isinstance(node.op, ast.Add)
    # A text that doubles a list or squares a number in every line must not fill the memory.
    small = len(left) + len(right) < _MAX_LIST if lists else numbers and max(abs(left), abs(right)) < _MAX_NUMBER
    if apply is None or not small:
        return UNKNOWN
    try:
        return apply(left, right)
    except (ArithmeticError, ValueError):
        return UNKNOWN


def _item(owner: Any, key: Any) -> Any:
    try:
        return owner[key] if isinstance(owner, (dict, list, tuple)) else UNKNOWN
    except (KeyError, IndexError, TypeError):
        return UNKNOWN


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """As mmengine merges: dictionaries entry by entry unless ``_delete_`` is set, everything else is replaced."""
    found = dict(base)
    for key, value in changes.items():
        old = found.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not value.get("_delete_"):
            found[key] = _merge(old, value)
        else:
            found[key] = {k: v for k, v in value.items() if k != "_delete_"} if isinstance(value, dict) else value
    return found


def _with_base(value: Any, inherited: dict[str, Any]) -> Any:
    """Replace ``{{name}}``, which stands for ``_base_.name``."""
    if isinstance(value, dict):
        return {key: _with_base(item, inherited) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with_base(item, inherited) for item in value)
    match = re.fullmatch(r"\{\{([\w.]+)\}\}", value) if isinstance(value, str) else None
    if match is None:
        return value
    found: Any = inherited
    for part in match[1].split("."):
        found = _item(found, part)
    return found
