"""nuScenes, any version, through the official devkit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kd3d.datasets.base import Kind
from kd3d.datasets.nuscenes_index import IndexBuilder, Sweep
from kd3d.datasets.nuscenes_tables import CLASSES, find_version, open_database, resolve_split
from kd3d.datasets.sample import Sample
from kd3d.errors import DataError, UsageError
from kd3d.geometry.boxes import Floats
from kd3d.runtime.points import NUSCENES_COLUMNS, read_points

CLOSE_M = 1.0  # returns from the car itself; the devkit's distance


class NuScenesDataset:
    """The frames of one split. The tables are read once; ``__getitem__`` only reads point files.

    Args:
        root: the folder with ``v1.0-*`` and ``samples``.
        split: ``train`` and ``val`` (of a mini version its own two), or any official split name.
        version: such as ``v1.0-mini``; found when not given, ``v1.0-trainval`` first.
        sweeps: earlier sweeps added to each key frame, moved into its frame; fewer at the start of a scene.
        cameras: whether samples bring their six camera views, whose files must then exist.
        drop_empty: leave out boxes without a LiDAR point, as training wants.
        labels: ``False`` never looks at a label: the boxes of every frame are ``None``.

    Raises:
        DataError: the database is missing or damaged.
        UsageError: no such split, or ``sweeps`` is negative.
        BackendError: nuscenes-devkit is not installed.
    """

    kind: Kind = "nuscenes"
    classes: tuple[str, ...] = CLASSES
    features: tuple[str, ...] = (*NUSCENES_COLUMNS, "time_lag")

    def __init__(
        self,
        root: Path | str,
        *,
        split: str,
        version: str | None = None,
        sweeps: int = 0,
        cameras: bool = False,
        drop_empty: bool = False,
        labels: bool = True,
    ) -> None:
        if sweeps < 0:
            raise UsageError(f"sweeps must be 0 or more, not {sweeps}.")
        self.nusc_root = Path(root)
        self.version = find_version(self.nusc_root, version)
        self.split = resolve_split(split, self.version)
        self.cameras = cameras
        nusc = open_database(self.nusc_root, self.version)
        builder = IndexBuilder(nusc, sweeps=sweeps, cameras=cameras, drop_empty=drop_empty, labels=labels)
        self.records = builder.build(self.split)
        self.tokens = [record.token for record in self.records]

    def __len__(self) -> int:
        """Number of key frames."""
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Read one key frame with its sweeps.

        Raises:
            DataError: a point file or an image is missing or damaged.
        """
        record = self.records[index]
        for view in record.cameras:
            if not view.path.is_file():
                raise DataError(f"{view.path}: the image is missing. Restore it, or read the data without cameras.")
        return Sample(
            token=record.token,
            points=np.concatenate([read_sweep(sweep) for sweep in record.sweeps]),
            features=self.features,
            boxes=record.boxes,
            classes=self.classes,
            lidar2ego=record.lidar2ego,
            ego2global=record.ego2global,
            cameras=record.cameras,
            timestamp_s=record.timestamp_s,
            previous=record.previous,
        )


def read_sweep(sweep: Sweep) -> Floats:
    """``[N, 6]`` points of one sweep in the key frame: x, y, z, intensity, ring, time lag in seconds.

    Points within a metre of the sensor along both x and y are left out, in the sweep's own frame, as the devkit does.
    """
    points = read_points(sweep.path, NUSCENES_COLUMNS)
    close = (np.abs(points[:, 0]) < CLOSE_M) & (np.abs(points[:, 1]) < CLOSE_M)
    points = points[~close]
    moved = np.empty((len(points), 6), np.float32)
    moved[:, :3] = points[:, :3] @ sweep.to_key[:3, :3].T + sweep.to_key[:3, 3]
    moved[:, 3:5] = points[:, 3:5]
    moved[:, 5] = sweep.lag_s
    return moved
