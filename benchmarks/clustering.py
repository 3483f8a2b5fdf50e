"""A detector without learning: ground removal, clustering, and a class by the nearest mean size.

The generated world must be hard enough that this stays far below a trained detector (benchmarks/world_gate.py).
"""

from __future__ import annotations

import numpy as np
from sklearn.cluster import DBSCAN

from kd3d.datasets.sample import Sample
from kd3d.geometry.boxes import Boxes3D, Floats

# Mean length, width, height per class over nuScenes in metres, rounded (CBGS, arXiv:1908.09492, anchors on such means).
MEAN_SIZE_M = {
    "car": (4.6, 1.95, 1.73),
    "truck": (6.9, 2.5, 2.85),
    "construction_vehicle": (6.4, 2.85, 3.2),
    "bus": (11.1, 2.95, 3.5),
    "trailer": (12.3, 2.9, 3.9),
    "barrier": (0.5, 2.5, 0.98),
    "motorcycle": (2.1, 0.77, 1.47),
    "bicycle": (1.7, 0.6, 1.3),
    "pedestrian": (0.73, 0.67, 1.77),
    "traffic_cone": (0.4, 0.4, 1.07),
}


def ground_height(points: Floats, cell_m: float = 4.0) -> Floats:
    """Height of the ground under each point: the 5th percentile of z in its cell. ``[N, 3+] -> [N]``."""
    key = np.floor(points[:, :2] / cell_m).astype(np.int64)
    _, inverse = np.unique(key, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    order = np.lexsort((points[:, 2], inverse))
    starts = np.flatnonzero(np.r_[True, np.diff(inverse[order]) > 0])
    counts = np.diff(np.r_[starts, len(order)])
    level = points[order[starts + (counts * 0.05).astype(int)], 2]
    return level[inverse]


def smallest_rectangle(xy: Floats) -> tuple[Floats, Floats, float]:
    """Centre, (length, width) and yaw of the rectangle of least area over 36 headings. ``xy`` is ``[N, 2]``."""
    best = None
    for yaw in np.linspace(0, np.pi / 2, 36, endpoint=False):
        turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
        local = xy @ turn.T
        low, high = local.min(0), local.max(0)
        area = float(np.prod(high - low + 0.05))
        if best is None or area < best[0]:
            best = (area, turn.T @ ((low + high) / 2), high - low, yaw)
    assert best is not None
    _, center, size, yaw = best
    return (center, size, yaw) if size[0] >= size[1] else (center, size[::-1], yaw + np.pi / 2)


def cluster_boxes(sample: Sample, *, min_points: int = 5) -> Boxes3D:
    """Boxes of ``sample`` from clusters of its points above ground; labels index ``sample.classes``."""
    points = sample.points
    height = points[:, 2] - ground_height(points)
    kept = points[(height > 0.25) & (height < 4.5) & (np.abs(points[:, :2]).max(1) < 52)]
    if len(kept) < min_points:
        return Boxes3D.empty(scored=True)
    cluster = DBSCAN(eps=0.7, min_samples=4).fit_predict(kept[:, :2])
    names = list(sample.classes)
    means = np.array([MEAN_SIZE_M[name] for name in names])
    rows, labels, scores = [], [], []
    for number in range(cluster.max() + 1):
        members = kept[cluster == number]
        if len(members) < min_points:
            continue
        center, size, yaw = smallest_rectangle(members[:, :2])
        low, high = members[:, 2].min() - 0.25, members[:, 2].max()
        observed = np.array([size[0], size[1], high - low])
        # Barriers are wider than long in nuScenes; both orders of a footprint are tried for every class.
        misfit = np.minimum(
            np.abs(np.log((observed + 0.1) / (means + 0.1))).sum(1),
            np.abs(np.log((observed[[1, 0, 2]] + 0.1) / (means + 0.1))).sum(1),
        )
        label = int(misfit.argmin())
        rows.append([*center, (low + high) / 2, *means[label], yaw, 0.0, 0.0])
        labels.append(label)
        scores.append(float(np.exp(-misfit[label]) * min(1.0, len(members) / 30)))
    if not rows:
        return Boxes3D.empty(scored=True)
    return Boxes3D(np.array(rows, np.float32), np.array(labels), np.array(scores, np.float32))
