"""The students that a teacher has: narrower, shallower, on larger cells. Every one is a frozen specification."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from kd3d.errors import SpecError, UsageError
from kd3d.geometry.grid import BevGrid
from kd3d.spec import DetectorSpec

CHANNEL_MULTIPLE = 8  # vector units and tensor cores work on whole eights
RANGE_CHANGE = 0.02  # how far a coarser grid may shrink or grow to hold whole cells


@dataclass(frozen=True)
class Choice:
    """One point of a space, relative to the teacher.

    Args:
        encoder, backbone, neck, head: width multipliers.
        layers: further convolutions per level.
        cell: cell size multiplier.
    """

    encoder: float = 1.0
    backbone: float = 1.0
    neck: float = 1.0
    head: float = 1.0
    layers: tuple[int, ...] = ()
    cell: float = 1.0


@dataclass(frozen=True)
class Space:
    """What may vary.

    Args:
        encoder, backbone, neck, head: width multipliers tried, at most 1.
        depth: shares of each level's further convolutions tried, rounded; each level on its own.
        cell: cell size multipliers tried, at least 1; those that do not tile the range are left out.
        multiple: channels are multiples of this (where the teacher has that many).
    """

    encoder: tuple[float, ...] = (0.5, 1.0)
    backbone: tuple[float, ...] = (0.25, 0.375, 0.5, 0.625, 0.75, 1.0)
    neck: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    head: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    depth: tuple[float, ...] = (0.5, 1.0)
    cell: tuple[float, ...] = (1.0, 1.25, 1.5, 2.0)
    multiple: int = CHANNEL_MULTIPLE

    def __post_init__(self) -> None:
        for name in ("encoder", "backbone", "neck", "head", "depth", "cell"):
            values = getattr(self, name)
            if not values:
                raise UsageError(f"the search space has no values for {name}.")
            low, high = (1, 8) if name == "cell" else (0, 1)
            if not all(low <= value <= high for value in values) or (name != "depth" and min(values) <= 0):
                raise UsageError(f"the {name} multipliers of the search space must lie in {low}..{high}; got {values}.")
        if self.multiple < 1:
            raise UsageError(f"channels must be multiples of at least 1, not {self.multiple}.")

    def choices(self, teacher: DetectorSpec) -> Iterator[Choice]:
        """All points, in a fixed order. Depths that round to the same number of layers occur once."""
        depths = [
            sorted({round(share * layers) for share in self.depth}, reverse=True) for layers in teacher.backbone.layers
        ]
        cells = [cell for cell in self.cell if _coarser(teacher, cell) is not None]
        widths = list(product(self.encoder, self.backbone, self.neck, self.head))
        for (encoder, backbone, neck, head), cell, layers in product(widths, cells, list(product(*depths))):
            yield Choice(encoder, backbone, neck, head, layers, cell)


def scaled(teacher: DetectorSpec, choice: Choice, *, multiple: int = CHANNEL_MULTIPLE) -> DetectorSpec:
    """The student of ``teacher`` at ``choice``.

    A larger cell keeps the range where whole cells allow it (else the nearest range that does), and gets more points
    per pillar, as SparseKD's students do (20, 28, 36, 50 points at 1, 1.25, 1.5, 2 times the cell).

    Raises:
        UsageError: the cell does not fit the range and the strides.
    """
    grid = _coarser(teacher, choice.cell)
    if grid is None:
        raise UsageError(
            f"cells of {choice.cell:g} x {teacher.grid.cell_m:g} m cannot tile the range in multiples of the "
            f"backbone's stride {teacher.backbone.total_stride}. Leave {choice.cell:g} out of the cell sizes."
        )

    def narrow(width: int, factor: float) -> int:
        return min(width, max(multiple, math.floor(width * factor / multiple + 0.5) * multiple))

    encoder, backbone, head = teacher.pillar_encoder, teacher.backbone, teacher.center_head
    points = (
        encoder.max_points if choice.cell == 1 else 2 * math.ceil(encoder.max_points * (1.5 * choice.cell - 0.5) / 2)
    )
    return replace(
        teacher,
        name=f"{teacher.name}{_suffix(choice)}",
        grid=grid,
        encoder=replace(
            encoder, filters=tuple(_even(narrow(width, choice.encoder)) for width in encoder.filters), max_points=points
        ),
        backbone=replace(
            backbone,
            layers=choice.layers or backbone.layers,
            channels=tuple(narrow(width, choice.backbone) for width in backbone.channels),
            up_channels=tuple(narrow(width, choice.neck) for width in backbone.up_channels),
        ),
        head=replace(
            head,
            shared_channels=narrow(head.shared_channels, choice.head),
            branch_channels=narrow(head.branch_channels, choice.head),
        ),
    )


def _even(width: int) -> int:
    return width + width % 2 if width < 2 else width - width % 2


def _suffix(choice: Choice) -> str:
    parts = {"e": choice.encoder, "b": choice.backbone, "n": choice.neck, "h": choice.head, "c": choice.cell}
    named = "".join(f"-{key}{value:g}" for key, value in parts.items() if value != 1)
    return named + (f"-d{'.'.join(map(str, choice.layers))}" if choice.layers else "")


def _coarser(teacher: DetectorSpec, factor: float) -> BevGrid | None:
    """The teacher's grid with ``factor`` times its cell, or ``None`` where no whole number of cells is near."""
    grid, stride = teacher.grid, teacher.backbone.total_stride
    if factor == 1:
        return grid
    cell = round(grid.cell_m * factor, 9)
    edges = []
    for low, high in ((grid.x_min_m, grid.x_max_m), (grid.y_min_m, grid.y_max_m)):
        size = max(1, math.floor((high - low) / cell / stride + 0.5)) * stride * cell
        if abs(size - (high - low)) > RANGE_CHANGE * (high - low):
            return None
        start = low if low == 0 else (low + high - size) / 2  # a range ahead of the car keeps its start
        edges.append((round(start, 9), round(start + size, 9)))
    (x_min, x_max), (y_min, y_max) = edges
    try:
        return replace(grid, x_min_m=x_min, x_max_m=x_max, y_min_m=y_min, y_max_m=y_max, cell_m=cell)
    except SpecError:
        return None
