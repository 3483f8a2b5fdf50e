"""Frames whose labels nobody reads: what a student may learn from beside labelled ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd3d.datasets.base import SampleDataset
from kd3d.datasets.kitti import KittiDataset
from kd3d.datasets.open import open_dataset, recognise
from kd3d.datasets.parts import part
from kd3d.datasets.waymo import FOLDERS
from kd3d.errors import DataError

_COMPARED = 1 << 16  # bytes of a cloud: two recordings that agree in as many, and in length, are the same


@dataclass(frozen=True)
class UnlabelledFrames:
    """Frames without labels, and how many were left out because they are in another split.

    Args:
        dataset: never brings a box.
        dropped: frames of it that are used elsewhere.
    """

    dataset: SampleDataset
    dropped: int


def open_unlabelled(
    path: Path | str,
    *,
    split: str | None = None,
    sweeps: int = 0,
    like: SampleDataset,
    elsewhere: Sequence[SampleDataset] = (),
) -> UnlabelledFrames:
    """Open the frames of ``path`` without their labels, if there are any.

    Args:
        path: a folder of the same kind of data set as ``like``; it may be the same folder.
        split: of it; ``None`` takes ``train``, or ``test`` of a data set that has nothing else.
        sweeps: as for ``open_dataset``.
        like: the labelled training frames; theirs are left out.
        elsewhere: other frames that must not be learnt from: those that scores are made on.

    Raises:
        DataError: the folder is no data set, of another kind, or has no frame that is not in use already.
    """
    kind = recognise(path)
    if kind != like.kind:
        raise DataError(
            f"{path}: {kind} frames, while the labelled ones are {like.kind}: other sensors, columns and classes. "
            "Give unlabelled frames of the same kind."
        )
    split = split or _usual_split(Path(path), kind)
    found = open_dataset(path, split=split, sweeps=sweeps, labels=False)
    used = [(other, set(other.tokens)) for other in (like, *elsewhere)]
    kept = [
        index
        for index, token in enumerate(found.tokens)
        if not any(token in tokens and _same_frame(other, found, token) for other, tokens in used)
    ]
    if not kept:
        raise DataError(
            f"{path}: all {len(found)} frames of the split {split} are training or validation frames already. Give "
            "other frames, or take fewer as labelled (--labelled)."
        )
    return UnlabelledFrames(part(found, kept), len(found) - len(kept))


def _usual_split(path: Path, kind: str) -> str:
    if kind == "kitti":
        return "train" if (path / "training" / "velodyne").is_dir() else "test"
    if kind == "waymo":
        return next(split for split, folder in FOLDERS.items() if (path / folder / "lidar").is_dir())
    return "train" if not (path / "v1.0-test").is_dir() or len(list(path.glob("v1.0-*"))) > 1 else "test"


def _same_frame(one: SampleDataset, two: SampleDataset, token: str) -> bool:
    """Whether the frames of an equal token are the same. They are but for KITTI's, whose tokens are only numbers."""
    if not isinstance(one, KittiDataset) or not isinstance(two, KittiDataset):
        return True
    a, b = (dataset.folder / "velodyne" / f"{token}.bin" for dataset in (one, two))
    return a.resolve() == b.resolve() or _same_cloud(a, b)


def _same_cloud(one: Path, two: Path) -> bool:
    try:
        if one.stat().st_size != two.stat().st_size:
            return False
        with one.open("rb") as a, two.open("rb") as b:
            return a.read(_COMPARED) == b.read(_COMPARED)
    except OSError:
        return False  # a file that is missing is said to be so when its frame is read
