"""From head maps to boxes: candidates by score, then suppression. The reference for every faster decoder.

Formulas (OpenPCDet, mmdetection3d): x = (column + dx) * cell + x_min and y likewise with the cell of the head map;
z as it is; (l, w, h) = exp(dim); yaw = atan2(sin, cos). The score is sigmoid(hm).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D, Floats, Ints
from kd3d.geometry.nms import circle_nms, rotated_nms
from kd3d.runtime.anchors import anchor_candidates
from kd3d.runtime.heads import AnchorMaps, TaskMaps
from kd3d.spec.decode import DecodeSpec
from kd3d.spec.detector import DetectorSpec


def decode(heads: Sequence[Any], spec: DetectorSpec) -> Boxes3D:
    """Boxes of one frame: ``suppress(candidates(heads))``.

    Args:
        heads: one set of ``[C, H, W]`` numpy maps per task.
        spec: the detector; ``spec.decode`` says how.

    Returns:
        Task by task, best first within a task; labels index ``spec.head.classes``; velocity is NaN without ``vel``.

    Raises:
        DataError: the number of tasks differs, or a heatmap holds NaN.
    """
    return suppress(candidates(heads, spec), spec)


def candidates(heads: Sequence[Any], spec: DetectorSpec) -> Boxes3D:
    """Boxes before suppression: at most ``top_k`` per task, above the threshold, centre inside the limit.

    Arguments, order and errors as in ``decode``. Boxes with infinite sizes or places are dropped.
    """
    if len(heads) != len(spec.head.tasks):
        raise DataError(f"{spec.name} has {len(spec.head.tasks)} task(s), but got head maps of {len(heads)}.")
    if isinstance(heads[0], AnchorMaps):
        return anchor_candidates(heads[0], spec)
    found, first_label = [], 0
    for task, maps in enumerate(heads):
        if np.isnan(maps.hm).any():
            raise DataError(
                f"the heatmap of task {task} holds NaN: the network overflowed or its weights are damaged. "
                f"Check the checkpoint, or the precision of the engine."
            )
        found.append(_task_candidates(maps, spec, first_label))
        first_label += len(spec.head.tasks[task])
    return Boxes3D.concatenate(found)


def suppress(boxes: Boxes3D, spec: DetectorSpec) -> Boxes3D:
    """Suppression per task, over all of its classes.

    Args:
        boxes: with scores, as ``candidates`` gives.
        spec: the detector.

    Raises:
        DataError: the boxes have no scores.
    """
    if boxes.score is None:
        raise DataError("suppression needs boxes with scores.")
    kept, first_label = [], 0
    for task, classes in enumerate(spec.head.tasks):
        of_task = np.flatnonzero((boxes.label >= first_label) & (boxes.label < first_label + len(classes)))
        chosen = boxes.select(of_task)
        threshold = spec.decode.nms_threshold[task]
        keep = _keep_by_class if spec.decode.nms == "rotate_by_class" else _keep
        kept.append(of_task[keep(chosen, spec.decode, threshold)])
        first_label += len(classes)
    return boxes.select(np.concatenate(kept))


def _keep_by_class(boxes: Boxes3D, rule: DecodeSpec, threshold: float) -> Ints:
    """Each class suppresses itself; the best of all that are left, best first."""
    left = [np.zeros(0, np.int64)]
    for label in np.unique(boxes.label):
        mine = np.flatnonzero(boxes.label == label)
        left.append(mine[_keep(boxes.select(mine), rule, threshold)])
    kept = np.sort(np.concatenate(left))
    return kept[np.argsort(-np.asarray(boxes.score)[kept], kind="stable")][: rule.nms_post]


def _keep(boxes: Boxes3D, rule: DecodeSpec, threshold: float) -> Ints:
    score = np.asarray(boxes.score)
    if rule.nms.startswith("rotate"):
        return rotated_nms(boxes.bev, score, threshold=threshold, pre=rule.nms_pre, post=rule.nms_post)
    if rule.nms == "circle":
        return circle_nms(boxes.array[:, :2], score, threshold=threshold, pre=rule.nms_pre, post=rule.nms_post)
    return np.argsort(-score, kind="stable")[: min(rule.nms_pre, rule.nms_post)]


def _task_candidates(maps: TaskMaps, spec: DetectorSpec, first_label: int) -> Boxes3D:
    rule = spec.decode
    logits = np.asarray(maps.hm, np.float32)
    place = _above_threshold(logits, rule)
    place = place[_best_first(logits.ravel()[place], rule.top_k)]
    score = sigmoid(logits.ravel()[place])
    place, score = place[score > rule.score_threshold], score[score > rule.score_threshold]
    label, row, column = np.unravel_index(place, logits.shape)
    array = _boxes_at(maps, row, column, spec)
    low, high = np.array(rule.center_limit_m[:3], np.float32), np.array(rule.center_limit_m[3:], np.float32)
    good = np.isfinite(array[:, :7]).all(axis=1) & ((array[:, :3] >= low) & (array[:, :3] <= high)).all(axis=1)
    return Boxes3D(array[good], label[good] + first_label, score[good])


def _best_first(values: Floats, count: int) -> Ints:
    """Positions of the ``count`` highest values, best first; equal ones in order."""
    pool = np.arange(len(values))
    if len(values) > count:  # no need to sort a whole map
        pool = np.flatnonzero(values >= np.partition(values, len(values) - count)[len(values) - count])
    return pool[np.argsort(-values[pool], kind="stable")][:count]


def sigmoid(logits: Floats) -> Floats:
    """``1 / (1 + exp(-x))`` without overflow, in the precision of ``logits``."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(logits.dtype)


