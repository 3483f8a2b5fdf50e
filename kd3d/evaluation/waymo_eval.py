"""Waymo's average precision in 3D, plain (AP) and weighted by heading (APH), at LEVEL_1 and LEVEL_2.

Sun et al., CVPR 2020 (arXiv:1912.04838), section 4.1, with the settings of the official tool: 101 score cut-offs, IoU
0.7 for vehicles and 0.5 for pedestrians and cyclists, the Hungarian method for matching, recall steps of 0.05.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd3d.datasets.waymo_labels import CLASSES, WaymoLabels
from kd3d.errors import DataError
from kd3d.evaluation.waymo_matching import Counts, count_frame
from kd3d.geometry.boxes import Boxes3D, Floats

MIN_IOU = {"Vehicle": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
LEVELS = ("LEVEL_1", "LEVEL_2")
_RECALL_STEP = 0.05


@dataclass(frozen=True)
class WaymoAP:
    """``value[class][level]["AP" or "APH"]`` in 0..1, and how many labels counted, ``objects[class][level]``."""

    value: dict[str, dict[str, dict[str, float]]]
    objects: dict[str, dict[str, int]]

    def mean(self, level: str, name: str) -> float:
        """Mean over the classes, 0 for one without labels, as the official tool has it."""
        return float(np.mean([self.value[kind][level][name] for kind in self.value]))


def waymo_ap(predictions: Sequence[Boxes3D], labels: Sequence[WaymoLabels], classes: Sequence[str]) -> WaymoAP:
    """Average precision by the official rules; zones without labels are not looked at.

    Labels without a LiDAR point do not count. At LEVEL_1 a label of LEVEL_2 is neither found nor missed: a detection of
    it is right, its absence is no fault.

    Args:
        predictions: per frame, scored; ``label`` indexes ``classes``.
        labels: per frame.
        classes: among Vehicle, Pedestrian and Cyclist.

    Raises:
        DataError: the numbers of frames differ, a frame has no scores, or a class is none of Waymo's.
    """
    if len(predictions) != len(labels):
        raise DataError(f"{len(predictions)} frames are predicted, but {len(labels)} labelled. Predict them all.")
    if any(found.score is None for found in predictions):
        raise DataError("predicted boxes have no scores. Give every box one.")
    unknown = [name for name in classes if name not in MIN_IOU]
    if unknown:
        raise DataError(f"{', '.join(unknown)}: not a class of the Waymo Open Dataset. Use {', '.join(CLASSES)}.")
    counted = [each.select(each.lidar_points > 0) for each in labels]
    value: dict[str, dict[str, dict[str, float]]] = {}
    objects: dict[str, dict[str, int]] = {}
    for index, name in enumerate(classes):
        counts, levels = Counts.zero(), np.zeros(0, np.int64)
        for found, truth in zip(predictions, counted, strict=True):
            wanted = truth.select(truth.boxes.label == CLASSES.index(name))
            these = found.select(found.label == index)
            score = np.zeros(0) if these.score is None else these.score
            counts += count_frame(these.array, score, (wanted.boxes.array, wanted.level), MIN_IOU[name])
            levels = np.concatenate([levels, wanted.level])
        value[name] = {level: level_ap(counts, i) for i, level in enumerate(LEVELS)}
        objects[name] = {"LEVEL_1": int((levels <= 1).sum()), "LEVEL_2": len(levels)}
    return WaymoAP(value, objects)


def level_ap(counts: Counts, level: int) -> dict[str, float]:
    """AP and APH from the counts of all frames.

    Args:
        counts: at every cut-off.
        level: 0 for LEVEL_1, 1 for LEVEL_2.
    """
    made = np.maximum(counts.hits + counts.wrong, 1)
    recall = counts.hits / np.maximum(counts.hits + counts.missed[level], 1)
    return {
        "AP": area(np.where(recall == 0, 1.0, counts.hits / made), recall),
        "APH": area(np.where(recall == 0, 1.0, counts.heading / made), recall),
    }


def area(precision: Floats, recall: Floats) -> float:
    """Area under the curve of precision over recall, as the official tool integrates it.

    Of points of equal recall the highest precision counts; precision is then that of the best point of at least this
    recall. Where two recalls are more than 0.05 apart, the right one's precision holds until 0.05 before the left one.
    Between points it is linear, and left of the first it stays what it is there.

    Args:
        precision: ``[C]``.
        recall: ``[C]`` in any order.
    """
    recalls, place = np.unique(np.concatenate([[0.0], recall]), return_inverse=True)
    best = np.zeros(len(recalls))
    np.maximum.at(best, place, np.concatenate([[1.0], precision]))
    curve: list[tuple[float, float]] = []
    highest, last = 0.0, float(recalls[0])
    for here, value in zip(recalls[::-1].tolist(), best[::-1].tolist(), strict=True):
        while last - here > _RECALL_STEP + 1e-6:
            last -= _RECALL_STEP
            curve.append((last, highest))
        highest, last = max(highest, value), here
        curve.append((here, highest))
    if len(curve) > 1:
        curve[-1] = (curve[-1][0], curve[-2][1])  # the point at recall 0 is no measurement
    r, p = np.array(curve).T
    return float(0.5 * ((r[:-1] - r[1:]) * (p[:-1] + p[1:])).sum())
