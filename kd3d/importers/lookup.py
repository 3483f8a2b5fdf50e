"""Reading nested settings without trusting their types."""

from __future__ import annotations

import math
from typing import Any


def at(value: Any, *path: str) -> Any:
    """The entry at ``path`` in nested dictionaries, or ``None``."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def numbers(value: Any, count: int | None = None) -> tuple[float, ...] | None:
    """A list of finite numbers, of ``count`` where given."""
    if not isinstance(value, (list, tuple)) or not value or (count is not None and len(value) != count):
        return None
    return tuple(float(item) for item in value) if all(number(item) is not None for item in value) else None


def number(value: Any) -> float | None:
    """A finite number; true and false are none."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def whole(value: Any) -> int | None:
    """A whole number."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def wholes(value: Any) -> tuple[int, ...] | None:
    """A list of whole numbers."""
    found = numbers(value)
    return tuple(map(int, found)) if found is not None and all(item == int(item) for item in found) else None


def words(value: Any) -> tuple[str, ...] | None:
    """A list of words."""
    good = isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value)
    return tuple(value) if good else None


def text(value: Any) -> str:
    """A word, or an empty one."""
    return value if isinstance(value, str) else ""


def flag(value: Any) -> bool | None:
    """True, false, or neither."""
    return value if isinstance(value, bool) else None
