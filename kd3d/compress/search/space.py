"""The students that a teacher has: narrower, shallower, on larger cells. Every one is a frozen specification."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from kd3d.errors import SpecError, UsageError
from kd3d.geometry.grid import BevGrid
from kd3d.spec import AnchorHeadSpec, CenterHeadSpec, DetectorSpec, PillarEncoderSpec, VoxelEncoderSpec

CHANNEL_MULTIPLE = 8  # vector units and tensor cores work on whole eights
RANGE_CHANGE = 0.02  # how far a coarser grid may shrink or grow to hold whole cells


@dataclass(frozen=True)
class Choice:
    """One point of a space, relative to the teacher.

    Args:
        encoder, backbone, neck, head: width multipliers.
        layers: further convolutions per level.
        cell: cell size multiplier.
        blocks: submanifold blocks per sparse stage; empty for those of the teacher.
    """

    encoder: float = 1.0
    backbone: float = 1.0
    neck: float = 1.0
    head: float = 1.0
    layers: tuple[int, ...] = ()
    cell: float = 1.0
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Space:
    """What may vary.

    Args:
        encoder, backbone, neck, head: width multipliers tried, at most 1; an anchor head has no width.
        depth: shares of each level's further convolutions tried, rounded; each level on its own. Of a voxel encoder's
            blocks the same share in every stage, and at least one block where the teacher has some.
        cell: cell size multipliers tried, at least 1; those that do not tile the range are left out.
        multiple: channels are multiples of this (where the teacher has that many).
    """

    encoder: tuple[float, ...] = (0.5, 1.0)
    backbone: tuple[float, ...] = (0.25, 0.375, 0.4375, 0.5, 0.5625, 0.625, 0.75, 1.0)
    neck: tuple[float, ...] = (0.25, 0.375, 0.5, 0.75, 1.0)
    head: tuple[float, ...] = (0.25, 0.375, 0.5, 0.75, 1.0)
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
        heads = self.head if isinstance(teacher.head, CenterHeadSpec) else (1.0,)  # anchors have no width of their own
        widths = list(product(self.encoder, self.backbone, self.neck, heads))
        deep = list(product(product(*depths), self._blocks(teacher)))
        for (encoder, backbone, neck, head), cell, (layers, blocks) in product(widths, cells, deep):
            yield Choice(encoder, backbone, neck, head, layers, cell, blocks)

    def _blocks(self, teacher: DetectorSpec) -> list[tuple[int, ...]]:
        """Blocks per sparse stage; one empty choice where there are none, or where only the teacher's are tried."""
        if not isinstance(teacher.encoder, VoxelEncoderSpec):
            return [()]
        whole = teacher.encoder.blocks
        made = {tuple(max(min(1, count), round(share * count)) for count in whole) for share in self.depth}
        return [() if blocks == whole else blocks for blocks in sorted(made, reverse=True)]


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
            f"backbone's stride {_stride(teacher)}. Leave {choice.cell:g} out of the cell sizes."
        )

    def narrow(width: int, factor: float) -> int:
        return min(width, max(multiple, math.floor(width * factor / multiple + 0.5) * multiple))

    backbone, head = teacher.backbone, teacher.head
    return replace(
        teacher,
        name=f"{teacher.name}{_suffix(choice)}",
        grid=grid,
        encoder=_encoder(teacher.encoder, choice, narrow),
        backbone=replace(
            backbone,
            layers=choice.layers or backbone.layers,
            channels=tuple(narrow(width, choice.backbone) for width in backbone.channels),
            up_channels=tuple(narrow(width, choice.neck) for width in backbone.up_channels),
        ),
        head=head if isinstance(head, AnchorHeadSpec) else _head(head, choice, narrow),
    )


def _head(head: CenterHeadSpec, choice: Choice, narrow: Callable[[int, float], int]) -> CenterHeadSpec:
    shared, branch = (narrow(width, choice.head) for width in (head.shared_channels, head.branch_channels))
    return replace(head, shared_channels=shared, branch_channels=branch)


def _encoder(
    encoder: PillarEncoderSpec | VoxelEncoderSpec, choice: Choice, narrow: Callable[[int, float], int]
) -> PillarEncoderSpec | VoxelEncoderSpec:
    points = encoder.max_points
    if choice.cell != 1:
        points = 2 * math.ceil(points * (1.5 * choice.cell - 0.5) / 2)
    if isinstance(encoder, PillarEncoderSpec):
        filters = tuple(_even(narrow(width, choice.encoder)) for width in encoder.filters)
        return replace(encoder, filters=filters, max_points=points)
    return replace(
        encoder,
        channels=tuple(narrow(width, choice.encoder) for width in encoder.channels),
        input_channels=narrow(encoder.input_channels, choice.encoder),
        out_channels=narrow(encoder.out_channels, choice.encoder),
        blocks=choice.blocks or encoder.blocks,
        max_points=points,
    )


def _even(width: int) -> int:
    return width + width % 2 if width < 2 else width - width % 2


def _suffix(choice: Choice) -> str:
    parts = {"e": choice.encoder, "b": choice.backbone, "n": choice.neck, "h": choice.head, "c": choice.cell}
    named = "".join(f"-{key}{value:g}" for key, value in parts.items() if value != 1)
    named += f"-d{'.'.join(map(str, choice.layers))}" if choice.layers else ""
    return named + (f"-s{'.'.join(map(str, choice.blocks))}" if choice.blocks else "")


def _stride(teacher: DetectorSpec) -> int:
    """Grid cells per cell of the coarsest map; a grid must be a multiple of it."""
    return teacher.encoder.stride * teacher.backbone.total_stride


def _coarser(teacher: DetectorSpec, factor: float) -> BevGrid | None:
    """The teacher's grid with ``factor`` times its cell, or ``None`` where no whole number of cells is near."""
    grid, stride = teacher.grid, _stride(teacher)
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
