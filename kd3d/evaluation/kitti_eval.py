"""KITTI average precision at 40 recall positions: image, bird's-eye view and 3D, in three difficulties.

AP|R40 after Simonelli et al., ICCV 2019 (arXiv:1905.12365), as on the KITTI server since October 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kd3d.datasets.kitti_files import KittiAnnotation
from kd3d.errors import DataError
from kd3d.evaluation.kitti_matching import (
    COUNTS,
    DIFFICULTIES,
    Difficulty,
    MatchCase,
    count_hits,
    found_roles,
    hit_scores,
    label_roles,
)
from kd3d.geometry.boxes import Floats
from kd3d.geometry.iou import bev_iou, iou_3d

MIN_OVERLAP = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
RECALL_POSITIONS = 40
Overlap = Callable[[KittiAnnotation, KittiAnnotation], Floats]


@dataclass(frozen=True)
class KittiAP:
    """``value[metric][class][difficulty]`` in 0..1, and how many labels counted, ``objects[class][difficulty]``.

    The official sampling sees at most one recall position per counted label, so that with ``n`` < 41 labels even a
    perfect detector reaches only ``(n - 1) / 40``.
    """

    value: dict[str, dict[str, dict[str, float]]]
    objects: dict[str, dict[str, int]]


def kitti_ap(
    predictions: Sequence[KittiAnnotation], ground_truth: Sequence[KittiAnnotation], classes: Sequence[str]
) -> KittiAP:
    """Average precision by the official matching rules.

    Args:
        predictions: per frame, scored, with outlines in the image (``camera_annotation`` makes them).
        ground_truth: per frame, every label, ``DontCare`` and unused types included.
        classes: among Car (IoU 0.7), Pedestrian and Cyclist (0.5).

    Raises:
        DataError: the numbers of frames differ, a frame has no scores, or a class has no official threshold.
    """
    if len(predictions) != len(ground_truth):
        raise DataError(f"{len(predictions)} frames are predicted, but {len(ground_truth)} labelled. Predict them all.")
    if any(found.score is None for found in predictions):
        raise DataError("predicted KITTI objects have no scores. Give every object one.")
    unknown = [name for name in classes if name not in MIN_OVERLAP]
    if unknown:
        raise DataError(f"{', '.join(unknown)}: not evaluated in KITTI. Use {', '.join(MIN_OVERLAP)}.")
    frames = list(zip(predictions, ground_truth, strict=True))
    value: dict[str, dict[str, dict[str, float]]] = {}
    for metric, overlap in OVERLAPS.items():
        overlaps = [overlap(found, labels) for found, labels in frames]
        excuses = [_excused(found, labels) if metric == "image" else None for found, labels in frames]
        value[metric] = {name: {} for name in classes}
        for name in classes:
            for difficulty in DIFFICULTIES:
                cases = [
                    _case(found, labels, name=name, difficulty=difficulty, overlap=matrix, dont_care=excuse)
                    for (found, labels), matrix, excuse in zip(frames, overlaps, excuses, strict=True)
                ]
                value[metric][name][difficulty.name] = average_precision(cases, MIN_OVERLAP[name])
    objects = {
        name: {
            level.name: sum(int((label_roles(labels, name, level) == COUNTS).sum()) for labels in ground_truth)
            for level in DIFFICULTIES
        }
        for name in classes
    }
    return KittiAP(value, objects)


def average_precision(cases: Sequence[MatchCase], min_overlap: float) -> float:
    """AP|R40 over frames: the mean of the interpolated precision at recalls 1/40 to 1; 0 without counted labels."""
    labels = sum(int((case.label_role == COUNTS).sum()) for case in cases)
    scores = [score for case in cases for score in hit_scores(case, min_overlap)]
    thresholds = recall_thresholds(scores, labels)
    hits, misses = np.zeros(len(thresholds)), np.zeros(len(thresholds))
    for case in cases:
        counted: dict[int, tuple[int, int]] = {}
        for i, threshold in enumerate(thresholds):
            # A frame's counts change only when another of its detections passes the threshold.
            active = int((case.score >= threshold).sum())
            if active not in counted:
                counted[active] = count_hits(case, min_overlap, threshold)
            hits[i] += counted[active][0]
            misses[i] += counted[active][1]
    precision = np.zeros(RECALL_POSITIONS + 1)
    precision[: len(thresholds)] = hits / np.maximum(hits + misses, 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision[1:].mean())


def recall_thresholds(scores: Sequence[float], labels: int) -> list[float]:
    """Scores at which recall comes closest to 0, 1/40, ... 1, best first, as the official program picks them."""
    ordered = sorted(scores, reverse=True)
    thresholds: list[float] = []
    for i, score in enumerate(ordered):
        last = i == len(ordered) - 1
        recall, next_recall = (i + 1) / labels, (i + 2) / labels
        wanted = len(thresholds) / RECALL_POSITIONS
        if not last and next_recall - wanted < wanted - recall:
            continue
        thresholds.append(score)
    return thresholds[: RECALL_POSITIONS + 1]


def _case(
    found: KittiAnnotation,
    labels: KittiAnnotation,
    *,
    name: str,
    difficulty: Difficulty,
    overlap: Floats,
    dont_care: Floats | None,
) -> MatchCase:
    excused = np.zeros(len(found), bool) if dont_care is None else dont_care > MIN_OVERLAP[name]
    score = np.zeros(0) if found.score is None else found.score
    return MatchCase(
        label_role=label_roles(labels, name, difficulty),
        found_role=found_roles(found, name, difficulty),
        score=score,
        overlap=overlap,
        excused=excused,
    )


def _excused(found: KittiAnnotation, labels: KittiAnnotation) -> Floats:
    """``[D]`` largest share of a detection's outline that lies in one ``DontCare`` region.

    As in the official program these regions, which are known in the image only, excuse in the image metric only.
    """
    regions = labels.bbox_px[labels.is_type("DontCare")]
    if not len(regions):
        return np.zeros(len(found))
    shared = _image_intersection(found.bbox_px, regions)
    return np.asarray((shared / np.maximum(_area(found.bbox_px), 1e-9)[:, None]).max(axis=1))


def _image_intersection(a: Floats, b: Floats) -> Floats:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(axis=-1))


def _area(bbox: Floats) -> Floats:
    return np.asarray((bbox[:, 2] - bbox[:, 0]) * (bbox[:, 3] - bbox[:, 1]))


def _image_overlap(found: KittiAnnotation, labels: KittiAnnotation) -> Floats:
    shared = _image_intersection(found.bbox_px, labels.bbox_px)
    union = _area(found.bbox_px)[:, None] + _area(labels.bbox_px)[None] - shared
    return np.asarray(shared / np.maximum(union, 1e-9))


def _upright(objects: KittiAnnotation) -> Floats:
    """``[N, 7]`` boxes in a frame with x ahead, y left, z up, level with the rectified camera: the official plane."""
    right, down, ahead = objects.location_m.T
    height = objects.size_m[:, 2]
    yaw = -objects.rotation_y - np.pi / 2
    return np.column_stack([ahead, -right, height / 2 - down, objects.size_m, yaw]).reshape(-1, 7)


def _solid_overlap(
    found: KittiAnnotation, labels: KittiAnnotation, overlap: Callable[[Floats, Floats], Floats], columns: list[int]
) -> Floats:
    """Overlap with the labels that are boxes; ``DontCare`` regions have no size, so theirs is 0."""
    solid = np.flatnonzero(~labels.is_type("DontCare"))
    matrix = np.zeros((len(found), len(labels)))
    if len(found) and len(solid):
        matrix[:, solid] = overlap(_upright(found)[:, columns], _upright(labels)[solid][:, columns])
    return matrix


def _bev_overlap(found: KittiAnnotation, labels: KittiAnnotation) -> Floats:
    return _solid_overlap(found, labels, bev_iou, [0, 1, 3, 4, 6])


def _box_overlap(found: KittiAnnotation, labels: KittiAnnotation) -> Floats:
    return _solid_overlap(found, labels, iou_3d, list(range(7)))


OVERLAPS: dict[str, Overlap] = {"image": _image_overlap, "bev": _bev_overlap, "3d": _box_overlap}
