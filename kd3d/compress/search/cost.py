"""What a detector costs, from its specification alone: exactly what a counter finds on the built network. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from kd3d.compress.inherit.layers import Layer, layers
from kd3d.compress.search.stats import PillarStats, StatsTable, measure_stats
from kd3d.spec import DetectorSpec

_Counts = tuple[int, int, int, int]
__all__ = ["Cost", "PillarStats", "StageCost", "StatsTable", "cost", "measure_stats"]


@dataclass(frozen=True)
class StageCost:
    """One stage: ``encoder``, ``level0`` ..., ``up0`` ..., ``shared``, ``task0`` ...; fields as in ``Cost``."""

    name: str
    params: int
    macs: int
    macs_thop: int
    acts: int


@dataclass(frozen=True)
class Cost:
    """A detector's cost per frame.

    Args:
        params: trainable parameters, normalisation included.
        macs: physical multiply-accumulates of convolutions, transposed convolutions and linear layers; biases and
            normalisation 0. Unused point slots of a ``hard`` encoder are computed and so counted.
        macs_thop: the convention of the SparseKD tables: a transposed convolution counts its
            whole kernel for every output element, a bias one and normalisation two per element.
        acts: output elements of those layers.
        stages: the same per stage.
    """

    params: int
    macs: int
    macs_thop: int
    acts: int
    stages: tuple[StageCost, ...]


def cost(spec: DetectorSpec, stats: PillarStats) -> Cost:
    """Cost per frame of the network of ``spec`` on data with ``stats``."""
    stages: dict[str, list[_Counts]] = {}
    for layer in layers(spec):
        stages.setdefault(_stage(layer), []).append(_layer_cost(layer, spec, stats))
    rows = tuple(StageCost(name, *_sum(parts)) for name, parts in stages.items())
    params, macs, thop, acts = _sum([(row.params, row.macs, row.macs_thop, row.acts) for row in rows])
    return Cost(params, macs, thop, acts, rows)


def _sum(rows: list[_Counts]) -> _Counts:
    params, macs, thop, acts = (sum(column) for column in zip(*rows, strict=True))
    return params, macs, thop, acts


def _stage(layer: Layer) -> str:
    kind = layer.key[0]
    if kind in ("level", "up"):
        return f"{kind}{layer.key[1]}"
    return f"task{layer.key[1]}" if kind in ("hidden", "out") else str(kind)


def _layer_cost(layer: Layer, spec: DetectorSpec, stats: PillarStats) -> _Counts:
    read = sum(piece.width for piece in layer.pieces)
    kernel = layer.kernel**2
    positions = _positions(layer, spec, stats)
    elements = round(positions * layer.out)
    # A transposed convolution whose stride equals its kernel writes each output element with one kernel tap.
    taps = 1 if layer.kind == "deconv" else kernel
    params = layer.out * (read * kernel + layer.bias + 2 * (layer.norm is not None))
    extra = layer.bias + 2 * (layer.norm is not None)
    macs = round(positions * layer.out * read * taps)
    return params, macs, round(positions * layer.out * (read * kernel + extra)), elements


def _positions(layer: Layer, spec: DetectorSpec, stats: PillarStats) -> float:
    """Output positions of ``layer``: point slots, or cells."""
    kind = layer.key[0]
    if kind == "encoder":
        return stats.points if spec.encoder.mode == "dynamic" else stats.pillars * spec.encoder.max_points
    stride = spec.backbone.out_stride
    if kind == "level":
        stride = 1
        for step in spec.backbone.strides[: int(layer.key[1]) + 1]:
            stride *= step
    return (spec.grid.nx // stride) * (spec.grid.ny // stride)
