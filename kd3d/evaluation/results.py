"""Results files in the official nuScenes detection format.

https://www.nuscenes.org/object-detection: boxes in the global frame, size as width, length, height.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd3d.datasets.nuscenes import NuScenesDataset
from kd3d.datasets.nuscenes_index import FrameRecord
from kd3d.datasets.nuscenes_tables import CLASSES
from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D, Floats
from kd3d.runs.atomic import write_json

MAX_BOXES = 500
META = {"use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}
_VEHICLES = frozenset(("car", "truck", "construction_vehicle", "bus", "trailer"))
_MOVING_M_S = 0.2


def attribute(name: str, speed_m_s: float) -> str:
    """The likeliest attribute of a class at a speed; detectors here do not predict attributes.

    A slow vehicle is more often parked than stopped in traffic, except for buses; cycles that move have riders.
    """
    if name in _VEHICLES:
        if speed_m_s > _MOVING_M_S:
            return "vehicle.moving"
        return "vehicle.stopped" if name == "bus" else "vehicle.parked"
    if name in ("bicycle", "motorcycle"):
        return "cycle.with_rider" if speed_m_s > _MOVING_M_S else "cycle.without_rider"
    if name == "pedestrian":
        return "pedestrian.moving" if speed_m_s > _MOVING_M_S else "pedestrian.standing"
    return ""


def write_results(
    predictions: Mapping[str, Boxes3D], dataset: NuScenesDataset, classes: Sequence[str], out: Path | str
) -> None:
    """Write the detections of every frame of ``dataset`` as an official results file.

    Args:
        predictions: token to scored boxes in the LiDAR frame; ``label`` indexes ``classes``. Of more than 500 boxes
            the best are kept.
        dataset: the frames, for their poses.
        classes: names among the ten detection classes.
        out: the JSON file, written atomically.

    Raises:
        DataError: the tokens are not those of ``dataset``, a class is unknown, or boxes have no scores.
        OutputError: ``out`` is not writable or the disk is full.
    """
    check_tokens(set(predictions), set(dataset.tokens), where=f"the predictions for {dataset.split}")
    unknown = [name for name in classes if name not in CLASSES]
    if unknown:
        raise DataError(f"{', '.join(unknown)}: not a class of the nuScenes detection task. Use {', '.join(CLASSES)}.")
    results = {record.token: _rows(record, predictions[record.token], classes) for record in dataset.records}
    write_json(Path(out), {"meta": META, "results": results})


def check_tokens(have: set[str], want: set[str], *, where: str) -> None:
    """Require exactly the frames of a split.

    Raises:
        DataError: says how many are missing or foreign, and one of them.
    """
    missing, foreign = sorted(want - have), sorted(have - want)
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {len(want)} samples are missing, such as {missing[0]}. "
            "Predict every sample of the split; one without objects has an empty list."
        )
    if foreign:
        raise DataError(
            f"{where}: {len(foreign)} samples are not in the split, such as {foreign[0]}. "
            "Evaluate on the split, version and data that the predictions were made on."
        )


def _rows(record: FrameRecord, boxes: Boxes3D, classes: Sequence[str]) -> list[dict[str, Any]]:
    if boxes.score is None:
        raise DataError(f"{record.token}: predicted boxes have no scores. Give every box one.")
    if len(boxes) > MAX_BOXES:
        boxes = boxes.select(np.argsort(-boxes.score, kind="stable")[:MAX_BOXES])
    scores = np.zeros(0) if boxes.score is None else boxes.score
    lidar2global = record.ego2global @ record.lidar2ego
    rotation = lidar2global[:3, :3]
    array = boxes.array.astype(np.float64)
    centers = array[:, :3] @ rotation.T + lidar2global[:3, 3]
    quaternions = _heading_quaternions(rotation, array[:, 6])
    # Unknown velocities count as standing still: the format has no NaN.
    flat = np.concatenate([np.nan_to_num(array[:, 7:9]), np.zeros((len(array), 1))], axis=1)
    velocities = (flat @ rotation.T)[:, :2]
    return [
        {
            "sample_token": record.token,
            "translation": centers[i].tolist(),
            "size": array[i, [4, 3, 5]].tolist(),
            "rotation": quaternions[i].tolist(),
            "velocity": velocities[i].tolist(),
            "detection_name": classes[label],
            "detection_score": float(score),
            "attribute_name": attribute(classes[label], float(np.hypot(*velocities[i]))),
        }
        for i, (label, score) in enumerate(zip(boxes.label, scores, strict=True))
    ]


def _heading_quaternions(rotation: Floats, yaw: Floats) -> Floats:
    """``[N, 4]`` (w, x, y, z) of upright boxes in the global frame whose heading is ``yaw`` in the LiDAR frame."""
    heading = rotation @ np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)])
    half = np.arctan2(heading[1], heading[0]) / 2
    zero = np.zeros_like(half)
    return np.stack([np.cos(half), zero, zero, np.sin(half)], axis=1)
