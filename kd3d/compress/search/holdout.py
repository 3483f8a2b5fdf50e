"""Frames to score trials on: whole scenes of the training data, so that the validation split stays untouched."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kd3d.compress.data import CompressData
from kd3d.datasets.base import SampleDataset
from kd3d.datasets.parts import part
from kd3d.errors import DataError

SHARE = 0.2  # of the training scenes


@dataclass(frozen=True)
class Holdout:
    """Training data in two parts.

    Args:
        data: what trials train on (``train``) and are scored on (``val``).
        note: one line that says how it was divided.
    """

    data: CompressData
    note: str


def hold_out(data: CompressData, share: float = SHARE) -> Holdout:
    """Divide the training frames of ``data``: whole scenes, spread evenly, always the same ones.

    Frames of a data set that knows no scenes (KITTI), or of a single scene, are divided at one point in their order.

    Args:
        data: ``val`` is dropped.
        share: of the scenes (or frames) that is held out, at least one.

    Raises:
        DataError: fewer than two training frames.
    """
    count = len(data.train)
    if count < 2:
        raise DataError(f"a search holds training frames out to score on, and there are {count}. Give more frames.")
    scenes = _scenes(data.train)
    held: list[int]
    if len(scenes) > 1:
        number = max(1, round(share * len(scenes)))
        chosen = {(2 * place + 1) * len(scenes) // (2 * number) for place in range(number)}
        held = [index for scene in sorted(chosen) for index in scenes[scene]]
        note = f"trials are scored on {len(held)} frames of {number} of {len(scenes)} training scenes, held out"
    else:
        held = list(range(count - max(1, round(share * count)), count))
        note = f"the training frames are not of several scenes: trials are scored on the last {len(held)} of {count}"
    out = set(held)
    kept = [index for index in range(count) if index not in out]
    return Holdout(replace(data, train=part(data.train, kept), val=part(data.train, held)), note)


def _scenes(dataset: SampleDataset) -> list[list[int]]:
    """Frames by scene, each scene where its first frame stands: a scene is a chain of previous frames."""
    records = {record.token: record for record in getattr(dataset, "records", [])}
    first: dict[str, str] = {}

    def beginning(token: str) -> str:
        chain = []
        while token not in first and records[token].previous in records:
            chain.append(token)
            token = records[token].previous
        start = first.get(token, token)
        first.update(dict.fromkeys([*chain, token], start))
        return start

    scenes: dict[str, list[int]] = {}
    for index, token in enumerate(dataset.tokens if records else []):
        scenes.setdefault(beginning(token), []).append(index)
    return list(scenes.values())
