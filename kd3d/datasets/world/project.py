"""Which pixels a solid may cover: the bounds of its projected bounding box, clipped at the near plane."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.world.primitives import PlacedPrimitives
from kd3d.datasets.world.rig import CameraMount

Floats = NDArray[Any]
_NEAR_M = 0.25
_CORNERS = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
_EDGES = [
    (a, b)
    for a, b in combinations(range(8), 2)
    if sum(p != q for p, q in zip(_CORNERS[a], _CORNERS[b], strict=True)) == 1
]


def pixel_windows(
    placed: PlacedPrimitives,
    pose: tuple[Floats, Floats],
    mount: CameraMount,
    *,
    size: tuple[int, int],
    shrink: int,
) -> Floats:
    """``[P, 4]`` int: first and past-last column, first and past-last row; empty where the solid is not in view.

    Args:
        placed: the solids.
        pose: camera axes in the world ``[3, 3]`` and its position ``[3]``.
        mount: its intrinsics.
        size: width and height of the picture.
        shrink: full pixels per pixel of the picture.
    """
    rotation, origin = pose
    sign = np.array(_CORNERS) * 2.0 - 1.0
    local = placed.table.half[:, None] * sign
    x = placed.cos[:, None] * local[..., 0] - placed.sin[:, None] * local[..., 1]
    y = placed.sin[:, None] * local[..., 0] + placed.cos[:, None] * local[..., 1]
    world = np.stack([x, y, local[..., 2]], axis=-1) + (placed.centre - origin)[:, None]
    camera = world @ rotation
    start, end = (camera[:, [edge[side] for edge in _EDGES]] for side in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (_NEAR_M - start[..., 2]) / (end[..., 2] - start[..., 2])
        cut = start + np.nan_to_num(share)[..., None] * (end - start)
    crosses = (start[..., 2] < _NEAR_M) != (end[..., 2] < _NEAR_M)
    every = np.concatenate([camera, cut], axis=1)
    valid = np.concatenate([camera[..., 2] >= _NEAR_M, crosses], axis=1)
    depth = np.maximum(every[..., 2], _NEAR_M * 0.5)
    bounds = []
    for axis in range(2):
        pixel = (every[..., axis] / depth * mount.focal_px + mount.centre_px[axis]) / shrink
        low = np.where(valid, pixel, np.inf).min(axis=1)
        high = np.where(valid, pixel, -np.inf).max(axis=1)
        bounds += [np.clip(np.floor(low), 0, size[axis]), np.clip(np.ceil(high), 0, size[axis])]
    return np.asarray(np.stack(bounds, axis=1), np.int64)
