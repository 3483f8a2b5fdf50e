"""Grouping of points in plain numpy: what the compiled loops are tested against, and used where there is no numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd3d.geometry.boxes import Floats, Ints
from kd3d.geometry.grid import BevGrid


def cell_coordinates(points: Floats, grid: BevGrid) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Row and column of the points within x and y, and the mask ``[M]`` of those points.

    Args:
        points: ``[M, F]`` float32.
        grid: z is not tested.
    """
    size = np.float32(grid.cell_m)
    with np.errstate(over="ignore", invalid="ignore"):
        x = (points[:, 0] - np.float32(grid.x_min_m)) / size
        y = (points[:, 1] - np.float32(grid.y_min_m)) / size
    inside = (x >= 0) & (x < grid.nx) & (y >= 0) & (y < grid.ny)
    return np.floor(y[inside]).astype(np.int64), np.floor(x[inside]).astype(np.int64), inside


def pillars_in_order(cell: Ints, number_of_cells: int) -> tuple[Ints, Ints]:
    """Number the cells in order of arrival.

    Args:
        cell: ``[M]`` cell of each point.
        number_of_cells: of the grid.

    Returns:
        ``[M]`` number of each point's cell, ``[P]`` cell of each number.
    """
    arrival = np.arange(len(cell))
    first_of_cell = np.empty(number_of_cells, np.int64)
    first_of_cell[cell[::-1]] = arrival[::-1]  # of equal indices the last assignment stays: the first point
    first = first_of_cell[cell]
    opens = first == arrival
    return (np.cumsum(opens) - 1)[first], cell[opens]


def pillar_mean(xyz: Floats, pillar: Ints, pillars: int) -> Floats:
    """``[P, 3]`` float32 mean of ``xyz [M, 3]`` per pillar, summed in float64 in order of the points."""
    count = np.bincount(pillar, minlength=pillars)
    sums = [np.bincount(pillar, weights=xyz[:, axis], minlength=pillars) for axis in range(3)]
    mean: Floats = (np.stack(sums, axis=1) / np.maximum(count, 1)[:, None]).astype(np.float32)
    return mean


def group_reference(
    points: Floats, grid: BevGrid, *, max_points: int, max_pillars: int
) -> tuple[Floats, Ints, Ints, int, int]:
    """The fields of ``PointGroups`` for ``points [M, F]`` float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        z = (points[:, 2] - np.float32(grid.z_min_m)) / np.float32(grid.height_m)
    points = points[(z >= 0) & (z < 1)]
    row, column, inside = cell_coordinates(points, grid)
    points = points[inside]
    pillar, cells = pillars_in_order(row * grid.nx + column, grid.ny * grid.nx)
    slot = _rank_within(pillar, len(cells))
    kept = (pillar < max_pillars) & (slot < max_points)
    size = min(len(cells), max_pillars)
    grouped = np.zeros((size, max_points, points.shape[1]), np.float32)
    grouped[pillar[kept], slot[kept]] = points[kept]
    counts = np.bincount(pillar[kept], minlength=size).astype(np.int32)
    return grouped, counts, cells[:size], int(len(points) - kept.sum()), len(cells) - size


def _rank_within(pillar: Ints, pillars: int) -> Ints:
    """How many earlier points share each point's pillar."""
    order = np.argsort(pillar, kind="stable")
    count = np.bincount(pillar, minlength=pillars)
    start = np.cumsum(count) - count
    rank = np.empty(len(pillar), np.int64)
    rank[order] = np.arange(len(pillar)) - start[pillar[order]]
    return rank
