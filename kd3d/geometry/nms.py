"""Suppression of boxes that describe the same object, best score first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError
from kd3d.geometry.boxes import Floats
from kd3d.geometry.iou import paired_iou
from kd3d.geometry.nms_kernel import compiled_suppress

Kept = NDArray[np.int64]


def rotated_nms(boxes: Floats, scores: Floats, *, threshold: float, pre: int, post: int) -> Kept:
    """Drop a box where its BEV IoU with a better kept box is above ``threshold``.

    Args:
        boxes: ``[N, 5]`` x, y, length, width, yaw.
        scores: ``[N]``; equal scores keep their order.
        threshold: IoU; 1 or more suppresses nothing.
        pre: only the best ``pre`` boxes are looked at.
        post: at most ``post`` boxes are kept.

    Returns:
        ``[K]`` indices into ``boxes``, best first.

    Raises:
        DataError: shapes that do not fit, or values that are not finite.
    """
    order = _best_first(boxes, scores, 5, pre)
    chosen = np.asarray(boxes, np.float64)[order]
    chosen[:, 2:4] = np.maximum(chosen[:, 2:4], 0)
    suppress = compiled_suppress()
    kept = rotated_reference(chosen, threshold, post) if suppress is None else suppress(chosen, threshold, post)
    return order[np.array(kept, np.int64)]


def rotated_reference(chosen: Floats, threshold: float, post: int) -> Kept:
    """``rotated_nms`` in numpy alone, of ``chosen [N, 5]`` sorted best first."""
    reach = np.hypot(chosen[:, 2], chosen[:, 3]) / 2
    first, second = _close_pairs(chosen[:, :2], reach)
    iou = paired_iou(chosen[first], chosen[second])
    hit = iou > threshold
    return _greedy(len(chosen), first[hit], second[hit], post)


def circle_nms(centers: Floats, scores: Floats, *, threshold: float, pre: int, post: int) -> Kept:
    """Drop a box where its squared centre distance to a better kept box is at most ``threshold`` (square metres).

    This is det3d's and mmdetection3d's circle NMS: what they call radius is compared with the squared distance.
    ``centers`` is ``[N, 2]``; everything else as in ``rotated_nms``.
    """
    order = _best_first(centers, scores, 2, pre)
    chosen = np.asarray(centers, np.float64)[order]
    alive = np.ones(len(order), bool)
    kept: list[int] = []
    for box in range(len(order)):  # only kept boxes are compared with what follows them
        if len(kept) == post:
            break
        if alive[box]:
            kept.append(box)
            distance = ((chosen[box] - chosen[box + 1 :]) ** 2).sum(axis=1)
            alive[box + 1 :] &= ~(distance <= threshold)
    return order[np.array(kept, np.int64)]


def _best_first(boxes: Floats, scores: Floats, columns: int, pre: int) -> Kept:
    boxes, scores = np.asarray(boxes), np.asarray(scores)
    if boxes.ndim != 2 or boxes.shape[1] != columns or scores.shape != (len(boxes),):
        raise DataError(
            f"suppression needs boxes of shape (N, {columns}) and N scores, but got {boxes.shape} and {scores.shape}."
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise DataError("suppression got boxes or scores that are NaN or infinite. Remove or repair them.")
    return np.argsort(-scores, kind="stable")[:pre]


def _close_pairs(centers: Floats, reach: Floats) -> tuple[Kept, Kept]:
    """Pairs ``first < second`` whose circles touch, ordered by ``first``."""
    difference = centers[:, None] - centers[None]
    close = (difference**2).sum(axis=2) <= (reach[:, None] + reach[None]) ** 2
    first, second = np.nonzero(np.triu(close, k=1))
    return first, second


def _greedy(boxes: int, first: Kept, second: Kept, post: int) -> Kept:
    """Walk down the order; a box still alive removes the ``second`` of its pairs. ``first`` is sorted."""
    alive = np.ones(boxes, bool)
    start = np.searchsorted(first, np.arange(boxes + 1))
    for box in np.unique(first):
        if alive[box]:
            alive[second[start[box] : start[box + 1]]] = False
    return np.flatnonzero(alive)[:post]
