"""Which points lie inside which boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd3d.geometry.boxes import Floats


def points_in_boxes(points: Floats, boxes: Floats) -> NDArray[np.bool_]:
    """Membership of points in rotated boxes, faces included.

    Args:
        points: ``[N, 3+]``: x, y, z in metres first.
        boxes: ``[M, 7+]``: x, y, z of the centre, length, width, height, yaw.

    Returns:
        ``[M, N]``; row ``m`` marks the points of box ``m``.
    """
    inside = np.zeros((len(boxes), len(points)), bool)
    x, y, z = (np.asarray(points[:, axis], np.float64) for axis in range(3))
    for row, box in zip(inside, np.asarray(boxes, np.float64), strict=True):
        reach = 0.5 * np.hypot(box[3], box[4])
        # The square around the circle around the box: most points leave here, before the rotation.
        near = np.flatnonzero((np.abs(x - box[0]) <= reach) & (np.abs(y - box[1]) <= reach))
        dx, dy = x[near] - box[0], y[near] - box[1]
        cos, sin = np.cos(box[6]), np.sin(box[6])
        along, across = dx * cos + dy * sin, dy * cos - dx * sin
        row[near] = (
            (np.abs(along) <= box[3] / 2) & (np.abs(across) <= box[4] / 2) & (np.abs(z[near] - box[2]) <= box[5] / 2)
        )
    return inside
