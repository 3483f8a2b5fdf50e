"""The first pass: ask the teacher about every recorded augmentation that a cache does not hold yet."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any

import torch

from kd3d.compress.distill.cache import SHARD, TeacherCache
from kd3d.compress.distill.objective import DistillationObjective
from kd3d.compress.distill.record import Record
from kd3d.compress.distill.shards import write_shard
from kd3d.errors import OutputError
from kd3d.training.loader import FrameSource, recorded_batches

BATCH = 8  # frames that the teacher sees at once; a divisor of the frames in a file


@dataclass(frozen=True)
class Filled:
    """What the first pass did.

    Args:
        records: in the cache.
        made: of them by this process; the others were there, or another process made them.
        seconds: it took.
        bytes: of the whole cache.
    """

    records: int
    made: int
    seconds: float
    bytes: int


Told = Callable[[int, int, float | None], None]
"""Told records there, records in all, remaining seconds if known."""


def fill(
    cache: TeacherCache,
    source: FrameSource,
    objective: DistillationObjective,
    *,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    workers: int = 0,
    told: Told = lambda done, total, eta: None,
) -> Filled:
    """Make every record that is missing. A killed pass goes on where it was; two processes share the work.

    Args:
        cache: opened.
        source: of the frames.
        objective: has the teacher and the signals.
        device: of the teacher.
        autocast: context of the training's precision.
        workers: processes that prepare frames.
        told: progress.

    Raises:
        OutputError: the folder is not writable, or its disk is full or would be.
    """
    began, made, total = time.monotonic(), 0, cache.frames * cache.draws
    there = total - sum(len(cache.keys(*place)) for place in cache.missing())
    plan = _Plan(cache)
    stream = recorded_batches(source, plan, workers=workers, pin=device.type == "cuda")
    with closing(stream), torch.no_grad():
        records: list[Record] = []
        for batch, place in zip(stream, plan.handed(), strict=False):
            with autocast():
                records += objective.records(batch.to(device), device)
            if len(records) < len(cache.keys(*place)):
                continue
            write_shard(cache.path(*place), records)
            made, records = made + len(records), []
            _check_room(cache, total - there - made)
            told(there + made, total, (time.monotonic() - began) / made * max(0, total - there - made))
    return Filled(total, made, time.monotonic() - began, cache.bytes())


class _Plan:
    """Batches of frames, file by file. Asked for late, so that what another process has made meanwhile is left out."""

    def __init__(self, cache: TeacherCache) -> None:
        self._cache = cache
        self._handed: list[tuple[int, int]] = []
        places = list(cache.missing())
        first = os.getpid() % max(1, len(places))  # processes that begin together begin at different files
        self._places = places[first:] + places[:first]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for place in self._places:
            if self._cache.path(*place).exists() and self._cache.shard(*place) is not None:
                continue
            keys = self._cache.keys(*place)
            for start in range(0, len(keys), BATCH):
                self._handed.append(place)
                yield keys[start : start + BATCH]

    def handed(self) -> Iterator[tuple[int, int]]:
        """The file of each batch, in the order in which they come back."""
        for index in itertools.count():
            yield self._handed[index]


def _check_room(cache: TeacherCache, records: int) -> None:
    """Stop early rather than with a full disk: so many records are still to come."""
    sizes = [path.stat().st_size for path in cache.folder.glob("draw*.kdt")]
    need = sum(sizes) / len(sizes) / SHARD * records
    free = shutil.disk_usage(cache.folder).free
    if need > free:
        raise OutputError(
            f"{cache.folder}: the teacher cache needs about {need / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are "
            "free. Free some space, choose another folder, or record fewer augmentations (--cache-augmentations)."
        )
