"""What a detector costs, from its specification alone: exactly what a counter finds on the built network. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from kd3d.compress.inherit.layers import Key, Layer, branch_layers, canvas_source, encoder_layers, trunk_layers
from kd3d.compress.search.cost_sparse import SparseStats, Step, sparse_steps
from kd3d.compress.search.stats import PillarStats, StatsTable, measure_stats
from kd3d.errors import UsageError
from kd3d.spec import CenterHeadSpec, DetectorSpec, VoxelEncoderSpec

Stats: TypeAlias = "PillarStats | SparseStats"
__all__ = ["Cost", "PillarStats", "SparseStats", "StageCost", "Stats", "StatsTable", "cost", "measure_stats"]


@dataclass(frozen=True)
class StageCost:
    """One stage: ``encoder``, ``level0`` ..., ``up0`` ..., ``shared``, ``task0`` ...; fields as in ``Cost``.

    Voxel detectors have ``voxel_input``, ``voxel0`` ... and ``voxel_out`` for ``encoder``, anchor heads ``head``.
    """

    name: str
    params: int
    macs: int
    macs_thop: int
    acts: int
    weight_elements: int = 0
    read_elements: int = 0
    written_elements: int = 0


@dataclass(frozen=True)
class Cost:
    """A detector's cost per frame.

    Args:
        params: trainable parameters, normalisation included.
        macs: physical multiply-accumulates of convolutions, transposed convolutions and linear layers; biases and
            normalisation 0. Unused point slots of a ``hard`` encoder are computed and so counted. A sparse convolution
            counts its kernel map: one per pair of sites, input channel and output channel.
        macs_thop: the convention of the SparseKD tables: a transposed convolution counts its
            whole kernel for every output element, a bias one and normalisation two per element.
        acts: output elements of those layers.
        stages: the same per stage.
        weight_elements: numbers stored when normalisation is folded into the layer before it, as exports do.
        read_elements: what the layers read, each once: their inputs and their weights.
        written_elements: what they write, each once: ``acts``, and the BEV map into which the encoder scatters.
        peak_elements: most layer inputs and outputs alive at once, layers run in the order of the stages. Concatenation
            and activation are in place.
    """

    params: int
    macs: int
    macs_thop: int
    acts: int
    stages: tuple[StageCost, ...]
    weight_elements: int = 0
    read_elements: int = 0
    written_elements: int = 0
    peak_elements: int = 0

    def weight_bytes(self, bits: int = 16) -> int:
        """Memory of the weights with ``bits`` per number, normalisation folded."""
        return _bytes(self.weight_elements, bits)

    def peak_activation_bytes(self, bits: int = 16) -> int:
        """Memory of the activations alive at once with ``bits`` per number: what any runtime needs at least."""
        return _bytes(self.peak_elements, bits)


def cost(spec: DetectorSpec, stats: Stats) -> Cost:
    """Cost per frame of the network of ``spec`` on data with ``stats``.

    Raises:
        UsageError: ``stats`` are of pillars and the detector has voxels, or the reverse.
    """
    steps = [*_encoder_steps(spec, stats), *_dense_steps(spec)]
    stages: dict[str, list[tuple[int, ...]]] = {}
    for step in steps:
        stages.setdefault(step.stage, []).append(step.counts)
    rows = [(name, [sum(column) for column in zip(*parts, strict=True)]) for name, parts in stages.items()]
    params, macs, thop, acts, weights, read, written = (
        sum(column) for column in zip(*(r for _, r in rows), strict=True)
    )
    return Cost(
        params, macs, thop, acts, tuple(StageCost(name, *row) for name, row in rows),
        weight_elements=weights, read_elements=read, written_elements=written, peak_elements=_peak(steps),
    )  # fmt: skip


def _bytes(elements: int, bits: int) -> int:
    if bits < 1:
        raise UsageError(f"bits per number must be at least 1, not {bits}.")
    return -(-elements * bits // 8)


def _encoder_steps(spec: DetectorSpec, stats: Stats) -> Iterator[Step]:
    """The encoder's layers; the last one's output is the BEV map that it scatters into."""
    voxels = isinstance(spec.encoder, VoxelEncoderSpec)
    if voxels != isinstance(stats, SparseStats):
        needed, given = ("SparseStats", "pillars") if voxels else ("PillarStats", "voxels")
        raise UsageError(f"the cost of {spec.name} needs {needed}; the statistics given are of {given}.")
    canvas = spec.bev_channels * (spec.grid.nx // spec.encoder.stride) * (spec.grid.ny // spec.encoder.stride)
    if isinstance(spec.encoder, VoxelEncoderSpec):
        assert isinstance(stats, SparseStats)
        yield from sparse_steps(spec.encoder, spec.point_inputs, stats, canvas=canvas)
        return
    assert isinstance(stats, PillarStats)
    rows = stats.points if spec.encoder.mode == "dynamic" else stats.pillars * spec.encoder.max_points
    last = canvas_source(spec)
    for layer in encoder_layers(spec):
        step = _step("encoder", layer, rows, rows)
        if layer.key == last:
            *counts, written = step.counts
            step = step._replace(counts=(*counts, written + canvas), kept=step.kept + canvas)
        yield step


def _dense_steps(spec: DetectorSpec) -> Iterator[Step]:
    stride = spec.encoder.stride
    cells = []
    for step in spec.backbone.strides:
        stride *= step
        cells.append((spec.grid.nx // stride) * (spec.grid.ny // stride))
    out = spec.encoder.stride * spec.backbone.out_stride
    neck = (spec.grid.nx // out) * (spec.grid.ny // out)
    source = (spec.grid.nx // spec.encoder.stride) * (spec.grid.ny // spec.encoder.stride)
    for layer in trunk_layers(spec):
        kind = layer.key[0]
        if kind not in ("level", "up"):
            yield _step(str(kind), layer, neck, neck)
            continue
        level = layer.key[1]
        assert isinstance(level, int)
        if kind == "level":
            yield _step(f"level{level}", layer, cells[level], source)
            source = cells[level]
        else:
            yield _step(f"up{level}", layer, neck, cells[level])
    if isinstance(spec.head, CenterHeadSpec):
        yield from _branch_steps(spec.head, neck)


@lru_cache(maxsize=1024)  # a search meets the same heads again and again, and they have most of the layers
def _branch_steps(head: CenterHeadSpec, cells: int) -> tuple[Step, ...]:
    return tuple(_step(f"task{layer.key[1]}", layer, cells, cells) for layer in branch_layers(head))


def _step(stage: str, layer: Layer, positions: float, read_positions: float) -> Step:
    """One layer's counts.

    Args:
        stage: its stage.
        layer: what to count.
        positions: of its output: cells, or points.
        read_positions: of its input.
    """
    read = sum(piece.width for piece in layer.pieces)
    taps = layer.kernel**2
    normed = layer.norm is not None
    elements = round(positions * layer.out)
    weights = layer.out * read * taps
    extra = layer.bias + 2 * normed
    # A transposed convolution whose stride equals its kernel writes each output element with one kernel tap.
    macs = round(positions * layer.out * read * (1 if layer.kind == "deconv" else taps))
    thop = round(positions * layer.out * (read * taps + extra))
    stored = weights + layer.out * (layer.bias or normed)
    counts = (
        weights + layer.out * extra,
        macs,
        thop,
        elements,
        stored,
        round(read_positions * read) + stored,
        elements,
    )
    return Step(stage, layer.key, counts, elements, tuple(piece.source for piece in layer.pieces))


def _peak(steps: list[Step]) -> int:
    """Most elements alive at once: a tensor lives from its layer to its last reader, one without readers to the end."""
    last: dict[Key, int] = {key: index for index, step in enumerate(steps) for key in step.sources}
    alive: dict[Key, int] = {}
    total = peak = 0
    for index, step in enumerate(steps):
        alive[step.key] = step.kept
        total += step.kept
        peak = max(peak, total)
        for key in set(step.sources):
            if last[key] == index:
                total -= alive.pop(key, 0)
    return peak
