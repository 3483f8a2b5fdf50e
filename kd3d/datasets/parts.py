"""Parts of a data set: some of its frames, and the scenes that are taken as labelled."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd3d.datasets.base import Kind, SampleDataset
from kd3d.datasets.kitti import KittiDataset
from kd3d.datasets.nuscenes import NuScenesDataset
from kd3d.datasets.sample import Sample
from kd3d.datasets.waymo import WaymoDataset
from kd3d.errors import DataError, UsageError

_LISTED = 4  # names that an error spells out


def part(dataset: SampleDataset, indices: Sequence[int]) -> SampleDataset:
    """The frames ``indices`` of ``dataset``, in that order, as a data set of the same kind."""
    if not isinstance(dataset, (NuScenesDataset, KittiDataset, WaymoDataset)):
        return _Frames(dataset, list(indices))
    view: Any = copy.copy(dataset)
    view.tokens = [dataset.tokens[index] for index in indices]
    if isinstance(dataset, (NuScenesDataset, WaymoDataset)):
        view.records = [dataset.records[index] for index in indices]
    return view  # type: ignore[no-any-return]


class _Frames:
    """Some frames of a data set of another kind."""

    def __init__(self, dataset: SampleDataset, indices: list[int]) -> None:
        self._dataset, self._indices = dataset, indices
        self.kind: Kind = dataset.kind
        self.split, self.classes = dataset.split, dataset.classes
        self.tokens = [dataset.tokens[index] for index in indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[self._indices[index]]


def scene_names(dataset: SampleDataset) -> list[str]:
    """The scene of each frame: nuScenes' name, Waymo's segment. A KITTI frame is a scene of its own, by its id."""
    if isinstance(dataset, NuScenesDataset):
        return [record.scene for record in dataset.records]
    if isinstance(dataset, WaymoDataset):
        return [record.segment for record in dataset.records]
    return list(dataset.tokens)


def labelled_part(dataset: SampleDataset, chosen: str | None) -> SampleDataset:
    """The scenes of ``dataset`` that count as labelled: nothing is learnt from the labels of the others.

    Args:
        dataset: a training split.
        chosen: a share such as ``10%``, of the scenes, at least one; or the path of a text file with one scene per line
            (``scene-0001``, a Waymo segment, a KITTI frame); ``None`` takes all. A share takes the scenes in the order
            of a hash of their names: always the same ones, and those of a smaller share are among those of a larger.

    Raises:
        UsageError: neither a share nor a file.
        DataError: the file names a scene that is not in the split, or none.
    """
    if chosen is None:
        return dataset
    names = scene_names(dataset)
    text = chosen.strip()
    wanted = _share(names, text) if text.endswith("%") else _listed(names, Path(text), dataset.split)
    return part(dataset, [index for index, name in enumerate(names) if name in wanted])


def _share(names: list[str], text: str) -> set[str]:
    try:
        share = float(text[:-1]) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"the labelled share must be above 0% and at most 100%, not {text}.")
    order = sorted(dict.fromkeys(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    return set(order[: max(1, round(share * len(order)))])


def _listed(names: list[str], path: Path, split: str) -> set[str]:
    if not path.is_file():
        raise UsageError(f"{path}: neither a share such as 10% nor a file with one scene per line.")
    wanted = path.read_text().split()
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        raise DataError(f"{path}: not in the split {split}: {', '.join(unknown[:_LISTED])}{more}. Correct the list.")
    if not wanted:
        raise DataError(f"{path}: names no scene. Write one per line.")
    return set(wanted)
