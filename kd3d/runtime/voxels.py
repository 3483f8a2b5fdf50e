"""From points to what a voxel network eats: mean features of voxels, and the neighbour tables of its stages. No torch.

A point's voxel is ``floor((p - minimum) / size)`` in float32 along each axis. Points, and voxels, are kept in order of
arrival; those kept are then sorted by place (z, y, x), which keeps neighbours close in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError
from kd3d.geometry.boxes import Floats, Ints
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.sparse_tables import strided_table, submanifold_table
from kd3d.runtime.voxel_kernel import compiled
from kd3d.spec.voxel import VoxelEncoderSpec

Sites = NDArray[np.int32]
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Voxels:
    """The occupied voxels of a cloud.

    Args:
        features: ``[N, F]`` float32, mean of the kept points' features.
        sites: ``[N, 3]`` int32 z, y, x, ascending.
        kept_points: points in the means.
        dropped_points: points inside the range that found their voxel, or the list of voxels, full.
        dropped_voxels: occupied voxels that found the list full.
    """

    features: Floats
    sites: Sites
    kept_points: int
    dropped_points: int
    dropped_voxels: int


@dataclass(frozen=True)
class VoxelInputs:
    """What the network reads.

    Args:
        features: ``[N, F]`` float32.
        tables: neighbour tables, int32, in the order of ``VoxelEncoderSpec.tables``.
        cells: ``[M]`` int64, where the last layer's sites go: ``((frame * ny + row) * nx + column) * depth + z`` on
            the BEV map; padding rows carry ``frames * ny * nx * depth``.
    """

    features: Floats
    tables: tuple[Sites, ...]
    cells: Ints


def mean_voxels(points: Floats, grid: BevGrid, encoder: VoxelEncoderSpec) -> Voxels:
    """Group ``points [M, F]`` (x, y, z first, metres) by voxel and average each.

    Points outside the range on any axis, and NaN, belong to no voxel.

    Raises:
        DataError: ``points`` is not ``[M, 3 or more]``.
        SpecError: the grid's height is not a whole number of voxels.
    """
    points = _checked(points)
    kernel = compiled()
    if kernel is None:
        return mean_voxels_reference(points, grid, encoder)
    room = min(encoder.max_voxels, len(points))
    slots = np.full(1 << max(4, (2 * len(points)).bit_length()), -1, np.int32)
    codes, counts = np.empty(len(points), np.int64), np.empty(room, np.int32)
    sums = np.empty((room, points.shape[1]), np.float64)
    sizes = np.array([grid.nx, grid.ny, _layers(grid, encoder), encoder.max_points], np.int64)
    met, lost = kernel(points, _frame(grid, encoder), sizes, slots, codes, counts, sums)
    kept = min(met, room)
    return _sorted(codes[:kept], counts[:kept], sums[:kept], grid, (int(lost), int(met) - kept))


def mean_voxels_reference(points: Floats, grid: BevGrid, encoder: VoxelEncoderSpec) -> Voxels:
    """``mean_voxels`` in numpy alone; the results are equal to the bit."""
    points = _checked(points)
    frame = _frame(grid, encoder)
    sizes = np.array([grid.nx, grid.ny, _layers(grid, encoder)])
    with np.errstate(over="ignore", invalid="ignore"):
        place = (points[:, :3] - frame[:3]) / frame[3:]
        points = points[((place >= 0) & (place < sizes)).all(axis=1)]
    x, y, z = np.floor((points[:, :3] - frame[:3]) / frame[3:]).astype(np.int64).T
    found, first, voxel = np.unique((z * grid.ny + y) * grid.nx + x, return_index=True, return_inverse=True)
    arrival = np.argsort(first, kind="stable")  # the cap keeps the voxels of the first points
    keep = np.zeros(len(found), bool)
    keep[arrival[: encoder.max_voxels]] = True
    kept = keep[voxel] & (_rank(voxel, len(found)) < encoder.max_points)
    counts = np.bincount(voxel[kept], minlength=len(found))
    # Weights are added in the order of the points, in float64.
    sums = np.stack([np.bincount(voxel[kept], column[kept], len(found)) for column in points.T], axis=1)
    lost = len(points) - int(kept.sum())
    return _sorted(found[keep], counts[keep], sums[keep], grid, (lost, len(found) - int(keep.sum())))


def voxel_inputs(
    clouds: Sequence[Voxels], grid: BevGrid, encoder: VoxelEncoderSpec, *, least_rows: int = 1
) -> VoxelInputs:
    """Features, neighbour tables and BEV cells of several frames.

    Args:
        clouds: one per frame.
        grid: the network's.
        encoder: the network's.
        least_rows: of every array; rows that stand for no voxel have no neighbours and go to the spare cell.
    """
    frame = np.repeat(np.arange(len(clouds), dtype=np.int32), [len(cloud.sites) for cloud in clouds])
    sites = np.concatenate([frame[:, None], np.concatenate([cloud.sites for cloud in clouds])], axis=1)
    features = np.concatenate([cloud.features for cloud in clouds])
    shape: Triple = (encoder.z_sizes(grid)[0], grid.ny, grid.nx)
    missing = max(0, least_rows - len(sites))
    features = np.concatenate([features, np.zeros((missing, features.shape[1]), np.float32)])
    tables = [_submanifold(sites, shape, missing)]
    for blocks, padding in zip(encoder.blocks[1:], encoder.z_paddings, strict=True):
        before = (len(sites), missing)
        sites, table, shape = strided_table(sites, shape, (3, 3, 3), (2, 2, 2), (padding, 1, 1))
        missing = max(0, least_rows - len(sites))
        tables.append(_padded(table, before[0], (before[1], missing)))
        if blocks:
            tables.append(_submanifold(sites, shape, missing))
    before = (len(sites), missing)
    sites, table, (depth, rows, columns) = strided_table(sites, shape, (3, 1, 1), (2, 1, 1), (0, 0, 0))
    missing = max(0, least_rows - len(sites))
    tables.append(_padded(table, before[0], (before[1], missing)))
    batch, z, y, x = sites.astype(np.int64).T
    spare = np.full(missing, len(clouds) * rows * columns * depth, np.int64)
    cells = np.concatenate([((batch * rows + y) * columns + x) * depth + z, spare])
    return VoxelInputs(features, tuple(tables), cells)


def _padded(table: Sites, sites: int, missing: tuple[int, int]) -> Sites:
    """``table`` for inputs and outputs with ``missing`` rows more."""
    inputs, outputs = missing
    if inputs:
        table = np.where(table == sites, np.int32(sites + inputs), table)
    if outputs:
        table = np.concatenate([table, np.full((outputs, table.shape[1]), sites + inputs, np.int32)])
    return table


def _submanifold(sites: Sites, shape: Triple, missing: int) -> Sites:
    """The table of a stage; the rows that stand for no site see themselves, as a site without neighbours does."""
    table = _padded(submanifold_table(sites, shape, (3, 3, 3)), len(sites), (missing, missing))
    table[len(sites) :, 13] = np.arange(len(sites), len(sites) + missing, dtype=np.int32)
    return table


def _sorted(codes: Ints, counts: Ints, sums: Floats, grid: BevGrid, lost: tuple[int, int]) -> Voxels:
    order = np.argsort(codes)  # codes are distinct
    code = codes[order]
    sites = np.stack([code // (grid.ny * grid.nx), code // grid.nx % grid.ny, code % grid.nx], axis=1)
    means = (sums[order] / counts[order, None]).astype(np.float32)
    return Voxels(means, sites.astype(np.int32), int(counts.sum()), *lost)


def _rank(voxel: Ints, voxels: int) -> Ints:
    """How many earlier points share each point's voxel."""
    order = np.argsort(voxel, kind="stable")
    count = np.bincount(voxel, minlength=voxels)
    rank = np.empty(len(voxel), np.int64)
    rank[order] = np.arange(len(voxel)) - (np.cumsum(count) - count)[voxel[order]]
    return rank


def _layers(grid: BevGrid, encoder: VoxelEncoderSpec) -> int:
    return encoder.z_sizes(grid)[0] - 1


def _frame(grid: BevGrid, encoder: VoxelEncoderSpec) -> Floats:
    size = (grid.cell_m, grid.cell_m, encoder.height_m)
    return np.array([grid.x_min_m, grid.y_min_m, grid.z_min_m, *size], np.float32)


def _checked(points: Floats) -> Floats:
    if points.ndim != 2 or points.shape[1] < 3:
        raise DataError(f"points must be an array with shape (N, 3 or more), but got shape {points.shape}.")
    return np.ascontiguousarray(points, np.float32)
