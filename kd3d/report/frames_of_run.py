"""The frames behind a run's boxes: from its data set, or from the portable frames beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd3d.errors import Kd3dError
from kd3d.report.parts import RunParts
from kd3d.runtime.frames import Frame, read_frames


def frames_of(parts: RunParts, tokens: Sequence[str], *, data: str | None = None) -> list[Frame]:
    """The named frames, key frame only; ``[]`` where neither a data set nor portable frames hold them.

    Args:
        parts: of the run.
        tokens: of the frames.
        data: a data set's folder; otherwise the one the run recorded, or its own ``world/``.
    """
    named = data or parts.settings.get("data")
    for folder in (*([Path(str(named))] if named else []), parts.run / "world"):
        found = _from_dataset(folder, tokens)
        if found:
            return found
    return _from_portable(parts.run / "frames", tokens)


def _from_dataset(folder: Path, tokens: Sequence[str]) -> list[Frame]:
    from kd3d.datasets.frames import to_frame
    from kd3d.datasets.nuscenes import NuScenesDataset
    from kd3d.datasets.open import open_dataset

    for split in ("val", "train"):
        try:
            dataset = open_dataset(folder, split=split)
            if not isinstance(dataset, NuScenesDataset):
                return []
            places = {token: index for index, token in enumerate(dataset.tokens)}
            if all(token in places for token in tokens):
                return [to_frame(dataset[places[token]]) for token in tokens]
        except Kd3dError:  # moved, or damaged since: the page does without its pictures
            return []
    return []


def _from_portable(folder: Path, tokens: Sequence[str]) -> list[Frame]:
    try:
        held = read_frames(folder)
        places = {token: index for index, token in enumerate(held.tokens)}
        return [held[places[token]] for token in tokens if token in places]
    except Kd3dError:
        return []
