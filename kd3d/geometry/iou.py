"""Overlap of rotated boxes, by clipping polygons, for all pairs at once. float64 inside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError
from kd3d.geometry.boxes import Floats

Doubles = NDArray[np.float64]
_PAIRS_AT_ONCE = 1 << 14  # bounds memory: a pair takes about a kilobyte while it is clipped


def bev_corners(boxes: Floats) -> Doubles:
    """``[N, 4, 2]`` corners, counter-clockwise, of ``[N, 5]`` boxes (x, y, length, width, yaw)."""
    boxes = _checked(boxes, 5)
    half = boxes[:, None, 2:4] * 0.5 * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    cos, sin = np.cos(boxes[:, 4:5]), np.sin(boxes[:, 4:5])
    x = boxes[:, 0:1] + half[..., 0] * cos - half[..., 1] * sin
    y = boxes[:, 1:2] + half[..., 0] * sin + half[..., 1] * cos
    return np.stack([x, y], axis=-1)


def bev_intersection(a: Floats, b: Floats) -> Doubles:
    """Area in common, in square metres.

    Args:
        a: ``[N, 5]`` x, y, length, width, yaw (metres, radians). A negative size counts as zero.
        b: ``[M, 5]``.

    Returns:
        ``[N, M]``.

    Raises:
        DataError: another shape, or NaN or infinite values.
    """
    a, b = _checked(a, 5), _checked(b, 5)
    area = np.zeros((len(a), len(b)))
    rows, columns = np.nonzero(_may_meet(a, b))
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        row, column = rows[start : start + _PAIRS_AT_ONCE], columns[start : start + _PAIRS_AT_ONCE]
        area[row, column] = paired_intersection(a[row], b[column])
    return area


def bev_iou(a: Floats, b: Floats) -> Doubles:
    """Intersection over union of ``a [N, 5]`` and ``b [M, 5]``, ``[N, M]``; 0 where both boxes have no area.

    Arguments and errors as in ``bev_intersection``.
    """
    a, b = _checked(a, 5), _checked(b, 5)
    return _ratio(bev_intersection(a, b), a[:, 2] * a[:, 3], b[:, 2] * b[:, 3])


def iou_3d(a: Floats, b: Floats) -> Doubles:
    """Intersection over union of volumes of boxes that stand upright.

    Args:
        a: ``[N, 7 or more]`` x, y, z of the centre, length, width, height, yaw.
        b: ``[M, 7 or more]``.

    Returns:
        ``[N, M]``; 0 where both boxes have no volume.

    Raises:
        DataError: another shape, or NaN or infinite values in the first seven columns.
    """
    a, b = _checked(a, 7), _checked(b, 7)
    top = np.minimum((a[:, 2] + a[:, 5] / 2)[:, None], (b[:, 2] + b[:, 5] / 2)[None])
    bottom = np.maximum((a[:, 2] - a[:, 5] / 2)[:, None], (b[:, 2] - b[:, 5] / 2)[None])
    plane = [0, 1, 3, 4, 6]
    common = bev_intersection(a[:, plane], b[:, plane]) * np.maximum(top - bottom, 0)
    return _ratio(common, a[:, 3:6].prod(axis=1), b[:, 3:6].prod(axis=1))


def paired_intersection(a: Floats, b: Floats) -> Doubles:
    """``[K]`` areas in common of ``a [K, 5]`` and ``b [K, 5]``, pair by pair.

    Box b is clipped by the four sides of box a (Sutherland-Hodgman) in a's own frame, where the sides are axes and
    large coordinates cost no digits.
    """
    offset = b[:, :2] - a[:, :2]
    cos, sin = np.cos(a[:, 4]), np.sin(a[:, 4])
    local = np.array(b, np.float64)
    local[:, 0] = offset[:, 0] * cos + offset[:, 1] * sin
    local[:, 1] = offset[:, 1] * cos - offset[:, 0] * sin
    local[:, 4] = b[:, 4] - a[:, 4]
    polygon = bev_corners(local)
    for axis in (0, 1):
        half = a[:, 2 + axis, None] / 2
        polygon = _clip(polygon, half - polygon[..., axis])
        polygon = _clip(polygon, half + polygon[..., axis])
    x, y = polygon[..., 0], polygon[..., 1]
    twice = (x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1)
    return np.asarray(np.maximum(twice / 2, 0), np.float64)


def paired_iou(a: Floats, b: Floats) -> Doubles:
    """``[K]`` intersections over union of ``a [K, 5]`` and ``b [K, 5]``, pair by pair; many pairs are done in parts."""
    a, b = _checked(a, 5), _checked(b, 5)
    parts = range(0, len(a), _PAIRS_AT_ONCE)
    areas = [paired_intersection(a[i : i + _PAIRS_AT_ONCE], b[i : i + _PAIRS_AT_ONCE]) for i in parts]
    common = np.concatenate([np.zeros(0), *areas])
    union = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - common
    return np.asarray(np.where(union > 0, common / np.where(union > 0, union, 1.0), 0.0))


def _clip(polygon: Doubles, inside: Doubles) -> Doubles:
    """Cut convex polygons by a half plane.

    Args:
        polygon: ``[K, V, 2]``; vertices may repeat.
        inside: ``[K, V]`` signed distance of the vertices, positive inside.

    Returns:
        ``[K, V + 1, 2]``; unused places repeat the first vertex, which changes no area. All zeros if nothing is left.
    """
    following, inside_following = np.roll(polygon, -1, axis=1), np.roll(inside, -1, axis=1)
    keep = inside >= 0
    crosses = keep != (inside_following >= 0)
    along = inside / np.where(crosses, inside - inside_following, 1.0)
    crossing = polygon + along[..., None] * (following - polygon)
    pairs, vertices = keep.shape
    both = np.stack([polygon, crossing], axis=2).reshape(pairs, 2 * vertices, 2)
    valid = np.stack([keep, crosses], axis=2).reshape(pairs, 2 * vertices)
    # Valid vertices to the front, in their order; a convex polygon gains at most one.
    order = np.argsort(~valid, axis=1, kind="stable")[:, : vertices + 1]
    count = np.minimum(valid.sum(axis=1), vertices + 1)[:, None]
    order = np.where(np.arange(vertices + 1) < count, order, order[:, :1])
    cut: Doubles = both[np.arange(pairs)[:, None], order]
    cut[count[:, 0] == 0] = 0
    return cut


def _may_meet(a: Doubles, b: Doubles) -> NDArray[np.bool_]:
    """Pairs whose circumscribed circles touch."""
    reach = np.hypot(a[:, 2], a[:, 3])[:, None] / 2 + np.hypot(b[:, 2], b[:, 3])[None] / 2
    distance = (a[:, None, 0] - b[None, :, 0]) ** 2 + (a[:, None, 1] - b[None, :, 1]) ** 2
    return np.asarray(distance <= reach**2)


def _ratio(common: Doubles, size_a: Doubles, size_b: Doubles) -> Doubles:
    union = size_a[:, None] + size_b[None] - common
    return np.asarray(np.where(union > 0, common / np.where(union > 0, union, 1.0), 0.0))


def _checked(boxes: Floats, columns: int) -> Doubles:
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] < columns or (columns == 5 and boxes.shape[1] != 5):
        more = "" if columns == 5 else " or more"
        raise DataError(f"boxes must be an array with shape (N, {columns}{more}), but got shape {boxes.shape}.")
    boxes = boxes[:, :columns].copy()
    if not np.isfinite(boxes).all():
        row = np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0]
        raise DataError(f"box {row} has NaN or infinite values: {boxes[row].tolist()}. Remove or repair it.")
    sizes = slice(2, 4) if columns == 5 else slice(3, 6)
    boxes[:, sizes] = np.maximum(boxes[:, sizes], 0)
    return boxes
