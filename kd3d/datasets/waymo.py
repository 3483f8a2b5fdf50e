"""The Waymo Open Dataset (perception), version 2: Parquet files per segment and component.

https://github.com/waymo-research/waymo-open-dataset/tree/master/src/waymo_open_dataset/v2. Written against that
documentation, and not run on the real set.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.datasets.base import Kind
from kd3d.datasets.sample import Sample
from kd3d.datasets.waymo_labels import CLASSES, WaymoLabels
from kd3d.datasets.waymo_segment import Segment, read_poses
from kd3d.errors import DataError, UsageError
from kd3d.geometry.boxes import Floats

FOLDERS = {"train": "training", "val": "validation", "test": "testing"}
WAYMO_COLUMNS = ("x", "y", "z", "intensity", "elongation")
_OPEN_SEGMENTS = 4


@dataclass(frozen=True)
class WaymoFrame:
    """One frame of the index.

    Args:
        token: name of the segment and time stamp.
        segment: its name.
        stamp: microseconds.
        vehicle2world: ``[4, 4]``.
        previous: token of the frame before it in the segment, if any.
    """

    token: str
    segment: str
    stamp: int
    vehicle2world: Floats
    previous: str | None


class WaymoDataset:
    """The frames of one split: points of all five LiDARs and both returns, and boxes, in the vehicle frame.

    Intensity is as recorded; networks take its hyperbolic tangent (``PointSpec.intensity``). Signs are left out.

    Args:
        root: the folder with ``training``, ``validation`` or ``testing``.
        split: ``train``, ``val`` or ``test`` (without labels).
        drop_empty: leave out boxes without a LiDAR point.
        segments: names of those to read; all by default.
        labels: ``False`` never opens a file of labels: the boxes of every frame are ``None``.

    Raises:
        DataError: the folder has no such split, no segments, or a segment has no readable ``vehicle_pose``.
        UsageError: no such split, or no such segment.
        BackendError: pyarrow is not installed.
    """

    kind: Kind = "waymo"
    classes: tuple[str, ...] = CLASSES
    features: tuple[str, ...] = WAYMO_COLUMNS

    def __init__(
        self,
        root: Path | str,
        *,
        split: str,
        drop_empty: bool = False,
        segments: tuple[str, ...] | None = None,
        labels: bool = True,
    ) -> None:
        self.root, self.split, self.drop_empty = Path(root), split, drop_empty
        self.labelled = labels and split != "test"
        self.folder = split_folder(self.root, split)
        names = segment_names(self.folder)
        unknown = [name for name in segments or () if name not in names]
        if unknown:
            raise UsageError(f"{self.folder / 'lidar'}: has no segment {unknown[0]}. It has {len(names)}.")
        self.records = [frame for name in (names if segments is None else segments) for frame in self._frames(name)]
        self.tokens = [record.token for record in self.records]
        self._open: OrderedDict[str, Segment] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files out: a worker opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Read one frame.

        Raises:
            DataError: a file of it is missing or damaged.
        """
        record = self.records[index]
        labels = self.labels(index) if self.labelled else None
        if labels is not None and self.drop_empty:
            labels = labels.select(labels.lidar_points > 0)
        return Sample(
            token=record.token,
            points=self._segment(record).points(record.stamp),
            features=self.features,
            boxes=None if labels is None else labels.boxes,
            classes=self.classes,
            ego2global=record.vehicle2world,
            timestamp_s=record.stamp * 1e-6,
            previous=record.previous,
        )

    def labels(self, index: int) -> WaymoLabels:
        """Every label of a frame with its difficulty, whether or not it has points.

        Raises:
            DataError: the file of labels is missing or damaged.
        """
        record = self.records[index]
        return self._segment(record).labels.get(record.stamp, WaymoLabels.empty())

    def _frames(self, name: str) -> list[WaymoFrame]:
        frames: list[WaymoFrame] = []
        for stamp, pose in read_poses(self.folder / "vehicle_pose" / f"{name}.parquet").items():
            before = frames[-1].token if frames else None
            frames.append(WaymoFrame(f"{name}_{stamp}", name, stamp, pose, before))
        return frames

    def _segment(self, record: WaymoFrame) -> Segment:
        if record.segment not in self._open:
            # A part of a data set (held-out frames) may lack frames of the segment, whose labels are read whole.
            poses = {each.stamp: each.vehicle2world for each in self._frames(record.segment)}
            self._open[record.segment] = Segment(self.folder, record.segment, poses)
        self._open.move_to_end(record.segment)
        if len(self._open) > _OPEN_SEGMENTS:
            self._open.popitem(last=False)[1].close()
        return self._open[record.segment]


def split_folder(root: Path, split: str) -> Path:
    """The folder of a split.

    Raises:
        DataError: ``root`` has none.
        UsageError: no such split.
    """
    if split not in FOLDERS:
        raise UsageError(f"{split}: no such split. Choose one of {', '.join(FOLDERS)}.")
    folder = root / FOLDERS[split]
    if not (folder / "lidar").is_dir():
        raise DataError(f"{folder / 'lidar'}: no such folder. Give the folder that holds {FOLDERS[split]}/lidar.")
    return folder


def segment_names(folder: Path) -> list[str]:
    """Names of the segments of a split, in order.

    Raises:
        DataError: there is none.
    """
    names = sorted(path.stem for path in (folder / "lidar").glob("*.parquet"))
    if not names:
        raise DataError(f"{folder / 'lidar'}: has no Parquet file. Give the folder of version 2 of the data set.")
    return names
