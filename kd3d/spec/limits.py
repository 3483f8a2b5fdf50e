"""Sizes that no detector has: a specification beyond them is damaged, and building it would take all memory."""

from __future__ import annotations

from collections.abc import Iterable

from kd3d.errors import SpecError

MOST_CHANNELS = 1 << 14
MOST_LAYERS = 256
MOST_POINTS = 1 << 12  # per pillar or voxel
MOST_ROWS = 1 << 24  # pillars, voxels or candidates of a frame


def at_most(limit: int, **values: int | Iterable[int]) -> None:
    """Require that numbers are at most ``limit``.

    Raises:
        SpecError: one is not; named, with its value.
    """
    for name, value in values.items():
        numbers = (value,) if isinstance(value, int) else tuple(value)
        if any(number > limit for number in numbers):
            raise SpecError(f"{name} must be at most {limit:,}, but is {value}. Restore the specification.")
