"""A search space from the texts of ``--widths``, ``--depths`` and ``--cells``. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kd3d.compress.search.space import Space
from kd3d.errors import UsageError

WIDTHS = ("encoder", "backbone", "neck", "head")


def parse_space(
    widths: Sequence[str] = (), *, depths: str | None = None, cells: str | None = None, base: Space | None = None
) -> Space:
    """``base`` with the axes that are given.

    Args:
        widths: multipliers with commas, of every part (``0.25,0.5,1``) or of one (``backbone=0.25,0.5``).
        depths: shares of each level's further convolutions.
        cells: cell size multipliers.
        base: what the other axes keep; the default space if ``None``.

    Raises:
        UsageError: an unknown part, no values, not numbers, or values out of range.
    """
    found: dict[str, Any] = {}
    for text in widths:
        part, equals, values = text.rpartition("=")
        if equals and part.strip() not in WIDTHS:
            raise UsageError(f"there is no axis {part.strip()!r} in --widths {text}. Use {', '.join(WIDTHS)}.")
        numbers = _numbers(values, "--widths")
        found.update({part.strip(): numbers} if equals else dict.fromkeys(WIDTHS, numbers))
    if depths is not None:
        found["depth"] = _numbers(depths, "--depths")
    if cells is not None:
        found["cell"] = _numbers(cells, "--cells")
    return replace(base or Space(), **found)


def _numbers(text: str, option: str) -> tuple[float, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"{option} {text!r} leaves the search space empty. Give at least one number.")
    try:
        return tuple(dict.fromkeys(float(part) for part in parts))
    except ValueError:
        raise UsageError(f"{option} {text!r} is not understood. Write numbers with commas: 0.25,0.5,1.") from None
