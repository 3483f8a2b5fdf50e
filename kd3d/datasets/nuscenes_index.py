"""The light index of a nuScenes split: per frame its paths, transforms and boxes, ready to be read in workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd3d.datasets.nuscenes_tables import CLASSES, detection_class, split_scenes
from kd3d.datasets.sample import CameraView
from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D, Floats, Ints

LIDAR = "LIDAR_TOP"

_FARTHEST_M, _LEAST = 1e8, 1e-6  # of a pose; of the norm of a quaternion, which should be 1


@dataclass(frozen=True)
class Sweep:
    """One LiDAR file: ``to_key`` is ``[4, 4]`` from its frame to the key frame's, ``lag_s`` how much older it is."""

    path: Path
    to_key: Floats
    lag_s: float


@dataclass(frozen=True)
class FrameRecord:
    """All of a frame but its points. ``sweeps[0]`` is the key frame; ``lidar_points`` counts points per box; ``scene``
    is the scene's name.
    """

    token: str
    timestamp_s: float
    previous: str | None
    sweeps: tuple[Sweep, ...]
    lidar2ego: Floats
    ego2global: Floats
    boxes: Boxes3D | None
    lidar_points: Ints
    cameras: tuple[CameraView, ...]
    scene: str = ""


def rotation_matrices(quaternions: Floats) -> Floats:
    """``[N, 4]`` quaternions (w, x, y, z) to ``[N, 3, 3]`` rotations; quaternions need not be of unit length."""
    q = np.asarray(quaternions, np.float64).reshape(-1, 4)
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def pose_matrix(record: dict[str, Any]) -> Floats:
    """``[4, 4]`` of a calibrated_sensor or ego_pose record.

    Raises:
        ValueError: its rotation is no quaternion, its translation no point, or one of them is far too large.
    """
    rotation, translation = (np.array(record[name], np.float64) for name in ("rotation", "translation"))
    if rotation.shape != (4,) or translation.shape != (3,) or not np.abs(translation).max() < _FARTHEST_M:
        raise ValueError(f"rotation {record['rotation']} and translation {record['translation']} are no pose")
    norm = np.linalg.norm(rotation)
    if not _LEAST < norm < 1 / _LEAST:
        raise ValueError(f"the rotation {record['rotation']} is no quaternion")
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrices(rotation)[0]
    matrix[:3, 3] = translation
    return matrix


