"""KITTI's text files: labels and calibrations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError
from kd3d.geometry.boxes import Floats, Ints

TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")
_LABEL_FIELDS = 15
_MATRICES = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
# The original image sizes by the focal length of P2: one recording day, one size.
_SIZE_BY_FOCAL = {
    721.5377: (1242, 375),
    707.0493: (1224, 370),
    718.3351: (1238, 374),
    718.856: (1241, 376),
    707.0912: (1226, 370),
}
_USUAL_SIZE = (1242, 375)
_VOLUME = 0.1  # KITTI's rotations have determinants within 1e-6 of 1


@dataclass(frozen=True)
class KittiCalibration:
    """``p2`` ``[3, 4]`` projects rectified camera coordinates; ``lidar2rect`` ``[4, 4]`` leads there."""

    p2: Floats
    lidar2rect: Floats

    @property
    def lidar2image(self) -> Floats:
        """``[3, 4]``, from the LiDAR to homogeneous pixels of the left colour camera."""
        return self.p2 @ self.lidar2rect

    @property
    def image_size_px(self) -> tuple[int, int]:
        """Width, height, told from the focal length; for a frame whose image is not at hand."""
        focal = float(self.p2[0, 0])
        nearest = min(_SIZE_BY_FOCAL, key=lambda known: abs(known - focal))
        return _SIZE_BY_FOCAL[nearest] if abs(nearest - focal) < 0.01 else _USUAL_SIZE


@dataclass(frozen=True)
class KittiAnnotation:
    """Objects of one frame in KITTI's own terms, ``DontCare`` regions and unused types included.

    Args:
        types: ``N`` names.
        truncation, alpha, rotation_y: ``[N]``; radians.
        occlusion: ``[N]``, 0 visible to 3 unknown.
        bbox_px: ``[N, 4]`` left, top, right, bottom.
        size_m: ``[N, 3]`` length, width, height.
        location_m: ``[N, 3]`` centre of the bottom face, rectified camera frame (x right, y down, z ahead).
        score: ``[N]`` of detections, ``None`` for labels.
    """

    types: tuple[str, ...]
    truncation: Floats
    occlusion: Ints
    alpha: Floats
    bbox_px: Floats
    size_m: Floats
    location_m: Floats
    rotation_y: Floats
    score: Floats | None = None

    def __len__(self) -> int:
        return len(self.types)

    def is_type(self, *names: str) -> NDArray[np.bool_]:
        """``[N]`` mask of the objects of these types."""
        return np.array([name in names for name in self.types], bool)


def read_calibration(path: Path) -> KittiCalibration:
    """Read a calibration file.

    Raises:
        DataError: the file is missing, or a matrix of it is missing or damaged.
    """
    values: dict[str, Floats] = {}
    for number, line in enumerate(_lines(path, "calibration"), start=1):
        name, _, rest = line.partition(":")
        if name not in _MATRICES:
            continue
        try:
            values[name] = np.array([float(word) for word in rest.split()]).reshape(_MATRICES[name])
        except ValueError as error:
            rows, columns = _MATRICES[name]
            raise DataError(
                f"{path} line {number}: {name} must be {rows * columns} numbers. Restore the file."
            ) from error
    missing = [name for name in _MATRICES if name not in values]
    if missing:
        raise DataError(f"{path}: has no {', '.join(missing)}. Restore the file.")
    rectify, lidar2camera = np.eye(4), np.eye(4)
    rectify[:3, :3] = values["R0_rect"]
    lidar2camera[:3] = values["Tr_velo_to_cam"]
    odd = [name for name, value in values.items() if not np.isfinite(value).all()]
    odd += [name for name, pose in (("R0_rect", rectify), ("Tr_velo_to_cam", lidar2camera)) if not _turns(pose)]
    if odd:
        raise DataError(f"{path}: {odd[0]} is not finite or no rotation. Restore the file.")
    return KittiCalibration(values["P2"], rectify @ lidar2camera)


def _turns(pose: Floats) -> bool:
    """Whether a pose keeps volumes, as rotations do."""
    return bool(abs(np.linalg.det(pose[:3, :3]) - 1) < _VOLUME)


def read_labels(path: Path) -> KittiAnnotation:
    """Read a label file; an empty file is a frame without objects.

    Raises:
        DataError: the file is missing, or a line has an unknown type, too few fields or a word for a number.
    """
    types: list[str] = []
    rows: list[list[float]] = []
    for number, line in enumerate(_lines(path, "label file"), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != _LABEL_FIELDS:
            raise DataError(
                f"{path} line {number}: {len(words)} fields, but a label has {_LABEL_FIELDS}. Repair the line."
            )
        if words[0] not in TYPES:
            raise DataError(
                f"{path} line {number}: unknown class {words[0]!r}. Use one of {', '.join(TYPES)}, or remove the line."
            )
        try:
            row = [float(word) for word in words[1:]]
        except ValueError as error:
            raise DataError(f"{path} line {number}: {error}. Repair the line.") from error
        if not np.isfinite(row).all():
            raise DataError(f"{path} line {number}: a value is not finite. Repair the line.")
        types.append(words[0])
        rows.append(row)
    return _annotation(types, np.array(rows, np.float64).reshape(-1, _LABEL_FIELDS - 1))


def _annotation(types: list[str], table: Floats) -> KittiAnnotation:
    return KittiAnnotation(
        types=tuple(types),
        truncation=table[:, 0],
        occlusion=table[:, 1].astype(np.int64),
        alpha=table[:, 2],
        bbox_px=table[:, 3:7],
        size_m=table[:, [9, 8, 7]],
        location_m=table[:, 10:13],
        rotation_y=table[:, 13],
    )


def _lines(path: Path, what: str) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path}: the {what} is missing. Restore it, or take the frame out of ImageSets.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the {what} is not readable ({error}). Restore it.") from error
