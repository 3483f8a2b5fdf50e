"""One door to every data set: the layout of the folder tells which it is."""

from __future__ import annotations

from pathlib import Path

from kd3d.datasets.base import Kind, SampleDataset
from kd3d.datasets.kitti import KittiDataset
from kd3d.datasets.nuscenes import NuScenesDataset
from kd3d.datasets.nuscenes_tables import versions_in
from kd3d.errors import DataError


def recognise(path: Path | str) -> Kind:
    """Which layout ``path`` has.

    Raises:
        DataError: neither nuScenes nor KITTI; says what was looked for.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. Give the folder of a nuScenes or KITTI data set.")
    if versions_in(path):
        return "nuscenes"
    if (path / "training" / "velodyne").is_dir() or (path / "testing" / "velodyne").is_dir():
        return "kitti"
    raise DataError(
        f"{path}: neither nuScenes (a v1.0-* folder) nor KITTI (training/velodyne). "
        "Give the folder above these, or write a world with kd3d data synth."
    )


def open_dataset(
    path: Path | str, *, split: str, sweeps: int = 0, cameras: bool = False, drop_empty: bool | None = None
) -> SampleDataset:
    """Open the data set in ``path``.

    Args:
        path: a nuScenes or KITTI folder.
        split: ``train`` or ``val``, or another split of the data set.
        sweeps: earlier LiDAR sweeps per frame; KITTI has none.
        cameras: whether frames bring their camera views.
        drop_empty: leave out boxes without a LiDAR point; by default in training splits only. KITTI has none.

    Raises:
        DataError: the folder is not a data set, or is damaged.
        UsageError: no such split.
    """
    if recognise(path) == "kitti":
        return KittiDataset(path, split=split, cameras=cameras)
    drop = "train" in split if drop_empty is None else drop_empty
    return NuScenesDataset(path, split=split, sweeps=sweeps, cameras=cameras, drop_empty=drop)