def rigid_inverse(matrix: Floats) -> Floats:
    """Inverse of a ``[4, 4]`` rotation and translation; exact, and quick where the tables hold thousands."""
    inverse = np.eye(4)
    inverse[:3, :3] = matrix[:3, :3].T
    inverse[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return inverse


class IndexBuilder:
    """Walks the devkit's tables once.

    Args:
        nusc: the devkit's ``NuScenes``.
        sweeps: how many earlier LiDAR sweeps each frame brings.
        cameras: whether frames bring their camera views.
        drop_empty: leave out boxes without a LiDAR point.
        labels: whether frames bring their boxes.
    """

    def __init__(self, nusc: Any, *, sweeps: int, cameras: bool, drop_empty: bool, labels: bool = True) -> None:
        self._nusc = nusc
        self._root = Path(nusc.dataroot)
        self._sweeps = sweeps
        self._cameras = cameras
        self._drop_empty = drop_empty
        self._table = self._root / nusc.version / "sample_annotation.json"
        self._labelled = labels and bool(nusc.sample_annotation)
        self._sensor_poses: dict[str, Floats] = {}
        self._labels: dict[str, int | None] = {}

    def build(self, split: str) -> list[FrameRecord]:
        """Every frame of the split, in the order of the sample table.

        Raises:
            DataError: the database has no scene of the split, or its tables do not fit together.
        """
        names = split_scenes(split)
        try:
            scenes = {scene["token"] for scene in self._nusc.scene if scene["name"] in names}
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{self._root / self._nusc.version / 'scene.json'}: a scene has no usable {error}. Restore the table "
                "from the archive it came from."
            ) from error
        if not scenes:
            raise DataError(
                f"{self._root / self._nusc.version}: none of its {len(self._nusc.scene)} scenes belongs to the split "
                f"{split}. Choose another split, or use the official scene names."
            )
        frames: list[FrameRecord] = []
        for sample in self._nusc.sample:
            try:
                if sample["scene_token"] in scenes:
                    frames.append(self._frame(sample))
            except KeyError as error:
                raise DataError(
                    f"{self._root / self._nusc.version}: the tables do not fit together (nothing has {error}). "
                    "Restore the tables from the archive they came from."
                ) from error
            except (ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
                raise DataError(
                    f"{self._root / self._nusc.version}: something of sample {sample.get('token')} is of another kind "
                    f"than in nuScenes ({error}). Restore the tables from the archive they came from."
                ) from error
        return frames

    def _frame(self, sample: dict[str, Any]) -> FrameRecord:
        if LIDAR not in sample["data"]:
            raise DataError(
                f"{self._table.with_name('sample_data.json')}: sample {sample['token']} has no {LIDAR} key frame. "
                "Restore the table, or remove the sample."
            )
        key = self._nusc.get("sample_data", sample["data"][LIDAR])
        lidar2ego = self._sensor2ego(key)
        ego2global = self._ego2global(key)
        global2lidar = rigid_inverse(ego2global @ lidar2ego)
        boxes, counts = self._boxes(sample, global2lidar)
        return FrameRecord(
            token=sample["token"],
            timestamp_s=key["timestamp"] * 1e-6,
            previous=sample["prev"] or None,
            sweeps=self._sweep_chain(key, global2lidar),
            lidar2ego=lidar2ego,
            ego2global=ego2global,
            boxes=boxes,
            lidar_points=counts,
            cameras=self._views(sample, global2lidar) if self._cameras else (),
            scene=self._nusc.get("scene", sample["scene_token"])["name"],
        )

    def _sensor2ego(self, sample_data: dict[str, Any]) -> Floats:
        token = sample_data["calibrated_sensor_token"]
        if token not in self._sensor_poses:
            self._sensor_poses[token] = pose_matrix(self._nusc.get("calibrated_sensor", token))
        return self._sensor_poses[token]

    def _ego2global(self, sample_data: dict[str, Any]) -> Floats:
        return pose_matrix(self._nusc.get("ego_pose", sample_data["ego_pose_token"]))

    def _sweep_chain(self, key: dict[str, Any], global2lidar: Floats) -> tuple[Sweep, ...]:
        chain = [Sweep(self._root / key["filename"], np.eye(4), 0.0)]
        record = key
        while len(chain) <= self._sweeps and record["prev"]:
            record = self._nusc.get("sample_data", record["prev"])
            to_key = global2lidar @ self._ego2global(record) @ self._sensor2ego(record)
            lag_s = (key["timestamp"] - record["timestamp"]) * 1e-6
            chain.append(Sweep(self._root / record["filename"], to_key, lag_s))
        return tuple(chain)

    def _views(self, sample: dict[str, Any], global2lidar: Floats) -> tuple[CameraView, ...]:
        lidar2global = rigid_inverse(global2lidar)
        views = []
        for channel in sorted(name for name in sample["data"] if name.startswith("CAM_")):
            record = self._nusc.get("sample_data", sample["data"][channel])
            sensor = self._nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
            camera2global = self._ego2global(record) @ self._sensor2ego(record)
            views.append(
                CameraView(
                    name=channel,
                    path=self._root / record["filename"],
                    size_px=(int(record["width"]), int(record["height"])),
                    intrinsic=np.array(sensor["camera_intrinsic"], np.float64),
                    lidar2camera=rigid_inverse(camera2global) @ lidar2global,
                )
            )
        return tuple(views)

    def _label(self, category: str) -> int | None:
        if category not in self._labels:
            name = detection_class(category, self._table)
            self._labels[category] = None if name is None else CLASSES.index(name)
        return self._labels[category]

    def _boxes(self, sample: dict[str, Any], global2lidar: Floats) -> tuple[Boxes3D | None, Ints]:
        if not self._labelled:
            return None, np.zeros(0, np.int64)
        kept = []
        for token in sample["anns"]:
            record = self._nusc.get("sample_annotation", token)
            label = self._label(record["category_name"])
            if label is not None and not (self._drop_empty and record["num_lidar_pts"] == 0):
                kept.append((record, label))
        if not kept:
            return Boxes3D.empty(), np.zeros(0, np.int64)
        records = [record for record, _ in kept]
        rotation = global2lidar[:3, :3]
        array = np.empty((len(kept), 9))
        centers = np.array([record["translation"] for record in records])
        array[:, :3] = centers @ rotation.T + global2lidar[:3, 3]
        array[:, 3:6] = np.array([record["size"] for record in records])[:, [1, 0, 2]]
        heading = rotation @ rotation_matrices(np.array([record["rotation"] for record in records]))
        array[:, 6] = np.arctan2(heading[:, 1, 0], heading[:, 0, 0])
        velocity = np.array([self._nusc.box_velocity(record["token"]) for record in records])
        velocity[:, 2] = 0.0  # the vertical speed of a label is noise; results files have none
        array[:, 7:9] = (velocity @ rotation.T)[:, :2]
        counts = np.array([record["num_lidar_pts"] for record in records], np.int64)
        return Boxes3D(array.astype(np.float32), np.array([label for _, label in kept])), counts
