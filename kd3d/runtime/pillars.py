"""From points to pillars: the one definition, in numpy, and the same in compiled loops where numba is installed.

A point's cell is ``floor((p - minimum) / cell)`` in float32. Points, and pillars, are kept in order of arrival.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd3d.errors import DataError
from kd3d.geometry.boxes import Floats, Ints
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.buffers import BufferPool
from kd3d.runtime.pillar_kernel import Kernels, compiled
from kd3d.runtime.pillars_reference import cell_coordinates, group_reference, pillar_mean, pillars_in_order

_POOL = BufferPool()


@dataclass(frozen=True)
class PointGroups:
    """Raw points by pillar.

    Args:
        points: ``[P, N, F]`` float32, zero rows after the kept points.
        counts: ``[P]`` int32, points kept, at least 1.
        cells: ``[P]`` int64, ``row * nx + column``.
        dropped_points: points inside the range that found their pillar, or the list of pillars, full.
        dropped_pillars: occupied cells that found the list full.
    """

    points: Floats
    counts: Ints
    cells: Ints
    dropped_points: int
    dropped_pillars: int


@dataclass(frozen=True)
class HardPillars:
    """Decorated points by pillar, as the network eats them.

    Args:
        features: ``[P, N, D]`` float32: the point's features, x, y, z minus the mean of the kept points, x, y, z
            minus the pillar's centre (of the z range for z). Zero rows after the kept points.
        counts, cells, dropped_points, dropped_pillars: as in ``PointGroups``.
    """

    features: Floats
    counts: Ints
    cells: Ints
    dropped_points: int
    dropped_pillars: int


@dataclass(frozen=True)
class FlatPillars:
    """Decorated points of dynamic pillars, without caps or padding.

    Args:
        features: ``[M, D]`` float32, decorated as in ``HardPillars``, in the order of the cloud.
        pillar: ``[M]`` int64, index into ``cells``.
        cells: ``[P]`` int64, ``row * nx + column``, in order of arrival.
    """

    features: Floats
    pillar: Ints
    cells: Ints


def group_points(points: Floats, grid: BevGrid, *, max_points: int, max_pillars: int) -> PointGroups:
    """Group ``points [M, F]`` by cell. See ``hard_pillars`` for the arguments and errors."""
    points = _checked(points)
    kernels = compiled()
    if kernels is None:
        return PointGroups(*group_reference(points, grid, max_points=max_points, max_pillars=max_pillars))
    counts, cells, slots, lost = _assign(kernels, points, grid, max_points, max_pillars)
    out = _POOL.empty("points", (len(counts), max_points, points.shape[1]), np.float32)
    kernels.gather(points, counts, slots, out)
    return PointGroups(out, counts, cells, *lost)


def hard_pillars(points: Floats, grid: BevGrid, *, max_points: int, max_pillars: int) -> HardPillars:
    """Group points by cell, with caps, and decorate them.

    Args:
        points: ``[M, F]``, x, y, z first, metres. Points outside the range on any axis, and NaN, belong to no cell.
        grid: cells, and the range of z.
        max_points: points kept per pillar, the first ones.
        max_pillars: pillars kept, the first ones.

    Returns:
        No pillars, and no error, for an empty cloud or one outside the range. The arrays are the caller's.

    Raises:
        DataError: ``points`` is not ``[M, 3 or more]``.
    """
    points = _checked(points)
    kernels = compiled()
    if kernels is None:
        return hard_pillars_reference(points, grid, max_points=max_points, max_pillars=max_pillars)
    counts, cells, slots, lost = _assign(kernels, points, grid, max_points, max_pillars)
    out = _POOL.empty("features", (len(counts), max_points, points.shape[1] + 6), np.float32)
    kernels.gather_decorated(points, counts, slots, pillar_centres(cells, grid), out)
    return HardPillars(out, counts, cells, *lost)


def hard_pillars_reference(points: Floats, grid: BevGrid, *, max_points: int, max_pillars: int) -> HardPillars:
    """``hard_pillars`` in numpy alone; the results are equal to the bit."""
    points = _checked(points)
    groups = PointGroups(*group_reference(points, grid, max_points=max_points, max_pillars=max_pillars))
    xyz, kept = groups.points[..., :3], np.arange(max_points) < groups.counts[:, None]
    owner = np.nonzero(kept)[0]
    mean = pillar_mean(xyz[kept], owner, len(groups.counts))[:, None]
    centre = pillar_centres(groups.cells, grid)[:, None]
    features = np.concatenate([groups.points, xyz - mean, xyz - centre], axis=2)
    features[~kept] = 0
    return HardPillars(features, groups.counts, groups.cells, groups.dropped_points, groups.dropped_pillars)


def flat_pillars(points: Floats, grid: BevGrid) -> FlatPillars:
    """Decorate the points of dynamic pillars: every point within x and y counts, and z is not tested.

    This is what OpenPCDet's DynPillarVFE does. Arguments and errors as in ``hard_pillars``.
    """
    points = _checked(points)
    row, column, inside = cell_coordinates(points, grid)
    points = points[inside]
    pillar, cells = pillars_in_order(row * grid.nx + column, grid.ny * grid.nx)
    xyz = points[:, :3]
    from_mean = xyz - pillar_mean(xyz, pillar, len(cells))[pillar]
    from_centre = xyz - pillar_centres(cells, grid)[pillar]
    return FlatPillars(np.concatenate([points, from_mean, from_centre], axis=1), pillar, cells)


def pillar_centres(cells: Ints, grid: BevGrid) -> Floats:
    """``[P, 3]`` float32 centres of ``cells``; z is the middle of the range."""
    row, column = np.divmod(cells, grid.nx)
    size = np.float32(grid.cell_m)
    centres = np.empty((len(cells), 3), np.float32)
    centres[:, 0] = column.astype(np.float32) * size + np.float32(grid.cell_m / 2 + grid.x_min_m)
    centres[:, 1] = row.astype(np.float32) * size + np.float32(grid.cell_m / 2 + grid.y_min_m)
    centres[:, 2] = grid.height_m / 2 + grid.z_min_m
    return centres


def pad_pillars(pillars: HardPillars, rows: int, empty_cell: int) -> HardPillars:
    """Fill up to ``rows`` pillars with zeros, count 0 and cell ``empty_cell`` (``ny * nx``).

    Raises:
        DataError: there are more pillars than ``rows``.
    """
    missing = rows - len(pillars.counts)
    if missing < 0:
        raise DataError(f"{len(pillars.counts)} pillars do not fit into {rows} rows. Cap them at max_pillars={rows}.")
    if missing == 0:
        return pillars
    features = np.zeros((rows, *pillars.features.shape[1:]), np.float32)
    features[: len(pillars.counts)] = pillars.features
    return HardPillars(
        features,
        np.concatenate([pillars.counts, np.zeros(missing, pillars.counts.dtype)]),
        np.concatenate([pillars.cells, np.full(missing, empty_cell, pillars.cells.dtype)]),
        pillars.dropped_points,
        pillars.dropped_pillars,
    )


def _checked(points: Floats) -> Floats:
    if points.ndim != 2 or points.shape[1] < 3:
        raise DataError(f"points must be an array with shape (N, 3 or more), but got shape {points.shape}.")
    return np.ascontiguousarray(points, np.float32)


def _assign(
    kernels: Kernels, points: Floats, grid: BevGrid, max_points: int, max_pillars: int
) -> tuple[Ints, Ints, Ints, tuple[int, int]]:
    # No cloud has more pillars than points or cells; the scratch arrays need not be larger.
    room = min(max_pillars, grid.ny * grid.nx, len(points))
    frame = np.array([grid.x_min_m, grid.y_min_m, grid.z_min_m, grid.cell_m, grid.cell_m, grid.height_m], np.float32)
    table = _POOL.empty("table", (grid.ny, grid.nx), np.int32)
    table.fill(-1)
    slots = _POOL.empty("slots", (room, max_points), np.int32)
    cells, counts = np.empty(room, np.int64), np.empty(room, np.int32)
    pillars, lost_points, lost_pillars = kernels.assign(points, frame, table, cells, counts, slots)
    return counts[:pillars].copy(), cells[:pillars].copy(), slots, (lost_points, lost_pillars)
