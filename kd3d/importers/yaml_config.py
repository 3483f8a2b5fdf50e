"""OpenPCDet's configurations (YAML), with the ``_BASE_CONFIG_`` files that they build on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd3d.errors import DataError
from kd3d.importers.settings import Budget, Settings, merge
from kd3d.optional import require

_MAX_DEPTH, _BASE = 8, "_BASE_CONFIG_"


def read_yaml(path: Path) -> Settings:
    """The configuration in ``path``; what it says overrides its bases.

    OpenPCDet names bases relative to its ``tools`` folder, so they are looked for beside the file, and relative to each
    folder above it.

    Raises:
        DataError: a file cannot be read or is not YAML of a dictionary, or the files go round in a circle.
        BackendError: PyYAML is not installed.
    """
    path = Path(path)
    missing: list[str] = []
    try:
        values = _Reader(missing, Budget(str(path))).read(path, 0)
    except RecursionError as error:
        raise DataError(f"{path}: its settings are nested too deeply to be a configuration.") from error
    return Settings(values, tuple(dict.fromkeys(missing)))


class _Reader:
    """One reading: what was missing so far, and how much was read."""

    def __init__(self, missing: list[str], budget: Budget) -> None:
        self._missing, self._budget = missing, budget

    def read(self, path: Path, depth: int) -> dict[str, Any]:
        yaml = require("yaml", extra="torch")
        try:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as text ({error}).") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: not YAML ({' '.join(str(error).split())}).") from error
        if not isinstance(value, dict):
            raise DataError(f"{path}: not a configuration of OpenPCDet, which is a dictionary.")
        return self._resolved(value, path, depth)

    def _resolved(self, value: dict[str, Any], path: Path, depth: int) -> dict[str, Any]:
        """Bases are replaced where they occur, also inside (``DATA_CONFIG``)."""
        if depth > _MAX_DEPTH:
            raise DataError(f"{path}: its {_BASE} files go round in a circle.")
        self._budget.spend(1 + len(value))
        own = {
            key: self._resolved(item, path, depth) if isinstance(item, dict) else item
            for key, item in value.items()
            if key != _BASE
        }
        base = value.get(_BASE)
        if not isinstance(base, str):
            return own
        file = _find(base, path)
        if file is None:
            self._missing.append(base)
            return own
        return merge(self.read(file, depth + 1), own, self._budget)


def _find(base: str, path: Path) -> Path | None:
    folders = [path.parent, *path.resolve().parents]
    places = [folder / base for folder in folders] + [path.parent / Path(base).name]
    return next((place for place in places if place.is_file() and place.resolve() != path.resolve()), None)
