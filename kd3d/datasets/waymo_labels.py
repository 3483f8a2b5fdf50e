"""Labels of the Waymo Open Dataset: boxes in the vehicle frame, with what its evaluation needs to know of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.waymo_files import TIME, numbers, read_columns
from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D, Floats, Ints

CLASSES = ("Vehicle", "Pedestrian", "Cyclist")
FEW_POINTS = 5  # a label with so many points or fewer is of LEVEL_2 where no person set its difficulty
_NOT_DETECTED = (0, 3)  # unknown, and signs
_TYPES = {1: 0, 2: 1, 4: 2}
_BOX = "[LiDARBoxComponent]"
_GEOMETRY = tuple(f"{_BOX}.box.{name}" for name in ("center.x", "center.y", "center.z", "size.x", "size.y", "size.z"))
_HEADING, _TYPE, _POINTS = f"{_BOX}.box.heading", f"{_BOX}.type", f"{_BOX}.num_lidar_points_in_box"
_SPEED = tuple(f"{_BOX}.speed.{axis}" for axis in "xyz")
_DIFFICULTY = f"{_BOX}.difficulty_level.detection"


@dataclass(frozen=True)
class WaymoLabels:
    """Labels of one frame.

    Args:
        boxes: in the vehicle frame; ``label`` indexes ``CLASSES``.
        level: ``[N]`` difficulty, 1 or 2.
        lidar_points: ``[N]`` points of all LiDARs in the box.
    """

    boxes: Boxes3D
    level: Ints
    lidar_points: Ints

    def select(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> WaymoLabels:
        """The labels at ``index``, positions or a mask."""
        return WaymoLabels(self.boxes.select(index), self.level[index], self.lidar_points[index])

    @classmethod
    def empty(cls) -> WaymoLabels:
        """No labels."""
        return cls(Boxes3D.empty(), np.zeros(0, np.int64), np.zeros(0, np.int64))


def read_labels(path: Path, vehicle2world: dict[int, Floats]) -> dict[int, WaymoLabels]:
    """Labels of a segment by time stamp; frames without any are left out.

    The length of a box is along its heading, as here. Velocities are those over the ground, turned into the vehicle
    frame; NaN where the file has none.

    Args:
        path: a file of ``lidar_box``.
        vehicle2world: ``[4, 4]`` by time stamp in microseconds.

    Raises:
        DataError: the file is missing, damaged, of an unknown type of object, or of a frame without a pose.
    """
    columns = (TIME, *_GEOMETRY, _HEADING, _TYPE, _POINTS)
    read = read_columns(path, columns, optional=(*_SPEED, _DIFFICULTY))
    kinds = numbers(read[_TYPE], path, _TYPE).astype(np.int64)
    unknown = sorted(set(kinds.tolist()) - set(_TYPES) - set(_NOT_DETECTED))
    if unknown:
        raise DataError(f"{path}: unknown object type {unknown[0]}. kd3d knows 0 to 4; use a newer kd3d.")
    stamps = numbers(read[TIME], path, TIME).astype(np.int64)
    lost = sorted(set(stamps.tolist()) - set(vehicle2world))
    if lost:
        raise DataError(
            f"{path}: boxes at {lost[0]} microseconds, where vehicle_pose has no frame. Restore both files."
        )
    array = np.full((len(stamps), 9), np.nan)
    for column, name in enumerate((*_GEOMETRY, _HEADING)):
        array[:, column] = numbers(read[name], path, name)
    points = numbers(read[_POINTS], path, _POINTS).astype(np.int64)
    level = np.array([value or 0 for value in read.get(_DIFFICULTY, [0] * len(stamps))], np.int64)
    level = np.where((level == 1) | (level == 2), level, np.where(points <= FEW_POINTS, 2, 1))
    speed = _speeds(read, path, len(stamps))
    kept = np.isin(kinds, list(_TYPES))
    found = {}
    for stamp in np.unique(stamps[kept]):
        rows = np.flatnonzero(kept & (stamps == stamp))
        array[rows, 7:9] = (speed[rows] @ vehicle2world[int(stamp)][:3, :3])[:, :2]
        boxes = Boxes3D(array[rows].astype(np.float32), np.array([_TYPES[int(kind)] for kind in kinds[rows]]))
        found[int(stamp)] = WaymoLabels(boxes, level[rows], points[rows])
    return found


def _speeds(read: dict[str, list[object]], path: Path, count: int) -> Floats:
    """``[N, 3]`` metres per second over the ground, along the axes of the world; NaN where unknown."""
    if any(name not in read for name in _SPEED):
        return np.full((count, 3), np.nan)
    known = np.array(
        [all(value is not None for value in row) for row in zip(*(read[n] for n in _SPEED), strict=True)], bool
    )
    speed = np.full((count, 3), np.nan)
    for axis, name in enumerate(_SPEED):
        speed[known, axis] = numbers([v for v, keep in zip(read[name], known, strict=True) if keep], path, name)
    return speed
