"""Cost of a sparse 3D backbone from the sites and kernel maps of the data. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kd3d.compress.inherit.layers import Key
from kd3d.errors import SpecError
from kd3d.spec import VoxelEncoderSpec


class Step(NamedTuple):
    """What one layer costs.

    Args:
        stage: the stage it belongs to.
        key: the tensor it writes.
        counts: params, macs, macs_thop, acts, weight_elements, read_elements, written_elements.
        kept: elements of what later layers read of it.
        sources: the tensors it reads.
    """

    stage: str
    key: Key
    counts: tuple[int, ...]
    kept: int
    sources: tuple[Key, ...]


@dataclass(frozen=True)
class SparseStats:
    """What a data set puts into a sparse 3D backbone; means per frame.

    A kernel map lists the pairs of an input and an output site that a convolution multiplies. All submanifold
    convolutions of a stage share one.

    Args:
        sites: active sites of each stage, and of the output: ``stages + 1`` numbers; the first are the voxels.
        submanifold_pairs: of the 3x3x3 submanifold kernel map of each stage.
        strided_pairs: of the kernel maps between them: of each strided convolution, then of the last one, (3, 1, 1):
            ``stages`` numbers.
        points: points in the voxels.
    """

    sites: tuple[float, ...]
    submanifold_pairs: tuple[float, ...]
    strided_pairs: tuple[float, ...]
    points: float = 0.0

    def __post_init__(self) -> None:
        stages = len(self.submanifold_pairs)
        if not stages or len(self.sites) != stages + 1 or len(self.strided_pairs) != stages:
            raise SpecError(
                "sparse statistics need one more entry in sites than in submanifold_pairs and strided_pairs; got "
                f"{len(self.sites)}, {stages} and {len(self.strided_pairs)}."
            )


def sparse_steps(encoder: VoxelEncoderSpec, inputs: int, stats: SparseStats, *, canvas: int) -> Iterator[Step]:
    """The layers of ``encoder`` in order.

    Args:
        encoder: the sparse backbone.
        inputs: features of a point.
        stats: of the data.
        canvas: elements of the BEV map that the output is scattered into.

    Raises:
        SpecError: ``stats`` are of another number of stages.
    """
    if len(stats.submanifold_pairs) != len(encoder.channels):
        raise SpecError(
            f"the statistics are of {len(stats.submanifold_pairs)} sparse stages, the encoder has "
            f"{len(encoder.channels)}. Measure them with this encoder."
        )
    sites, maps = stats.sites, stats.submanifold_pairs
    at: tuple[Key, int, float] = (("points",), inputs, sites[0])
    first = _conv("voxel_input", ("encoder", "input"), at, encoder.input_channels, pairs=maps[0], out_sites=sites[0])
    yield first
    at = (first.key, encoder.input_channels, sites[0])
    for stage, width in enumerate(encoder.channels):
        name = f"voxel{stage}"
        if stage:
            down = _conv(
                name,
                ("encoder", stage, "down"),
                at,
                width,
                pairs=stats.strided_pairs[stage - 1],
                out_sites=sites[stage],
            )
            yield down
            at = (down.key, width, sites[stage])
        for block in range(encoder.blocks[stage]):
            steps = list(_block(encoder, (name, stage, block), at, width, pairs=maps[stage]))
            yield from steps
            at = (steps[-1].key, width, sites[stage])
    last = _conv("voxel_out", ("encoder", "out"), at, encoder.out_channels, pairs=stats.strided_pairs[-1],
                 out_sites=sites[-1], taps=3)  # fmt: skip
    *counts, written = last.counts
    yield last._replace(counts=(*counts, written + canvas), kept=last.kept + canvas)


def _block(
    encoder: VoxelEncoderSpec, place: tuple[str, int, int], at: tuple[Key, int, float], width: int, *, pairs: float
) -> Iterator[Step]:
    name, stage, block = place
    bias = encoder.block_bias
    first = _conv(name, ("encoder", stage, block, 0), at, width, pairs=pairs, out_sites=at[2], bias=bias)
    yield first
    if encoder.block == "residual":
        middle = (first.key, width, at[2])
        second = _conv(name, ("encoder", stage, block, 1), middle, width, pairs=pairs, out_sites=at[2], bias=bias)
        yield second._replace(sources=(first.key, at[0]))  # the sum needs the block's input


def _conv(
    stage: str,
    key: Key,
    at: tuple[Key, int, float],
    out: int,
    *,
    pairs: float,
    out_sites: float,
    bias: bool = False,
    taps: int = 27,
) -> Step:
    """A sparse convolution with norm. ``at``: what it reads, as tensor, channels and sites."""
    source, read, in_sites = at
    weights, elements = taps * read * out, round(out_sites * out)
    macs = round(pairs * read * out)
    # SparseKD's counter adds one per output site for a bias, not one per element.
    thop = round(pairs * read * out + bias * out_sites + 2 * out_sites * out)
    stored = weights + out
    params = weights + out * (2 + bias)
    counts = (params, macs, thop, elements, stored, round(in_sites * read) + stored, elements)
    return Step(stage, key, counts, elements, (source,))
