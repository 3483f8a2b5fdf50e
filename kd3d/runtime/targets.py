"""What a perfect centre head would put out for given boxes: Gaussian heatmaps and regression values at centre cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D, Floats, Ints
from kd3d.spec.detector import DetectorSpec

MIN_OVERLAP, MIN_RADIUS = 0.1, 2  # of the Gaussians; published values


@dataclass(frozen=True)
class TaskTargets:
    """Targets of one task on the head map of ``H`` x ``W`` cells.

    Args:
        heatmap: ``[C, H, W]`` float32 in 0..1, exactly 1 at centres.
        cell: ``[K]`` int64, ``row * W + column`` of each object.
        values: ``[K, 8 or 10]`` float32: dx, dy (cells), z, log l, log w, log h, sin, cos of yaw, (vx, vy).
        mask: as ``values``, 1 where the value is known; 0 for an unknown velocity.
    """

    heatmap: Floats
    cell: Ints
    values: Floats
    mask: Floats


def assign_targets(
    boxes: Boxes3D,
    spec: DetectorSpec,
    *,
    max_objects: int = 500,
    min_overlap: float = MIN_OVERLAP,
    min_radius: int = MIN_RADIUS,
) -> tuple[TaskTargets, ...]:
    """Targets of one frame, one per task.

    Args:
        boxes: labels index ``spec.head.classes``. Boxes whose centre is outside of the grid in x or y, or whose
            size is not positive, get no target.
        spec: the detector.
        max_objects: per task; the first ones count.
        min_overlap: IoU that a box of the same size with a corner at the Gaussian's edge still has.
        min_radius: of the Gaussian, in cells.

    Raises:
        DataError: a label is outside of the classes.
        SpecError: the detector has no centre head.
    """
    spec.center_head  # noqa: B018  says so where there is none
    if len(boxes) and not 0 <= boxes.label.min() <= boxes.label.max() < len(spec.head.classes):
        raise DataError(
            f"labels must be 0..{len(spec.head.classes) - 1} for {', '.join(spec.head.classes)}, "
            f"but go from {boxes.label.min()} to {boxes.label.max()}."
        )
    found, first_label = [], 0
    for classes in spec.head.tasks:
        mine = boxes.select((boxes.label >= first_label) & (boxes.label < first_label + len(classes)))
        relative = Boxes3D(mine.array, mine.label - first_label)
        found.append(_task_targets(relative, len(classes), spec, (max_objects, min_overlap, min_radius)))
        first_label += len(classes)
    return tuple(found)


def gaussian_radius(length: Floats, width: Floats, min_overlap: float) -> Floats:
    """CornerNet's radius for boxes of ``length`` and ``width`` ``[N]`` (cells), ``[N]``.

    The least of its three cases, with the roots as its published code has them (all divided by 2, where the quadratic
    formula has twice the leading coefficient): every centre-based detector is trained with these.
    """
    total, area = length + width, length * width
    both_shift = total + np.sqrt(np.maximum(total**2 - 4 * area * (1 - min_overlap) / (1 + min_overlap), 0))
    inside = 2 * total + np.sqrt(np.maximum(4 * total**2 - 16 * (1 - min_overlap) * area, 0))
    b = -2 * min_overlap * total
    outside = b + np.sqrt(b**2 + 16 * min_overlap * (1 - min_overlap) * area)
    return np.asarray(np.minimum(np.minimum(both_shift, inside), outside) / 2)


def _task_targets(boxes: Boxes3D, classes: int, spec: DetectorSpec, rule: tuple[int, float, int]) -> TaskTargets:
    grid = spec.output_grid
    max_objects, min_overlap, min_radius = rule
    x = (boxes.array[:, 0].astype(np.float64) - grid.x_min_m) / grid.cell_m
    y = (boxes.array[:, 1].astype(np.float64) - grid.y_min_m) / grid.cell_m
    good = (x >= 0) & (x < grid.nx) & (y >= 0) & (y < grid.ny) & (boxes.size_m > 0).all(axis=1)
    chosen = np.flatnonzero(good)[:max_objects]
    boxes, x, y = boxes.select(chosen), x[chosen], y[chosen]
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    size = boxes.size_m.astype(np.float64) / grid.cell_m
    radius = np.maximum(gaussian_radius(size[:, 0], size[:, 1], min_overlap).astype(np.int64), min_radius)
    heatmap = np.zeros((classes, grid.ny, grid.nx), np.float32)
    for i in range(len(boxes)):
        draw_gaussian(heatmap[boxes.label[i]], int(row[i]), int(column[i]), int(radius[i]))
    values = _regression(boxes, np.stack([x - column, y - row], axis=1), spec.head.velocity)
    known = np.isfinite(values)
    return TaskTargets(heatmap, row * grid.nx + column, np.where(known, values, 0), known.astype(np.float32))


def _regression(boxes: Boxes3D, offset: Floats, velocity: bool) -> Floats:
    parts = [
        offset,
        boxes.array[:, 2:3],
        np.log(boxes.size_m),
        np.sin(boxes.array[:, 6:7]),
        np.cos(boxes.array[:, 6:7]),
    ]
    if velocity:
        moving = boxes.velocity_m_s
        known = np.isfinite(moving).all(axis=1, keepdims=True)
        parts.append(np.where(known, moving, np.nan))
    values: Floats = np.concatenate(parts, axis=1).astype(np.float32)
    return values


def draw_gaussian(heatmap: Floats, row: int, column: int, radius: int, *, peak: float = 1.0) -> None:
    """Raise ``heatmap [H, W]`` in place to a Gaussian of sigma (2 radius + 1) / 6, cut to a square of ``radius``."""
    sigma = (2 * radius + 1) / 6
    reach = np.arange(-radius, radius + 1)
    bell = np.exp(-(reach[:, None] ** 2 + reach[None] ** 2) / (2 * sigma**2)).astype(np.float32) * np.float32(peak)
    height, width = heatmap.shape
    top, left = max(row - radius, 0), max(column - radius, 0)
    bottom, right = min(row + radius + 1, height), min(column + radius + 1, width)
    window = heatmap[top:bottom, left:right]
    shift_y, shift_x = radius - row, radius - column
    np.maximum(window, bell[top + shift_y : bottom + shift_y, left + shift_x : right + shift_x], out=window)
