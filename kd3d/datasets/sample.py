"""One frame, in the terms every model and every data set share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D, Floats

IDENTITY = np.eye(4)


@dataclass(frozen=True)
class CameraView:
    """One camera's image and calibration; the file is read by whoever needs pixels.

    Args:
        name: such as ``CAM_FRONT``.
        path: the image file.
        size_px: width, height.
        intrinsic: ``[3, 3]``.
        lidar2camera: ``[4, 4]``, from the key frame's LiDAR to this camera at its own time.
        augmentation: ``[3, 3]`` pixel matrix applied to the image.
    """

    name: str
    path: Path
    size_px: tuple[int, int]
    intrinsic: Floats
    lidar2camera: Floats
    augmentation: Floats = field(default_factory=lambda: np.eye(3))


@dataclass(frozen=True)
class Sample:
    """A frame of a data set, LiDAR frame of the key sweep unless named otherwise.

    Args:
        token: unique in the data set.
        points: ``[N, F]`` float32.
        features: names of the ``F`` columns, as in ``PointSpec.features`` (a superset, any order).
        boxes: ground truth, ``None`` where there are no labels; ``label`` indexes ``classes``.
        classes: class names of the data set.
        lidar2ego, ego2global: ``[4, 4]``.
        cameras: possibly empty.
        timestamp_s: seconds.
        previous: token of the previous key frame, if any.
        augmentation: ``[4, 4]``, what was applied to points and boxes, in BEV.
        lidar2image: ``[3, 4]`` of the front camera for KITTI, else ``None``; with its image size.
    """

    token: str
    points: Floats
    features: tuple[str, ...]
    boxes: Boxes3D | None
    classes: tuple[str, ...]
    lidar2ego: Floats = field(default_factory=lambda: IDENTITY.copy())
    ego2global: Floats = field(default_factory=lambda: IDENTITY.copy())
    cameras: tuple[CameraView, ...] = ()
    timestamp_s: float = 0.0
    previous: str | None = None
    augmentation: Floats = field(default_factory=lambda: IDENTITY.copy())
    lidar2image: Floats | None = None
    image_size_px: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != len(self.features):
            raise DataError(
                f"{self.token}: points must be an array with shape (N, {len(self.features)}) "
                f"for {', '.join(self.features)}, but got shape {self.points.shape}."
            )
