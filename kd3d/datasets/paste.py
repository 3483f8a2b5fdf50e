"""The sample database: labelled objects with their points, cut out of training frames and pasted into others.

After SECOND (Yan et al., Sensors 2018, section 3.2.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kd3d.datasets.base import SampleDataset
from kd3d.datasets.inside import points_in_boxes
from kd3d.datasets.sample import Sample
from kd3d.errors import DataError, UsageError
from kd3d.geometry.boxes import Boxes3D, Floats, Ints
from kd3d.geometry.iou import bev_iou
from kd3d.runs.atomic import atomic_folder, read_json, write_json
from kd3d.runtime.arrays import map_array, read_arrays
from kd3d.runtime.points import check_finite

FORMAT = 1
_AGAIN = "Build it again."


class SampleDatabase:
    """Objects cut out of a training set. Points are mapped from the file, so workers share them.

    Args:
        folder: what ``build_database`` wrote.

    Raises:
        DataError: the folder is missing, damaged, or of another format.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        index = read_json(self.folder / "index.json")
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise DataError(f"{self.folder}: a sample database of another format. Build it again.")
        stored = read_arrays(self.folder / "objects.npz", again=_AGAIN)
        self._points: Floats | None = map_array(self.folder / "points.npy", again=_AGAIN)
        try:
            self.classes, self.features = _names(index["classes"]), _names(index["features"])
            self.boxes, self._start = Boxes3D(stored["boxes"], stored["label"]), stored["start"]
            self._check(self._points)
        except (ValueError, KeyError, TypeError, OverflowError, DataError) as error:
            raise DataError(f"{self.folder}: a damaged sample database ({error}). {_AGAIN}") from error
        self.counts = {name: int((self.boxes.label == i).sum()) for i, name in enumerate(self.classes)}

    def _check(self, points: Floats) -> None:
        """Whether the files fit together; the points themselves are not read."""
        start, labels = self._start, self.boxes.label
        if points.ndim != 2 or points.shape[1] != len(self.features) or points.dtype != np.float32:
            raise ValueError(f"points are {points.dtype} of shape {points.shape}, with {len(self.features)} features")
        if start.dtype.kind not in "iu" or start.shape != (len(labels) + 1,) or (np.diff(start) < 0).any():
            raise ValueError(f"{len(labels)} objects, but {start.shape} places of their points")
        if start[0] < 0 or start[-1] > len(points):
            raise ValueError(f"objects have points up to {start[-1]} of {len(points)}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(f"labels are {labels.min()} to {labels.max()}, with {len(self.classes)} classes")

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.boxes)

    def __getstate__(self) -> dict[str, object]:
        """Leave the mapped points out: a worker maps the file again instead of receiving a copy."""
        return {**self.__dict__, "_points": None}

    def points(self, index: int) -> Floats:
        """``[N, F]`` points of one object where it was recorded.

        Raises:
            DataError: they hold NaN or infinity.
        """
        if self._points is None:
            self._points = map_array(self.folder / "points.npy", again=_AGAIN)
        points = np.asarray(self._points[self._start[index] : self._start[index + 1]])
        return check_finite(points, f"object {index} of {self.folder}")

    def paste(self, sample: Sample, rng: np.random.Generator, counts: Sequence[tuple[str, int]]) -> Sample:
        """Fill each class of ``sample`` up to its count, as far as objects fit without overlap.

        Objects come where they were recorded. What the frame had inside a pasted box is removed.

        Raises:
            UsageError: a class is not in the database or not in the sample, or the points differ in their features.
        """
        if sample.boxes is None:
            raise UsageError(f"{sample.token}: objects cannot be pasted into a frame without labels.")
        if sample.features != self.features:
            raise UsageError(
                f"{self.folder}: objects have {', '.join(self.features)}, the frames {', '.join(sample.features)}. "
                "Build the database from the same data."
            )
        chosen = self._choose(sample, rng, counts)
        if not len(chosen):
            return sample
        pasted = self.boxes.select(chosen)
        label = np.array([sample.classes.index(self.classes[old]) for old in pasted.label], np.int64)
        pasted = Boxes3D(pasted.array, label)
        covered = points_in_boxes(sample.points, pasted.array).any(axis=0)
        points = np.concatenate([sample.points[~covered], *(self.points(int(i)) for i in chosen)])
        return replace(sample, points=points, boxes=Boxes3D.concatenate([sample.boxes, pasted]))

    def _choose(self, sample: Sample, rng: np.random.Generator, counts: Sequence[tuple[str, int]]) -> Ints:
        assert sample.boxes is not None
        drawn: list[Ints] = [np.zeros(0, np.int64)]
        for name, count in counts:
            if name not in self.classes or name not in sample.classes:
                raise UsageError(f"{name}: not a class of the sample database. It has {', '.join(self.classes)}.")
            present = int((sample.boxes.label == sample.classes.index(name)).sum())
            stock = np.flatnonzero(self.boxes.label == self.classes.index(name))
            missing = min(max(0, count - present), len(stock))
            drawn.append(rng.choice(stock, size=missing, replace=False))
        candidates = np.concatenate(drawn)
        taken = sample.boxes.bev
        kept: list[int] = []
        bev = self.boxes.bev[candidates]
        free = (bev_iou(bev, taken) <= 0).all(axis=1) if len(taken) else np.ones(len(bev), bool)
        apart = bev_iou(bev, bev) <= 0
        for i in np.flatnonzero(free):
            if apart[i, np.array(kept, np.int64)].all():
                kept.append(int(i))
        return np.asarray(candidates[kept])


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{value!r} are no names")
    return tuple(value)


def build_database(
    dataset: SampleDataset,
    out: Path | str,
    *,
    min_points: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> SampleDatabase:
    """Cut every object with at least ``min_points`` points out of ``dataset``.

    Args:
        dataset: a labelled training set.
        out: a folder, replaced as a whole: ``objects.npz``, ``points.npy`` and ``index.json``.
        min_points: objects with fewer are left out.
        progress: called with frames done and their number.

    Raises:
        DataError: no object has enough points.
        OutputError: ``out`` is not writable or the disk is full.
    """
    clouds: list[Floats] = []
    boxes: list[Boxes3D] = []
    features: tuple[str, ...] = ()
    for index in range(len(dataset)):
        sample = dataset[index]
        features = sample.features
        if sample.boxes is not None and len(sample.boxes):
            inside = points_in_boxes(sample.points, sample.boxes.array)
            enough = np.flatnonzero(inside.sum(axis=1) >= min_points)
            clouds.extend(sample.points[inside[row]] for row in enough)
            boxes.append(sample.boxes.select(enough))
        if progress is not None:
            progress(index + 1, len(dataset))
    if not clouds:
        raise DataError(f"no labelled object of the split {dataset.split} has {min_points} points. Nothing to paste.")
    objects = Boxes3D.concatenate(boxes)
    start = np.concatenate([[0], np.cumsum([len(cloud) for cloud in clouds])]).astype(np.int64)
    with atomic_folder(Path(out)) as folder:
        np.save(folder / "points.npy", np.concatenate(clouds).astype(np.float32))
        np.savez(folder / "objects.npz", boxes=objects.array, label=objects.label, start=start)
        write_json(
            folder / "index.json",
            {
                "format": FORMAT,
                "classes": list(dataset.classes),
                "features": list(features),
                "frames": len(dataset),
                "objects": len(objects),
                "min_points": min_points,
            },
        )
    return SampleDatabase(out)
