"""Active sites and kernel maps of a sparse 3D backbone, counted on points. No torch at import."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd3d.compress.search.cost_sparse import SparseStats
from kd3d.compress.search.stats import spread
from kd3d.errors import UsageError
from kd3d.spec import DetectorSpec, VoxelEncoderSpec

if TYPE_CHECKING:
    from kd3d.datasets.base import SampleDataset

Triple = tuple[int, int, int]
Sites = NDArray[np.int64]


def measure_sparse(dataset: SampleDataset, spec: DetectorSpec, n: int = 20) -> SparseStats:
    """Mean sites and kernel maps of ``n`` frames spread evenly over ``dataset``.

    Raises:
        DataError: the data set is empty, or lacks a point feature of ``spec``.
        UsageError: ``spec`` has no voxel encoder.
    """
    return measure_sparse_samples((dataset[index] for index in spread(len(dataset), n)), spec)


def measure_sparse_samples(samples: Iterable[Any], spec: DetectorSpec) -> SparseStats:
    """Mean sites and kernel maps of ``samples`` (each a ``Sample``); see ``measure_sparse``."""
    from kd3d.detectors.batch import view_points
    from kd3d.runtime.points import select_features

    found = [
        count_sites(select_features(view_points(sample, spec), sample.features, spec.points), spec)
        for sample in samples
    ]
    columns = ([getattr(one, name) for one in found] for name in ("sites", "submanifold_pairs", "strided_pairs"))
    sites, submanifold, strided = (tuple(float(v) for v in np.mean(column, axis=0)) for column in columns)
    return SparseStats(sites, submanifold, strided, float(np.mean([one.points for one in found])))


def count_sites(points: NDArray[np.float32], spec: DetectorSpec) -> SparseStats:
    """Sites and kernel maps of one cloud ``[N, F]``, x, y, z first.

    Raises:
        UsageError: ``spec`` has no voxel encoder.
    """
    encoder, grid = spec.encoder, spec.grid
    if not isinstance(encoder, VoxelEncoderSpec):
        raise UsageError(f"{spec.name} has pillars; sparse statistics are of voxel encoders.")
    shape: Triple = (encoder.z_sizes(grid)[0], grid.ny, grid.nx)
    at, kept = _voxels(points, spec, encoder)
    sites, submanifold, strided = [len(at)], [submanifold_pairs(at, shape)], []
    for padding in encoder.z_paddings:
        at, shape, pairs = strided_map(at, shape, kernel=(3, 3, 3), stride=(2, 2, 2), padding=(padding, 1, 1))
        sites.append(len(at))
        strided.append(pairs)
        submanifold.append(submanifold_pairs(at, shape))
    at, shape, pairs = strided_map(at, shape, kernel=(3, 1, 1), stride=(2, 1, 1), padding=(0, 0, 0))
    return SparseStats((*sites, len(at)), tuple(submanifold), (*strided, pairs), kept)


def submanifold_pairs(at: Sites, shape: Triple) -> int:
    """Pairs of the 3x3x3 submanifold kernel map over the distinct sites ``at``, ``[N, 3]`` of z, y, x."""
    _, height, width = shape
    rows = (height + 2, width + 2)  # a margin, so that a neighbour beyond the edge is no one's site
    codes = np.sort(((at[:, 0] + 1) * rows[0] + at[:, 1] + 1) * rows[1] + at[:, 2] + 1)
    half = [(z * rows[0] + y) * rows[1] + x for z, y, x in product((-1, 0, 1), repeat=3)][14:]
    return len(codes) + 2 * sum(_common(codes, codes + offset) for offset in half)


def strided_map(
    at: Sites, shape: Triple, *, kernel: Triple, stride: Triple, padding: Triple
) -> tuple[Sites, Triple, int]:
    """Output sites ``[M, 3]`` of a strided sparse convolution, their shape, and the pairs of its kernel map.

    A site is active where any active site falls into its window.
    """
    sizes = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(shape, padding, kernel, stride, strict=True)]
    out: Triple = (sizes[0], sizes[1], sizes[2])
    codes, pairs = [np.empty(0, np.int64)], 0
    for tap in product(*(range(k) for k in kernel)):
        moved = at + np.array(padding) - np.array(tap)
        place = moved // np.array(stride)
        valid = ((moved % np.array(stride) == 0) & (place >= 0) & (place < np.array(out))).all(axis=1)
        place = place[valid]
        pairs += len(place)
        codes.append(np.unique((place[:, 0] * out[1] + place[:, 1]) * out[2] + place[:, 2]))
    code = np.unique(np.concatenate(codes))
    return np.stack([code // (out[1] * out[2]), code // out[2] % out[1], code % out[2]], axis=1), out, pairs


def _common(codes: Sites, moved: Sites) -> int:
    """How many of the sorted ``moved`` are among the sorted ``codes``."""
    if not len(codes):
        return 0
    place = np.minimum(np.searchsorted(codes, moved), len(codes) - 1)
    return int((codes[place] == moved).sum())


def _voxels(points: NDArray[np.float32], spec: DetectorSpec, encoder: VoxelEncoderSpec) -> tuple[Sites, int]:
    """Distinct voxels ``[N, 3]`` of z, y, x after the cap, and how many points they keep."""
    grid = spec.grid
    low = np.array([grid.x_min_m, grid.y_min_m, grid.z_min_m], np.float32)
    size = np.array([grid.cell_m, grid.cell_m, encoder.height_m], np.float32)
    count = np.array([grid.nx, grid.ny, encoder.z_sizes(grid)[0] - 1])
    where = np.floor((points[:, :3] - low) / size).astype(np.int64)
    where = where[((where >= 0) & (where < count)).all(axis=1)]
    code = (where[:, 2] * grid.ny + where[:, 1]) * grid.nx + where[:, 0]
    found, first, counts = np.unique(code, return_index=True, return_counts=True)
    keep = np.argsort(first, kind="stable")[: encoder.max_voxels]  # the cap keeps the voxels of the first points
    code = found[keep]
    at = np.stack([code // (grid.ny * grid.nx), code // grid.nx % grid.ny, code % grid.nx], axis=1)
    return at, int(np.minimum(counts[keep], encoder.max_points).sum())
