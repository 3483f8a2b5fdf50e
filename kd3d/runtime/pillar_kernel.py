"""Loops over points and pillars, written for numba and valid as plain Python.

They are compiled on first use, so importing this module does not need numba. Arithmetic on points is float32 and
sums are float64 in point order, which is what the numpy reference does; the results are equal to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kd3d.optional import with_numba


def assign(points: Any, frame: Any, table: Any, cells: Any, counts: Any, slots: Any) -> Any:  # noqa: PLR0917 -- numba calls by position
    """Give each point a pillar and a slot, first come first served.

    Args:
        points: ``[M, F]`` float32, x, y, z first.
        frame: ``[6]`` float32, minima of x, y, z and the cell's extent along each.
        table: ``[ny, nx]`` int32, all -1; holds the pillar of each cell afterwards.
        cells: ``[max_pillars]`` int64, receives ``row * nx + column``.
        counts: ``[max_pillars]`` int32, receives points kept per pillar.
        slots: ``[max_pillars, max_points]`` int32, receives point indices.

    Returns:
        Pillars kept, points that found their pillar or the list of pillars full, and pillars that found it full.
    """
    ny, nx = table.shape
    pillar_of = table.reshape(ny * nx)
    max_pillars, max_points = slots.shape
    x_min, y_min, z_min, dx, dy, dz = frame[0], frame[1], frame[2], frame[3], frame[4], frame[5]
    pillars, lost_points, lost_pillars = 0, 0, 0
    for i in range(points.shape[0]):
        x = (points[i, 0] - x_min) / dx
        y = (points[i, 1] - y_min) / dy
        z = (points[i, 2] - z_min) / dz
        # Compared before the cast: a cast truncates towards zero and would let in points one cell below the range.
        if not ((x >= 0) & (x < nx) & (y >= 0) & (y < ny) & (z >= 0) & (z < 1)):
            continue
        cell = np.uint64(np.int64(y) * nx + np.int64(x))  # unsigned: no test for a negative index
        pillar = pillar_of[cell]
        if pillar == -1 and pillars < max_pillars:
            pillar = pillars
            pillar_of[cell] = pillar
            cells[pillar] = cell
            counts[pillar] = 0
            pillars += 1
        elif pillar == -1:
            pillar_of[cell] = -2
            lost_pillars += 1
        if pillar < 0 or counts[pillar] == max_points:
            lost_points += 1
            continue
        slots[pillar, counts[pillar]] = i
        counts[pillar] += 1
    return pillars, lost_points, lost_pillars


def gather(points: Any, counts: Any, slots: Any, out: Any) -> None:
    """Write ``out [P, N, F]``: the points of each pillar, then zero rows."""
    features = points.shape[1]
    for p in range(out.shape[0]):
        for s in range(counts[p]):
            i = np.uint64(slots[p, s])
            for f in range(features):
                out[p, s, f] = points[i, f]
        out[p, counts[p] :] = 0


def gather_decorated(points: Any, counts: Any, slots: Any, centres: Any, out: Any) -> None:
    """Write ``out [P, N, F + 6]``: points, offset to the mean of the pillar, offset to its centre; then zero rows.

    ``centres`` is ``[P, 3]`` float32.
    """
    features = points.shape[1]
    for p in range(out.shape[0]):
        count = counts[p]
        x, y, z = 0.0, 0.0, 0.0
        for s in range(count):
            i = np.uint64(slots[p, s])
            x += points[i, 0]
            y += points[i, 1]
            z += points[i, 2]
        mean_x, mean_y, mean_z = np.float32(x / count), np.float32(y / count), np.float32(z / count)
        centre_x, centre_y, centre_z = centres[p, 0], centres[p, 1], centres[p, 2]
        for s in range(count):
            i = np.uint64(slots[p, s])
            for f in range(features):
                out[p, s, f] = points[i, f]
            out[p, s, features] = points[i, 0] - mean_x
            out[p, s, features + 1] = points[i, 1] - mean_y
            out[p, s, features + 2] = points[i, 2] - mean_z
            out[p, s, features + 3] = points[i, 0] - centre_x
            out[p, s, features + 4] = points[i, 1] - centre_y
            out[p, s, features + 5] = points[i, 2] - centre_z
        out[p, count:] = 0


def crop(points: Any, matrix: Any, width: Any, height: Any, out: Any) -> Any:
    """Write the points that project into an image to the front of ``out``, in their order.

    Args:
        points: ``[M, F]``, x, y, z first.
        matrix: ``[3, 4]`` float64, to pixels times depth.
        width: of the image, pixels, float.
        height: likewise.
        out: as ``points``.

    Returns:
        How many there are.
    """
    kept = 0
    for i in range(points.shape[0]):
        x, y, z = np.float64(points[i, 0]), np.float64(points[i, 1]), np.float64(points[i, 2])
        depth = x * matrix[2, 0] + y * matrix[2, 1] + z * matrix[2, 2] + matrix[2, 3]
        if not depth > 0:
            continue
        u = x * matrix[0, 0] + y * matrix[0, 1] + z * matrix[0, 2] + matrix[0, 3]
        v = x * matrix[1, 0] + y * matrix[1, 1] + z * matrix[1, 2] + matrix[1, 3]
        if not ((u >= 0) & (u < width * depth) & (v >= 0) & (v < height * depth)):
            continue
        for f in range(points.shape[1]):
            out[kept, f] = points[i, f]
        kept += 1
    return kept


class Kernels(NamedTuple):
    """The compiled functions of this module."""

    assign: Callable[..., Any]
    gather: Callable[..., Any]
    gather_decorated: Callable[..., Any]
    crop: Callable[..., Any]


@functools.cache
def compiled() -> Kernels | None:
    """The functions above, compiled and cached on disk where possible; ``None`` without a working numba."""
    return with_numba(lambda compile_: Kernels(*map(compile_, (assign, gather, gather_decorated, crop))))
