"""One segment (twenty seconds) of the Waymo Open Dataset: its files, opened when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kd3d.datasets.waymo_files import LASER, TIME, RowReader, image, numbers, read_columns
from kd3d.datasets.waymo_labels import WaymoLabels, read_labels
from kd3d.datasets.waymo_range import LidarCalibration, range_image_points
from kd3d.errors import DataError
from kd3d.geometry.boxes import Floats

TOP = 1  # the LiDAR on the roof, the only one whose pixels have poses
_RETURNS = ("[LiDARComponent].range_image_return1", "[LiDARComponent].range_image_return2")
_PIXEL_POSE = "[LiDARPoseComponent].range_image_return1"
_POSE = "[VehiclePoseComponent].world_from_vehicle.transform"
_CALIBRATION = "[LiDARCalibrationComponent]"


def read_poses(path: Path) -> dict[int, Floats]:
    """``[4, 4]`` vehicle to world by time stamp in microseconds, in the order of time.

    Raises:
        DataError: the file is missing or damaged, or a matrix is not of a rigid motion.
    """
    read = read_columns(path, (TIME, _POSE))
    stamps = numbers(read[TIME], path, TIME).astype(np.int64)
    matrices = _matrices(read[_POSE], path, _POSE)
    return {int(stamps[i]): matrices[i] for i in np.argsort(stamps, kind="stable")}


def read_calibration(path: Path) -> dict[int, LidarCalibration]:
    """Calibration of each LiDAR by its number.

    Raises:
        DataError: the file is missing or damaged.
    """
    low, high, listed = (f"{_CALIBRATION}.beam_inclination.{name}" for name in ("min", "max", "values"))
    extrinsic = f"{_CALIBRATION}.extrinsic.transform"
    read = read_columns(path, (LASER, extrinsic, low, high), optional=(listed,))
    lasers = numbers(read[LASER], path, LASER).astype(np.int64)
    matrices = _matrices(read[extrinsic], path, extrinsic)
    edges = numbers(list(zip(read[low], read[high], strict=True)), path, low).reshape(-1, 2)
    beams = [numbers(row, path, listed) if row else None for row in read.get(listed, [None] * len(lasers))]
    return {
        int(laser): LidarCalibration(matrices[i], (float(edges[i, 0]), float(edges[i, 1])), beams[i])
        for i, laser in enumerate(lasers)
    }


@dataclass(frozen=True)
class Segment:
    """Files of one segment.

    Args:
        folder: of the split.
        name: of the segment, and of its files.
        vehicle2world: ``[4, 4]`` by time stamp.
    """

    folder: Path
    name: str
    vehicle2world: dict[int, Floats]

    def path(self, component: str) -> Path:
        """The segment's file of a component, such as ``lidar_box``."""
        return self.folder / component / f"{self.name}.parquet"

    @cached_property
    def labels(self) -> dict[int, WaymoLabels]:
        """By time stamp; frames without labels are left out."""
        return read_labels(self.path("lidar_box"), self.vehicle2world)

    @cached_property
    def calibration(self) -> dict[int, LidarCalibration]:
        """By number of the LiDAR."""
        return read_calibration(self.path("lidar_calibration"))

    @cached_property
    def _ranges(self) -> _Rows:
        return _Rows(self.path("lidar"), [f"{name}.{part}" for name in _RETURNS for part in ("values", "shape")])

    @cached_property
    def _pixel_poses(self) -> _Rows:
        return _Rows(self.path("lidar_pose"), [f"{_PIXEL_POSE}.values", f"{_PIXEL_POSE}.shape"])

    def points(self, stamp: int) -> Floats:
        """``[N, 5]`` of every LiDAR and return of the frame at ``stamp``, first returns of a LiDAR before its second.

        Raises:
            DataError: a file is missing or damaged, or has nothing for this frame.
        """
        clouds = []
        for laser, row in self._ranges.of(stamp):
            if laser not in self.calibration:
                raise DataError(f"{self.path('lidar_calibration')}: has no LiDAR {laser}. Restore the file.")
            pose = self._pixel_pose(stamp) if laser == TOP else None
            for name in _RETURNS:
                clouds.extend(self._return(row, name, (stamp, laser), pose))
        return np.concatenate([np.zeros((0, 5), np.float32), *clouds])

    def _return(self, row: dict[str, Any], name: str, key: tuple[int, int], pose: Floats | None) -> list[Floats]:
        path = self.path("lidar")
        pixels = image(row, name, path)
        if pixels is None:
            return []
        stamp, laser = key
        try:
            vehicle2world = self.vehicle2world[stamp]
            return [range_image_points(pixels, self.calibration[laser], pixel_pose=pose, vehicle2world=vehicle2world)]
        except DataError as error:
            raise DataError(f"{path}: LiDAR {laser} at {stamp} microseconds: {error}") from error

    def _pixel_pose(self, stamp: int) -> Floats:
        path = self.path("lidar_pose")
        for laser, row in self._pixel_poses.of(stamp):
            pose = image(row, _PIXEL_POSE, path) if laser == TOP else None
            if pose is not None:
                return pose
        raise DataError(f"{path}: has no poses of the LiDAR on the roof at {stamp} microseconds. Restore the file.")

    def close(self) -> None:
        """Close the files that are open; they are opened again when needed."""
        for name in ("_ranges", "_pixel_poses"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()


class _Rows:
    """The rows of a file, found by time stamp and LiDAR."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        read = read_columns(path, (TIME, LASER))
        stamps = numbers(read[TIME], path, TIME).astype(np.int64)
        lasers = numbers(read[LASER], path, LASER).astype(np.int64)
        self._places: dict[int, list[tuple[int, int]]] = {}
        for row, (stamp, laser) in enumerate(zip(stamps.tolist(), lasers.tolist(), strict=True)):
            self._places.setdefault(stamp, []).append((row, laser))
        self._reader = RowReader(path, columns)

    def of(self, stamp: int) -> list[tuple[int, dict[str, Any]]]:
        """Number of the LiDAR and row, for every row of a frame, LiDARs in rising order."""
        places = self._places.get(stamp)
        if places is None:
            raise DataError(f"{self._reader.path}: has no rows at {stamp} microseconds. Restore the file.")
        rows = self._reader.rows([row for row, _ in places])
        found = [(laser, row) for (_, laser), row in zip(places, rows, strict=True)]
        return sorted(found, key=lambda item: item[0])

    def close(self) -> None:
        self._reader.close()


def _matrices(values: list[Any], path: Path, column: str) -> Floats:
    matrices = numbers(values, path, column).reshape(len(values), -1)
    if len(matrices) and matrices.shape[1] != 16:
        raise DataError(
            f"{path}: {column} must have 16 numbers per row, but has {matrices.shape[1]}. Restore the file."
        )
    matrices = matrices.reshape(-1, 4, 4)
    rotation = matrices[:, :3, :3]
    skew = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2)) > 1e-3
    if skew.any() or not np.allclose(matrices[:, 3], (0, 0, 0, 1)):
        raise DataError(f"{path}: {column} is not a rotation and a shift in every row. Restore the file.")
    return matrices
