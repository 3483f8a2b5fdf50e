"""Matching detections to labels by the rules of the KITTI object benchmark.

Geiger et al., CVPR 2012, and the development kit's evaluation program: what counts, what is ignored, and in which order
labels choose detections. One call handles one frame, one class, one difficulty and one kind of overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.kitti_files import KittiAnnotation
from kd3d.geometry.boxes import Floats, Ints

COUNTS, IGNORED, OTHER = 0, 1, -1
NEIGHBOURS = {"Car": "Van", "Pedestrian": "Person_sitting"}


@dataclass(frozen=True)
class Difficulty:
    """Which labels count: at least ``min_height_px`` high, at most so far occluded and truncated."""

    name: str
    min_height_px: float
    max_occlusion: int
    max_truncation: float


DIFFICULTIES = (Difficulty("easy", 40, 0, 0.15), Difficulty("moderate", 25, 1, 0.3), Difficulty("hard", 25, 2, 0.5))


@dataclass(frozen=True)
class MatchCase:
    """One frame, ready to be matched.

    Args:
        label_role: ``[G]``: counts, is ignored (a detection on it is neither right nor wrong), or is of another class.
        found_role: ``[D]`` likewise; a detection too small for the difficulty is ignored.
        score: ``[D]``.
        overlap: ``[D, G]`` IoU.
        excused: ``[D]`` lies in a ``DontCare`` region far enough to be no false positive.
    """

    label_role: Ints
    found_role: Ints
    score: Floats
    overlap: Floats
    excused: NDArray[np.bool_]


def label_roles(labels: KittiAnnotation, name: str, difficulty: Difficulty) -> Ints:
    """``[G]`` role of each label for a class at a difficulty."""
    height = labels.bbox_px[:, 3] - labels.bbox_px[:, 1]
    hard = (
        (labels.occlusion > difficulty.max_occlusion)
        | (labels.truncation > difficulty.max_truncation)
        | (height <= difficulty.min_height_px)
    )
    same = labels.is_type(name)
    roles = np.full(len(labels), OTHER, np.int64)
    roles[labels.is_type(NEIGHBOURS.get(name, "")) | (same & hard)] = IGNORED
    roles[same & ~hard] = COUNTS
    return roles


def found_roles(found: KittiAnnotation, name: str, difficulty: Difficulty) -> Ints:
    """``[D]`` role of each detection. As in the official program, one that is too small is ignored in any class."""
    height = np.abs(found.bbox_px[:, 3] - found.bbox_px[:, 1])
    roles = np.where(found.is_type(name), COUNTS, OTHER)
    return np.where(height < difficulty.min_height_px, IGNORED, roles)


def hit_scores(case: MatchCase, min_overlap: float) -> list[float]:
    """Scores of the true positives when every detection takes part; labels choose the best score that overlaps."""
    free = case.found_role != OTHER
    scores = []
    for label in np.flatnonzero(case.label_role != OTHER):
        options = np.flatnonzero(free & (case.overlap[:, label] > min_overlap))
        if not len(options):
            continue
        best = options[np.argmax(case.score[options])]
        free[best] = False
        if case.label_role[label] == COUNTS and case.found_role[best] == COUNTS:
            scores.append(float(case.score[best]))
    return scores


def count_hits(case: MatchCase, min_overlap: float, threshold: float) -> tuple[int, int]:
    """True and false positives among detections with a score of ``threshold`` or more.

    Labels choose, in their order, the counting detection that overlaps most, or else the first ignored one.
    """
    active = case.score >= threshold
    free = active & (case.found_role != OTHER)
    hits = 0
    for label in np.flatnonzero(case.label_role != OTHER):
        options = np.flatnonzero(free & (case.overlap[:, label] > min_overlap))
        if not len(options):
            continue
        counting = options[case.found_role[options] == COUNTS]
        best = counting[np.argmax(case.overlap[counting, label])] if len(counting) else options[0]
        free[best] = False
        if case.label_role[label] == COUNTS and case.found_role[best] == COUNTS:
            hits += 1
    return hits, int((free & (case.found_role == COUNTS) & ~case.excused).sum())
