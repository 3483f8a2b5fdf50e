"""Configurations in Python syntax (mmdetection3d, det3d) read as data: parsed, never executed.

Only literals, ``dict(...)``, names assigned before, arithmetic on numbers, and what mm frameworks add (``_base_`` as a
list of files or as ``read_base()``, ``{{_base_.name}}``, ``_base_.name``, ``_delete_``, ``name.update(...)``) have a
value. Anything else is ``UNKNOWN``, and whoever needs it asks the user.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from kd3d.errors import DataError
from kd3d.importers.python_values import UNKNOWN, Names, value_of
from kd3d.importers.settings import Budget, Settings, merge

_MAX_DEPTH, _MAX_TEXT, _BASE = 8, 4_000_000, "_base_"


def read_python(path: Path) -> Settings:
    """The assignments of a configuration file, over those of the files that it builds on.

    Files are looked for relative to the one that names them, as mmengine does.

    Raises:
        DataError: a file cannot be read, is not Python syntax, or the files go round in a circle.
    """
    path = Path(path)
    try:
        return _read(path, 0, Budget(str(path)))
    except RecursionError as error:
        raise DataError(f"{path}: its settings are nested too deeply to be a configuration.") from error


def parse_python(text: str, where: str) -> dict[str, Any]:
    """The top-level assignments of ``text``, which builds on nothing.

    Raises:
        DataError: it is not Python syntax, or too long.
    """
    return _assignments(_parsed(text, where), {}, Budget(where))


def _read(path: Path, depth: int, budget: Budget) -> Settings:
    if depth > _MAX_DEPTH:
        raise DataError(f"{path}: its {_BASE} files go round in a circle.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}).") from error
    tree = _parsed(text, str(path))
    inherited: dict[str, Any] = {}
    missing: list[str] = []
    for named, file in _bases(tree, path):
        if file.is_file():
            base = _read(file, depth + 1, budget)
            inherited = merge(inherited, base.values, budget)
            missing += base.missing
        else:
            missing.append(named)
    found = _assignments(tree, inherited, budget)
    return Settings(merge(inherited, found, budget), tuple(dict.fromkeys(missing)))


def _parsed(text: str, where: str) -> ast.Module:
    if len(text) > _MAX_TEXT:
        raise DataError(f"{where}: a configuration of {len(text)} characters is not one.")
    text = re.sub(
        r"(['\"]?)\{\{\s*(_base_[\w.]*)\s*\}\}\1", r"\2", text
    )  # mmengine fills it in before it runs the text
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{where}: not a configuration in Python syntax ({error}).") from error


def _bases(tree: ast.Module, path: Path) -> list[tuple[str, Path]]:
    """The files that a configuration builds on: how it names them, and where they are."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == _BASE for t in node.targets):
            told = value_of(node.value, {})
            named = [told] if isinstance(told, str) else told if isinstance(told, (list, tuple)) else []
            found += [(name, path.parent / name) for name in named if isinstance(name, str)]
        elif isinstance(node, ast.With) and _is_read_base(node):
            found += [_module_file(inner, path) for inner in node.body if isinstance(inner, ast.ImportFrom)]
    return found


def _is_read_base(node: ast.With) -> bool:
    call = node.items[0].context_expr
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "read_base"


def _module_file(node: ast.ImportFrom, path: Path) -> tuple[str, Path]:
    """``from .._base_.models.x import *`` within ``read_base()`` names a file."""
    parts = (node.module or "").split(".")
    folder = path.parent
    for _ in range(node.level - 1):
        folder = folder.parent
    file = folder.joinpath(*parts).with_suffix(".py") if node.level else Path(node.module or "")
    return f"{'.' * node.level}{node.module or ''}", file


def _assignments(tree: ast.Module, inherited: Names, budget: Budget) -> dict[str, Any]:
    names: dict[str, Any] = {}
    known: dict[str, Any] = {_BASE: inherited}  # what expressions see: also the bases' names, which mmengine imports
    for node in tree.body:
        try:
            _apply(node, names, {**inherited, **known, **names}, budget)
        except RecursionError:
            continue
        if isinstance(node, ast.ImportFrom):  # types are classes in the newer style: their names say enough
            known.update({(alias.asname or alias.name): alias.name for alias in node.names})
    return names


def _apply(node: ast.stmt, names: dict[str, Any], known: Names, budget: Budget) -> None:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id != _BASE:  # which means the inherited names from then on
                names[target.id] = UNKNOWN
                names[target.id] = value_of(node.value, known)
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)) and isinstance(node.target, ast.Name):
        names[node.target.id] = UNKNOWN
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            names[node.target.id] = value_of(node.value, known)
    elif isinstance(node, ast.Expr):
        _update(node.value, names, known, budget)


def _update(node: ast.expr, names: dict[str, Any], known: Names, budget: Budget) -> None:
    """``model.update(dict(...))`` or ``merge``, as configurations with ``read_base()`` change what they inherit."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 1):
        return
    owner, change = node.func.value, value_of(node.args[0], known)
    if not isinstance(owner, ast.Name) or node.func.attr not in ("update", "merge"):
        return
    before = known.get(owner.id)
    if isinstance(before, dict) and isinstance(change, dict):
        names[owner.id] = merge(before, change, budget)
    else:
        names[owner.id] = UNKNOWN
