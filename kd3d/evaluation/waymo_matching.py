"""Matching detections to labels as the Waymo Open Dataset's metrics do: by the Hungarian method, at each score cut-off.

Sun et al., CVPR 2020 (arXiv:1912.04838), section 4.1, and the settings of the official tool: pairs whose 3D IoU reaches
the threshold of the class, the sum of IoU (in thousandths) as large as possible. Scores play no part in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd3d.geometry.boxes import Floats, Ints
from kd3d.geometry.iou import iou_3d
from kd3d.optional import require

CUTOFFS = np.array([*(i * 0.01 for i in range(100)), 1.0], np.float32)
_STEPS = 1000  # of the IoU in a matching


@dataclass(frozen=True)
class Counts:
    """What detections above each cut-off found, ``[101]`` each; frames add up.

    Args:
        hits: matched detections, of labels of either level.
        heading: sum of their heading accuracies.
        wrong: detections without a match.
        missed: ``[2, 101]`` labels without a match, of LEVEL_1, and of LEVEL_1 or LEVEL_2.
    """

    hits: Floats
    heading: Floats
    wrong: Floats
    missed: Floats

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.hits + other.hits, self.heading + other.heading, self.wrong + other.wrong, self.missed + other.missed
        )

    @classmethod
    def zero(cls) -> Counts:
        """Of no frames."""
        count = len(CUTOFFS)
        return cls(np.zeros(count), np.zeros(count), np.zeros(count), np.zeros((2, count)))


def heading_accuracy(found_rad: Floats, label_rad: Floats) -> Floats:
    """``1 - |difference| / pi``, with the difference on the shorter way round: 1 for equal, 0 for opposite headings."""
    turn = np.abs(np.mod(np.asarray(found_rad, np.float64) - label_rad + np.pi, 2 * np.pi) - np.pi)
    return np.asarray(1 - turn / np.pi)


def match(iou: Floats, threshold: float) -> tuple[Ints, Ints]:
    """The pairs (detection, label) with the largest sum of IoU among those that reach ``threshold``.

    Args:
        iou: ``[D, G]``.
        threshold: a pair below it never matches.
    """
    allowed = iou.astype(np.float32) >= np.float32(threshold)
    found, label = np.nonzero(allowed)
    if len(np.unique(found)) == len(found) and len(np.unique(label)) == len(label):
        return found, label  # nothing to choose
    weight = np.where(allowed, np.floor(iou * _STEPS + 0.5), 0)
    rows, columns = require("scipy.optimize", extra="waymo").linear_sum_assignment(weight, maximize=True)
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def count_frame(found: Floats, score: Floats, truth: tuple[Floats, Ints], threshold: float) -> Counts:
    """Counts of one frame and one class.

    Args:
        found: ``[D, 7 or more]`` detected boxes.
        score: ``[D]``.
        truth: ``[G, 7 or more]`` labelled boxes, and ``[G]`` their levels.
        threshold: IoU that a match needs.
    """
    boxes, level = truth
    order = np.argsort(-score, kind="stable")
    found, score = found[order], score[order].astype(np.float32)
    iou = iou_3d(found, boxes) if len(found) and len(boxes) else np.zeros((len(found), len(boxes)))
    accuracy = heading_accuracy(found[:, 6, None], boxes[None, :, 6])
    active = (score[None, :] >= CUTOFFS[:, None]).sum(axis=1)  # detections are in the order of their scores
    counts = Counts.zero()
    for number in np.unique(active):
        rows, columns = match(iou[:number], threshold)
        at = active == number
        open_labels: NDArray[np.bool_] = np.ones(len(boxes), bool)
        open_labels[columns] = False
        counts.hits[at] = len(rows)
        counts.heading[at] = accuracy[rows, columns].sum()
        counts.wrong[at] = number - len(rows)
        counts.missed[0, at] = (open_labels & (level <= 1)).sum()
        counts.missed[1, at] = open_labels.sum()
    return counts
