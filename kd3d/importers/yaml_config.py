"""OpenPCDet's configurations (YAML), with the ``_BASE_CONFIG_`` files that can be found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd3d.errors import DataError
from kd3d.optional import require

_MAX_DEPTH, _BASE = 8, "_BASE_CONFIG_"


def read_yaml(path: Path, depth: int = 0) -> dict[str, Any]:
    """The configuration in ``path``; what it says overrides its base.

    OpenPCDet names bases relative to its ``tools`` folder, so they are looked for beside the file, and relative to each
    folder above it. One that is not found adds nothing.

    Raises:
        DataError: the file cannot be read or is not YAML of a dictionary.
        BackendError: PyYAML is not installed.
    """
    yaml = require("yaml", extra="torch")
    path = Path(path)
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}).") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: not a configuration of OpenPCDet, which is a dictionary.")
    return _resolved(value, path, depth)


def _resolved(value: dict[str, Any], path: Path, depth: int) -> dict[str, Any]:
    """Bases are replaced where they occur, also inside (``DATA_CONFIG``)."""
    if depth > _MAX_DEPTH:
        raise DataError(f"{path}: its {_BASE} files go round in a circle.")
    base = value.get(_BASE)
    file = _find(base, path) if isinstance(base, str) else None
    found = read_yaml(file, depth + 1) if file is not None else {}
    for key, item in value.items():
        if key == _BASE:
            continue
        inner = _resolved(item, path, depth + 1) if isinstance(item, dict) else item
        old = found.get(key)
        found[key] = {**old, **_deep(old, inner)} if isinstance(old, dict) and isinstance(inner, dict) else inner
    return found


def _deep(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    made = {}
    for key, item in new.items():
        before = old.get(key)
        both = isinstance(item, dict) and isinstance(before, dict)
        made[key] = {**before, **_deep(before, item)} if both else item  # type: ignore[dict-item, arg-type]
    return made


def _find(base: str, path: Path) -> Path | None:
    folders = [path.parent, *path.resolve().parents]
    places = [folder / base for folder in folders] + [path.parent / Path(base).name]
    return next((place for place in places if place.is_file() and place.resolve() != path.resolve()), None)
