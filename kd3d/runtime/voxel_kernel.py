"""The loop that gives points to voxels, written for numba and valid as plain Python. Compiled on first use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from kd3d.optional import with_numba

_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: neighbouring codes land far apart


def assign_voxels(points: Any, frame: Any, sizes: Any, slots: Any, codes: Any, counts: Any, sums: Any) -> Any:  # noqa: PLR0917 -- numba calls by position
    """Add each point to its voxel, first come first served.

    Args:
        points: ``[M, F]`` float32, x, y, z first.
        frame: ``[6]`` float32, minima of x, y, z and the voxel's extent along each.
        sizes: ``[4]`` int64: voxels along x, y, z, and points kept per voxel.
        slots: ``[2^n]`` int32, all -1, more than points; an open-addressed table of the voxels met so far.
        codes: ``[M]`` int64, receives ``(z * ny + y) * nx + x`` of each voxel met, in order of arrival.
        counts: ``[max_voxels]`` int32, receives points kept.
        sums: ``[max_voxels, F]`` float64, receives the sums of their features.

    Returns:
        Voxels met, and points inside the range that were not kept.
    """
    nx, ny, nz, max_points = sizes[0], sizes[1], sizes[2], sizes[3]
    mask = np.uint64(len(slots) - 1)
    shift = np.uint64(20)
    met, lost = 0, 0
    for i in range(points.shape[0]):
        x = (points[i, 0] - frame[0]) / frame[3]
        y = (points[i, 1] - frame[1]) / frame[4]
        z = (points[i, 2] - frame[2]) / frame[5]
        # Compared before the cast: a cast truncates towards zero and would let in points one voxel below the range.
        if not ((x >= 0) & (x < nx) & (y >= 0) & (y < ny) & (z >= 0) & (z < nz)):
            continue
        code = (np.int64(z) * ny + np.int64(y)) * nx + np.int64(x)
        place = (np.uint64(code) * _SPREAD >> shift) & mask
        while slots[place] != -1 and codes[slots[place]] != code:
            place = (place + np.uint64(1)) & mask
        voxel = slots[place]
        if voxel == -1:
            voxel = met
            slots[place] = voxel
            codes[voxel] = code
            if voxel < len(counts):
                counts[voxel] = 0
                sums[voxel] = 0
            met += 1
        if voxel >= len(counts) or counts[voxel] == max_points:
            lost += 1
            continue
        counts[voxel] += 1
        for f in range(points.shape[1]):
            sums[voxel, f] += points[i, f]
    return met, lost


@functools.cache
def compiled() -> Callable[..., Any] | None:
    """The function above, compiled and cached on disk where possible; ``None`` without a working numba."""
    return with_numba(lambda compile_: compile_(assign_voxels))
