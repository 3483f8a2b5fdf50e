"""Ray against solid, for flat lists of (solid, ray) pairs.

A ray is ``origin + t * direction`` with any positive scale of direction, the same for all pairs of one ray, so that
the smallest ``t`` over a ray's pairs is the nearest hit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.world.primitives import BOX, ELLIPSOID, FRUSTUM, PlacedPrimitives

Floats = NDArray[Any]
MISS = np.float32(np.inf)


def local_origin(placed: PlacedPrimitives, origin: Floats) -> Floats:
    """``[P, 3]`` float32: the ray origin in every solid's own frame."""
    delta = origin - placed.centre
    x = placed.cos * delta[:, 0] + placed.sin * delta[:, 1]
    y = -placed.sin * delta[:, 0] + placed.cos * delta[:, 1]
    return np.asarray(np.stack([x, y, delta[:, 2]], axis=1), np.float32)


def intersect(
    placed: PlacedPrimitives, origin: Floats, solid: Floats, direction: tuple[Floats, Floats, Floats]
) -> Floats:
    """Distance parameter of every pair's first hit; infinite for a miss or an origin inside.

    Args:
        placed: the solids.
        origin: ``[3]`` in the world.
        solid: ``[M]`` solid of each pair, sorted by kind or not.
        direction: three ``[M]`` float32 arrays, the ray's direction in the world.

    Returns:
        ``[M]`` float32.
    """
    start = local_origin(placed, origin)
    half = placed.table.half.astype(np.float32)
    cos, sin = placed.cos.astype(np.float32), placed.sin.astype(np.float32)
    result = np.full(len(solid), MISS, np.float32)
    kind = placed.table.kind[solid]
    for code, kernel in ((BOX, _box), (ELLIPSOID, _ellipsoid), (FRUSTUM, _frustum)):
        chosen = np.flatnonzero(kind == code)
        if not len(chosen):
            continue
        index = solid[chosen]
        dx, dy, dz = (axis[chosen] for axis in direction)
        c, s = cos[index], sin[index]
        ray = (c * dx + s * dy, c * dy - s * dx, dz)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            result[chosen] = kernel(start[index], half[index], ray, placed.table.taper[index].astype(np.float32))
    return result


def _box(start: Floats, half: Floats, ray: tuple[Floats, ...], _: Floats) -> Floats:
    near: Any = None
    far: Any = None
    for axis in range(3):
        inverse = 1 / ray[axis]
        middle = -start[:, axis] * inverse
        reach = np.abs(half[:, axis] * inverse)
        low, high = middle - reach, middle + reach
        near = low if near is None else np.maximum(near, low)
        far = high if far is None else np.minimum(far, high)
    return np.where((far >= near) & (near > 0), near, MISS)


def _ellipsoid(start: Floats, half: Floats, ray: tuple[Floats, ...], _: Floats) -> Floats:
    a = b = c = np.float32(0)
    for axis in range(3):
        d, o = ray[axis] / half[:, axis], start[:, axis] / half[:, axis]
        a, b, c = a + d * d, b + d * o, c + o * o
    root = b * b - a * (c - 1)
    t = (-b - np.sqrt(root)) / a
    return np.where((root >= 0) & (t > 0), t, MISS)


def _frustum(start: Floats, half: Floats, ray: tuple[Floats, ...], taper: Floats) -> Floats:
    hz = half[:, 2]
    dx, dy, dz = ray[0] / half[:, 0], ray[1] / half[:, 1], ray[2]
    ox, oy, oz = start[:, 0] / half[:, 0], start[:, 1] / half[:, 1], start[:, 2]
    slope = (taper - 1) / (2 * hz)
    level = (1 + taper) / 2 + slope * oz
    a = dx * dx + dy * dy - (slope * dz) ** 2
    b = ox * dx + oy * dy - level * slope * dz
    c = ox * ox + oy * oy - level * level
    root = b * b - a * c
    side = (-b - np.sqrt(root)) / a
    side = np.where((root >= 0) & (side > 0) & (np.abs(oz + side * dz) <= hz), side, MISS)
    cap = (hz - oz) / dz
    inside = (ox + cap * dx) ** 2 + (oy + cap * dy) ** 2 <= taper * taper
    return np.minimum(side, np.where((dz < 0) & (cap > 0) & inside, cap, MISS))


def normals(placed: PlacedPrimitives, solid: Floats, point: Floats) -> Floats:
    """Outward unit normals ``[M, 3]`` in the world at ``point`` on the surface of ``solid``."""
    delta = point - placed.centre[solid]
    cos, sin = placed.cos[solid], placed.sin[solid]
    half = placed.table.half[solid]
    local = np.stack(
        [cos * delta[:, 0] + sin * delta[:, 1], cos * delta[:, 1] - sin * delta[:, 0], delta[:, 2]], axis=1
    )
    scaled = local / half
    kind = placed.table.kind[solid]
    result = scaled / half
    face = np.abs(scaled).argmax(axis=1)
    flat = np.zeros_like(local)
    rows = np.arange(len(local))
    flat[rows, face] = np.sign(scaled[rows, face])
    result = np.where((kind == BOX)[:, None], flat, result)
    top = (kind == FRUSTUM) & (scaled[:, 2] > 0.995)
    slope = (1 - placed.table.taper[solid]) / (2 * half[:, 2]) * np.sqrt(half[:, 0] * half[:, 1])
    radial = np.hypot(result[:, 0], result[:, 1]) + 1e-9
    side = np.stack([result[:, 0] / radial, result[:, 1] / radial, slope], axis=1)
    result = np.where(((kind == FRUSTUM) & ~top)[:, None], side, result)
    result[top] = (0.0, 0.0, 1.0)
    result /= np.linalg.norm(result, axis=1, keepdims=True) + 1e-12
    x = cos * result[:, 0] - sin * result[:, 1]
    y = sin * result[:, 0] + cos * result[:, 1]
    return np.stack([x, y, result[:, 2]], axis=1)
