"""A detector as the blocks that latency is measured on: encoder with scatter, each level, each up branch, the head.

A level is one block, because a runtime keeps its own memory layout between convolutions and pays for the change of
layout only where a chain begins and ends. Encoders are of pillars; heads are centre or anchor heads. No torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from kd3d.compress.search.space import Space, scaled
from kd3d.compress.search.stats import PillarStats
from kd3d.spec import AnchorHeadSpec, DetectorSpec

BlockKind = Literal["encoder", "level", "up", "head"]
Value = int | float | str | tuple[int, ...]
KINDS: tuple[BlockKind, ...] = ("encoder", "level", "up", "head")
DTYPE = "float32"
LANES = 16  # channels that a vector register or a tensor core takes at once


@dataclass(frozen=True)
class Block:
    """One block.

    Args:
        kind: see ``KINDS``.
        fixed: what must agree for two blocks to be compared: grid, stride, number of layers.
        widths: what may differ within a family: channels, pillars.
        macs: multiply-accumulates per frame.
        macs_padded: the same with all channels rounded up to whole sixteens, as vector units compute them.
        elements: activations that its layers read and write per frame.
    """

    kind: BlockKind
    fixed: tuple[tuple[str, Value], ...]
    widths: tuple[tuple[str, Value], ...]
    macs: int
    macs_padded: int
    elements: int

    @property
    def family(self) -> str:
        """All but the widths, for people: ``level 128x128 stride 2 further 3``."""
        return _family(self.kind, self.fixed)

    @property
    def key(self) -> str:
        """Hash of what it computes: kind, grid, stride, layers, channels, pillars, element type."""
        return _key((self.kind, self.fixed, self.widths))

    @property
    def graph_key(self) -> str:
        """The same without the number of pillars, which is free in the graph."""
        return _key((self.kind, self.fixed, tuple(item for item in self.widths if item[0] != "pillars")))

    def values(self) -> dict[str, Any]:
        """``fixed`` and ``widths`` by name."""
        return dict((*self.fixed, *self.widths))


@lru_cache(maxsize=65536)
def _key(parts: object) -> str:
    return hashlib.sha256(json.dumps([parts, DTYPE]).encode()).hexdigest()[:16]


@lru_cache(maxsize=65536)
def _family(kind: str, fixed: tuple[tuple[str, Value], ...]) -> str:
    values = dict(fixed)
    rest = [f"{name} {value}" for name, value in fixed if name not in ("ny", "nx")]
    return " ".join([kind, f"{values['ny']}x{values['nx']}", *rest])


def _padded(width: int) -> int:
    return -(-width // LANES) * LANES


def grid_key(spec: DetectorSpec) -> str:
    """What the number of pillars depends on, besides the data."""
    grid, encoder = spec.grid, spec.pillar_encoder
    return f"{grid.ny}x{grid.nx} of {grid.cell_m:g} m, {encoder.max_pillars} pillars at most"


def rows(stats: PillarStats) -> int:
    """Pillars as blocks count them: two significant digits, so that close data sets share a block."""
    count = max(1.0, stats.pillars)
    digits = len(str(int(count))) - 2
    return max(1, int(round(count, -digits) if digits > 0 else round(count)))


def blocks(spec: DetectorSpec, pillars: int) -> tuple[Block, ...]:
    """The blocks of the network of ``spec`` for frames of ``pillars`` pillars, in the order of the data."""
    return (_encoder(spec, pillars), *_levels(spec), _head(spec))


def _encoder(spec: DetectorSpec, pillars: int) -> Block:
    encoder, grid = spec.pillar_encoder, spec.grid
    slots = pillars * encoder.max_points
    macs = padded = elements = 0
    read, last = spec.point_inputs, len(encoder.filters) - 1
    for index, width in enumerate(encoder.filters):
        out = width if index == last else width // 2
        macs += slots * read * out
        padded += slots * _padded(read) * _padded(out)
        elements += slots * (read + out)
        read = width
    # The canvas is cleared, cut and turned from channels-last.
    elements += 3 * grid.nx * grid.ny * encoder.filters[-1] + 2 * pillars * encoder.filters[-1]
    fixed = (
        ("ny", grid.ny),
        ("nx", grid.nx),
        ("inputs", spec.point_inputs),
        ("mode", encoder.mode),
        ("layers", len(encoder.filters)),
    )
    widths = (("filters", encoder.filters), ("points", encoder.max_points), ("pillars", pillars))
    return Block("encoder", fixed, widths, macs, padded, elements)


def _levels(spec: DetectorSpec) -> Iterator[Block]:
    backbone = spec.backbone
    width, ny, nx = spec.pillar_encoder.filters[-1], spec.grid.ny, spec.grid.nx
    ups = []
    for stride, further, out, up, raised in zip(
        backbone.strides, backbone.layers, backbone.channels, backbone.up_strides, backbone.up_channels, strict=True
    ):
        yield _level(ny, nx, stride=stride, further=further, widths=(width, out))
        ny, nx, width = ny // stride, nx // stride, out
        ups.append(_up(ny, nx, stride=up, widths=(out, raised)))
    yield from ups


def _level(ny: int, nx: int, *, stride: int, further: int, widths: tuple[int, int]) -> Block:
    read, out = widths
    cells = (ny // stride) * (nx // stride)
    return Block(
        "level",
        (("ny", ny), ("nx", nx), ("stride", stride), ("further", further)),
        (("read", read), ("out", out)),
        cells * 9 * out * (read + further * out),
        cells * 9 * _padded(out) * (_padded(read) + further * _padded(out)),
        ny * nx * read + cells * out * (1 + 2 * further),
    )


def _up(ny: int, nx: int, *, stride: float, widths: tuple[int, int]) -> Block:
    read, out = widths
    size = round(stride if stride >= 1 else 1 / stride)
    written = ny * nx * size**2 if stride >= 1 else (ny // size) * (nx // size)
    taps = 1 if stride >= 1 else size**2
    return Block(
        "up",
        (("ny", ny), ("nx", nx), ("stride", stride)),
        (("read", read), ("out", out)),
        written * read * out * taps,
        written * _padded(read) * _padded(out) * taps,
        ny * nx * read + written * out,
    )


def _head(spec: DetectorSpec) -> Block:
    return _anchor_head(spec, spec.head) if isinstance(spec.head, AnchorHeadSpec) else _center_head(spec)


def _anchor_head(spec: DetectorSpec, head: AnchorHeadSpec) -> Block:
    grid, read = spec.output_grid, spec.backbone.up_channels
    cells, maps = grid.nx * grid.ny, tuple(channels for _, channels in head.maps)
    return Block(
        "head",
        (("ny", grid.ny), ("nx", grid.nx), ("branches", len(read)), ("anchors", maps)),
        (("read", read),),
        cells * sum(read) * sum(maps),
        cells * _padded(sum(read)) * sum(map(_padded, maps)),
        cells * ((2 + len(maps)) * sum(read) + sum(maps)),
    )


def _center_head(spec: DetectorSpec) -> Block:
    head, grid, read = spec.center_head, spec.output_grid, spec.backbone.up_channels
    cells = grid.nx * grid.ny
    tasks = [[*(width for _, width in head.branches), len(classes)] for classes in head.tasks]
    branches, outputs = sum(map(len, tasks)), sum(map(sum, tasks))
    shared, hidden = head.shared_channels, head.branch_channels
    fixed: tuple[tuple[str, Value], ...] = (("ny", grid.ny), ("nx", grid.nx), ("branches", len(read)))
    fixed += tuple((f"task{index}", tuple(widths)) for index, widths in enumerate(tasks))
    elements = cells * (3 * sum(read) + shared + branches * (shared + 2 * hidden) + outputs)
    macs = cells * 9 * (sum(read) * shared + branches * shared * hidden + hidden * outputs)
    wide, deep, ends = _padded(shared), _padded(hidden), sum(_padded(width) for widths in tasks for width in widths)
    padded = cells * 9 * (_padded(sum(read)) * wide + branches * wide * deep + deep * ends)
    return Block("head", fixed, (("read", read), ("shared", shared), ("hidden", hidden)), macs, padded, elements)


@dataclass(frozen=True)
class SpaceBlocks:
    """Distinct blocks of a space, and how many pillars each of its grids gets."""

    blocks: tuple[Block, ...]
    pillars: Mapping[str, int]


def space_blocks(
    teacher: DetectorSpec, space: Space, *, stats: Callable[[DetectorSpec], PillarStats], limit: int = 600
) -> SpaceBlocks:
    """The distinct blocks of ``space`` and of ``teacher``; encoders also at half and twice the pillars.

    Args:
        teacher: whose students they are.
        space: what may vary.
        stats: pillar statistics of the data for a specification.
        limit: about how many blocks; families are thinned evenly in MACs, ends kept, where there are more.
    """
    found: dict[str, Block] = {}
    pillars: dict[str, int] = {}
    seen: set[object] = set()
    for spec in (teacher, *(scaled(teacher, choice, multiple=space.multiple) for choice in space.choices(teacher))):
        shape = (spec.grid, spec.pillar_encoder, spec.backbone, spec.head)
        if shape in seen:
            continue
        seen.add(shape)
        grid = grid_key(spec)
        if grid not in pillars:
            pillars[grid] = rows(stats(spec))
        for count in (pillars[grid], max(1, pillars[grid] // 2), pillars[grid] * 2):
            block = _encoder(spec, min(count, spec.grid.nx * spec.grid.ny))
            found.setdefault(block.key, block)
        for block in blocks(spec, pillars[grid])[1:]:
            found.setdefault(block.key, block)
    return SpaceBlocks(tuple(thinned(list(found.values()), limit)), pillars)


def thinned(found: list[Block], limit: int) -> list[Block]:
    """About ``limit`` of ``found``: the same number of every family, spread evenly over its MACs."""
    families: dict[str, list[Block]] = {}
    for block in found:
        families.setdefault(block.family, []).append(block)
    each = max(4, limit // max(1, len(families)))
    kept = []
    for members in families.values():
        ordered = sorted(members, key=lambda block: (block.macs, block.elements, block.key))
        if len(found) > limit and len(ordered) > each:
            last = len(ordered) - 1
            ordered = [ordered[round(place * last / (each - 1))] for place in range(each)]
        kept += ordered
    return kept
