"""A configuration as it was read: its values, and the files that it builds on and that were not found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kd3d.errors import DataError

_MAX_ENTRIES = 200_000


@dataclass(frozen=True)
class Settings:
    """Nested settings.

    Args:
        values: what the file says, over what the files say that it builds on.
        missing: the files that it builds on and that are not where it says, as it names them.
    """

    values: dict[str, Any]
    missing: tuple[str, ...] = ()


class Budget:
    """Counts entries, so that a text whose parts repeat each other thousands of times ends in an error, not in hours.

    Args:
        where: the file, for the message.
    """

    def __init__(self, where: str) -> None:
        self._left, self._where = _MAX_ENTRIES, where

    def spend(self, entries: int) -> None:
        """Take note of ``entries`` more.

        Raises:
            DataError: there have been too many.
        """
        self._left -= entries
        if self._left < 0:
            raise DataError(f"{self._where}: has more than {_MAX_ENTRIES} nested entries, which no configuration has.")


def merge(base: dict[str, Any], changes: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Dictionaries entry by entry, unless ``_delete_`` (mmengine's mark) is set; everything else is replaced.

    Raises:
        DataError: the budget is used up.
    """
    budget.spend(1 + len(changes))
    found = dict(base)
    for key, value in changes.items():
        old = found.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not value.get("_delete_"):
            found[key] = merge(old, value, budget)
        else:
            found[key] = {k: v for k, v in value.items() if k != "_delete_"} if isinstance(value, dict) else value
    return found