def _above_threshold(logits: Floats, rule: DecodeSpec) -> Ints:
    """Flat indices of ``logits [C, H, W]`` that may become boxes, ascending; some may be just below the threshold."""
    threshold = rule.score_threshold
    # A margin, because the caller compares the rounded score itself.
    lowest = np.log(threshold / (1 - threshold)) - 1e-3 if threshold > 0 else -np.inf
    place: Ints = np.flatnonzero(logits > lowest)
    if rule.peak_kernel == 3:
        place = place[_is_peak(logits, place)]
    if rule.top_k_rule == "cell":
        place = _best_class_per_cell(logits, place)
    return place


def _is_peak(logits: Floats, place: Ints) -> NDArray[np.bool_]:
    """Whether no neighbour in the 3 x 3 window of the same class is higher; equal neighbours are all peaks."""
    highest = logits.copy()  # of the window, one axis after the other
    np.maximum(highest[:, 1:], logits[:, :-1], out=highest[:, 1:])
    np.maximum(highest[:, :-1], logits[:, 1:], out=highest[:, :-1])
    column = highest.copy()
    np.maximum(highest[:, :, 1:], column[:, :, :-1], out=highest[:, :, 1:])
    np.maximum(highest[:, :, :-1], column[:, :, 1:], out=highest[:, :, :-1])
    peak: NDArray[np.bool_] = logits.ravel()[place] == highest.ravel()[place]
    return peak


def _best_class_per_cell(logits: Floats, place: Ints) -> Ints:
    """Of the places that share a cell the highest, of equal ones the first class; ascending."""
    cell = place % (logits.shape[1] * logits.shape[2])
    order = np.lexsort((place, -logits.ravel()[place], cell))
    first = np.ones(len(order), bool)
    first[1:] = cell[order][1:] != cell[order][:-1]
    return np.sort(place[order[first]])


def _boxes_at(maps: TaskMaps, row: Ints, column: Ints, spec: DetectorSpec) -> Floats:
    """``[K, 9]`` float32 boxes at cells of the head map."""
    grid = spec.output_grid
    cell = np.float32(grid.cell_m)
    array = np.full((len(row), 9), np.nan, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        array[:, 0] = (column.astype(np.float32) + maps.center[0, row, column]) * cell + np.float32(grid.x_min_m)
        array[:, 1] = (row.astype(np.float32) + maps.center[1, row, column]) * cell + np.float32(grid.y_min_m)
        array[:, 2] = maps.center_z[0, row, column]
        array[:, 3:6] = np.exp(np.asarray(maps.dim[:, row, column], np.float32)).T
        array[:, 6] = np.arctan2(maps.rot[0, row, column], maps.rot[1, row, column])
        if maps.vel is not None:
            array[:, 7:9] = maps.vel[:, row, column].T
    return array
