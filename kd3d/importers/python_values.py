"""What an expression of a configuration is worth without being executed."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

Names = Mapping[str, Any]


class Unknown:
    """The value of an expression that would have to be executed."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()
_MAX_LIST, _MAX_NUMBER = 10_000, 1e12
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def value_of(node: ast.expr, names: Names) -> Any:  # noqa: PLR0911  one return per kind of node
    """The value of ``node``, or ``UNKNOWN``; ``names`` are what was assigned before."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        made = [value_of(item, names) for item in node.elts]
        return tuple(made) if isinstance(node, ast.Tuple) else made
    if isinstance(node, ast.Dict):
        return _dict(node, names)
    if isinstance(node, ast.Name):
        return names.get(node.id, UNKNOWN)
    if isinstance(node, ast.Attribute):
        return _item(value_of(node.value, names), node.attr)
    if isinstance(node, ast.Call):
        return _call(node, names)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = value_of(node.operand, names)
        return -value if isinstance(value, (int, float)) else UNKNOWN
    if isinstance(node, ast.BinOp):
        return _arithmetic(node, names)
    if isinstance(node, ast.Subscript):
        return _item(value_of(node.value, names), _key(node.slice, names))
    return UNKNOWN


def _key(node: ast.expr, names: Names) -> Any:
    if not isinstance(node, ast.Slice):
        return value_of(node, names)
    ends = [None if part is None else value_of(part, names) for part in (node.lower, node.upper, node.step)]
    return slice(*ends) if all(end is None or isinstance(end, int) for end in ends) else UNKNOWN


def _dict(node: ast.Dict, names: Names) -> Any:
    found: dict[Any, Any] = {}
    for key, item in zip(node.keys, node.values, strict=True):
        value = value_of(item, names)
        if key is None:
            found.update(value if isinstance(value, dict) else {})
        elif isinstance(key, ast.Constant):
            found[key.value] = value
    return found


def _call(node: ast.Call, names: Names) -> Any:
    if not isinstance(node.func, ast.Name) or node.func.id not in ("dict", "ConfigDict", "list", "tuple"):
        return UNKNOWN
    if node.func.id in ("list", "tuple"):
        inner = value_of(node.args[0], names) if len(node.args) == 1 else UNKNOWN
        return inner if isinstance(inner, (list, tuple)) else UNKNOWN
    found: dict[Any, Any] = {}
    for argument in node.args:
        value = value_of(argument, names)
        found.update(value if isinstance(value, dict) else {})
    for keyword in node.keywords:
        value = value_of(keyword.value, names)
        if keyword.arg is None:
            found.update(value if isinstance(value, dict) else {})
        else:
            found[keyword.arg] = value
    return found


def _arithmetic(node: ast.BinOp, names: Names) -> Any:
    left, right = value_of(node.left, names), value_of(node.right, names)
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
    except (KeyError, IndexError, TypeError, ValueError):
        return UNKNOWN
