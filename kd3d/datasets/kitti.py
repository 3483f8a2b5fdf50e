"""The KITTI object data set: one LiDAR, one camera, labels where the camera sees."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from kd3d.datasets.base import Kind
from kd3d.datasets.kitti_boxes import lidar_boxes
from kd3d.datasets.kitti_files import KittiAnnotation, KittiCalibration, read_calibration, read_labels
from kd3d.datasets.sample import CameraView, Sample
from kd3d.errors import DataError, UsageError
from kd3d.optional import require
from kd3d.runtime.points import KITTI_COLUMNS, read_points

_VAL_SHARE = 5  # without ImageSets, the last fifth of the frames is for validation


class KittiDataset:
    """The frames of one split; points all around, as recorded.

    Args:
        root: the folder with ``training`` and ``ImageSets``.
        split: a file of ``ImageSets``: ``train``, ``val``, ``trainval``, ``test`` (in ``testing``, no labels).
            Without ``ImageSets`` the last fifth of the frames, in order of their ids, is ``val``, the rest ``train``.
        cameras: whether samples bring the left colour image, which must then exist.
        labels: ``False`` never opens a label file: the boxes of every frame are ``None``.

    Raises:
        DataError: the folder has no KITTI layout, or no frames.
        UsageError: no such split.
    """

    kind: Kind = "kitti"
    classes: tuple[str, ...] = ("Car", "Pedestrian", "Cyclist")
    features: tuple[str, ...] = KITTI_COLUMNS

    def __init__(self, root: Path | str, *, split: str, cameras: bool = False, labels: bool = True) -> None:
        self.root = Path(root)
        self.labelled = labels and split != "test"
        self.split = split
        self.cameras = cameras
        self.folder = self.root / ("testing" if split == "test" else "training")
        if not (self.folder / "velodyne").is_dir():
            raise DataError(f"{self.folder / 'velodyne'}: no such folder. Give the folder that holds training/.")
        self.tokens = _split_tokens(self.root, self.folder, split)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.tokens)

    def __getitem__(self, index: int) -> Sample:
        """Read one frame.

        Raises:
            DataError: a file of it is missing or damaged.
        """
        calibration = self.calibration(index)
        labels = self.annotation(index) if self.labelled else None
        return Sample(
            token=self.tokens[index],
            points=read_points(self.path(index, "velodyne", ".bin"), KITTI_COLUMNS),
            features=self.features,
            boxes=None if labels is None else lidar_boxes(labels, calibration, self.classes),
            classes=self.classes,
            cameras=(self._view(index, calibration),) if self.cameras else (),
            lidar2image=calibration.lidar2image,
            image_size_px=self.image_size_px(index),
        )

    def path(self, index: int, kind: str, suffix: str) -> Path:
        """File of a frame: ``kind`` is ``velodyne``, ``calib``, ``label_2`` or ``image_2``."""
        return self.folder / kind / f"{self.tokens[index]}{suffix}"

    def calibration(self, index: int) -> KittiCalibration:
        """Calibration of a frame."""
        return read_calibration(self.path(index, "calib", ".txt"))

    def annotation(self, index: int) -> KittiAnnotation:
        """Every label of a frame, the types that are only for evaluation included."""
        return read_labels(self.path(index, "label_2", ".txt"))

    def image_size_px(self, index: int) -> tuple[int, int]:
        """Width, height of the image, from the file where there is one, else from the focal length."""
        path = self.path(index, "image_2", ".png")
        if not path.is_file():
            return self.calibration(index).image_size_px
        pillow = require("PIL.Image", extra="nuscenes")
        try:
            with pillow.open(path) as image:
                return (int(image.width), int(image.height))
        except OSError as error:
            raise DataError(f"{path}: not readable as an image ({error}). Restore it.") from error

    def _view(self, index: int, calibration: KittiCalibration) -> CameraView:
        path = self.path(index, "image_2", ".png")
        if not path.is_file():
            raise DataError(f"{path}: the image is missing. Restore it, or read the data without cameras.")
        # P2 = K [I | t]: the camera stands t beside the origin of the rectified frame.
        offset = np.eye(4)
        offset[:3, 3] = np.linalg.solve(calibration.p2[:, :3], calibration.p2[:, 3])
        return CameraView(
            name="image_2",
            path=path,
            size_px=self.image_size_px(index),
            intrinsic=calibration.p2[:, :3],
            lidar2camera=offset @ calibration.lidar2rect,
        )


def _split_tokens(root: Path, folder: Path, split: str) -> list[str]:
    sets = root / "ImageSets"
    listed = sorted(path.stem for path in sets.glob("*.txt"))
    if listed:
        if split not in listed:
            raise UsageError(f"{sets}: has no split {split}. Choose one of {', '.join(listed)}.")
        tokens = _listed(sets / f"{split}.txt")
    else:
        tokens = _derived_split(sorted(path.stem for path in (folder / "velodyne").glob("*.bin")), split)
    if not tokens:
        raise DataError(f"{folder}: the split {split} has no frames. Add frames, or list them in {sets}/{split}.txt.")
    return tokens


def _listed(path: Path) -> list[str]:
    """The frames that a file of ``ImageSets`` names."""
    try:
        tokens = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as a list of frames ({error}). Restore it.") from error
    odd = [token for token in tokens if not re.fullmatch(r"[\w.-]+", token)]
    if odd:  # it becomes part of a path
        raise DataError(f"{path}: {odd[0][:40]!r} is no name of a frame, such as 000123. Restore the file.")
    return tokens


def _derived_split(tokens: list[str], split: str) -> list[str]:
    first_val = len(tokens) - len(tokens) // _VAL_SHARE
    parts = {"train": tokens[:first_val], "val": tokens[first_val:], "trainval": tokens, "test": tokens}
    if split not in parts:
        raise UsageError(f"{split}: no such split. Choose one of {', '.join(parts)}.")
    return parts[split]
