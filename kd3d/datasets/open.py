"""One door to every data set: the layout of the folder tells which it is."""

from __future__ import annotations

from pathlib import Path

from kd3d.datasets.base import Kind, SampleDataset
from kd3d.datasets.kitti import KittiDataset
from kd3d.datasets.nuscenes import NuScenesDataset
from kd3d.datasets.nuscenes_tables import versions_in
from kd3d.datasets.waymo import FOLDERS, WaymoDataset
from kd3d.errors import DataError, UsageError


def recognise(path: Path | str) -> Kind:
    """Which layout ``path`` has.

    Raises:
        DataError: none that is known; says what was looked for.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. Give the folder of a nuScenes, KITTI or Waymo data set.")
    if versions_in(path):
        return "nuscenes"
    if (path / "training" / "velodyne").is_dir() or (path / "testing" / "velodyne").is_dir():
        return "kitti"
    if any((path / folder / "lidar").is_dir() for folder in FOLDERS.values()):
        return "waymo"
    raise DataError(
        f"{path}: neither nuScenes (a v1.0-* folder) nor KITTI (training/velodyne) nor Waymo version 2 "
        "(training/lidar). Give the folder above these, or write a world with kd3d data synth."
    )


def open_dataset(
    path: Path | str,
    *,
    split: str,
    sweeps: int = 0,
    cameras: bool = False,
    drop_empty: bool | None = None,
    labels: bool = True,
) -> SampleDataset:
    """Open the data set in ``path``.

    Args:
        path: a nuScenes, KITTI or Waymo folder.
        split: ``train`` or ``val``, or another split of the data set.
        sweeps: earlier LiDAR sweeps per frame; nuScenes only.
        cameras: whether frames bring their camera views; not read from Waymo.
        drop_empty: leave out boxes without a LiDAR point; by default in training splits only. KITTI has none.
        labels: ``False`` never reads a label: the boxes of every frame are ``None``.

    Raises:
        DataError: the folder is not a data set, or is damaged.
        UsageError: no such split, or cameras of Waymo are asked for.
    """
    kind = recognise(path)
    if kind == "kitti":
        return KittiDataset(path, split=split, cameras=cameras, labels=labels)
    drop = "train" in split if drop_empty is None else drop_empty
    if kind == "waymo":
        if cameras:
            raise UsageError(f"{path}: kd3d does not read the cameras of the Waymo Open Dataset. Leave cameras out.")
        return WaymoDataset(path, split=split, drop_empty=drop, labels=labels)
    return NuScenesDataset(path, split=split, sweeps=sweeps, cameras=cameras, drop_empty=drop, labels=labels)
