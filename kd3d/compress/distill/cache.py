"""A teacher's answers on disk, so that it is paid for once per frame and recorded augmentation."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd3d.compress.distill.record import Layout, Record, RecordedBatch
from kd3d.compress.distill.shards import Shard
from kd3d.errors import UsageError
from kd3d.runs.atomic import read_json, write_json
from kd3d.training.state import differences

SHARD = 32  # frames per file
FORMAT = 1
_OPEN = 256  # files mapped at once: each costs a descriptor
_STALE_S = 3600.0  # a temporary file older than this is a killed process's


@dataclass(frozen=True)
class CacheSettings:
    """Whether and where the teacher's answers are kept.

    Args:
        folder: several runs with the same teacher, data, signals and seed may share it, also at the same time; ``None``
            takes one in the run folder.
        augmentations: recorded per frame. Every epoch takes one of them at random.
    """

    folder: Path | None = None
    augmentations: int = 4

    def __post_init__(self) -> None:
        if self.augmentations < 1:
            raise UsageError(f"at least 1 augmentation per frame must be recorded, not {self.augmentations}.")


class TeacherCache:
    """A ``kd3d.training.loader.Recordings``. Reading is free of locks: files are whole or absent.

    Args:
        folder: of this cache alone.
        layout: of its records.
        frames: in the data set.
        draws: recorded augmentations per frame.
    """

    def __init__(self, folder: Path, layout: Layout, *, frames: int, draws: int) -> None:
        self.folder, self.layout, self.frames, self.draws = folder, layout, frames, draws
        self._shards: dict[tuple[int, int], Shard] = {}
        self._verified: set[tuple[int, int]] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps out: a worker maps the files again."""
        return {**self.__dict__, "_shards": {}}

    def open(self, identity: dict[str, Any]) -> None:
        """Begin the folder, or check that it was begun for the same teacher, frames and signals.

        Raises:
            UsageError: it was not; names what differs.
            OutputError: it is not writable.
        """
        path = self.folder / "cache.json"
        asked = {"format": FORMAT, **identity}
        if not path.exists():
            write_json(path, asked)
        changes = differences(read_json(path), asked)
        if changes:
            raise UsageError(
                f"{self.folder} holds the answers of another teacher, or to other frames or signals: "
                f"{'; '.join(changes)}. Choose another folder for --teacher-cache, or delete this one."
            )
        for leftover in self.folder.glob(".*.tmp"):
            if time.time() - leftover.stat().st_mtime > _STALE_S:
                leftover.unlink(missing_ok=True)

    def path(self, draw: int, shard: int) -> Path:
        """The file of recorded augmentation ``draw`` of frames ``shard * SHARD`` and on."""
        return self.folder / f"draw{draw:03d}-frames{shard * SHARD:07d}.kdt"

    def keys(self, draw: int, shard: int) -> list[tuple[int, int]]:
        """The (frame, augmentation) in a file, in order."""
        return [(index, draw) for index in range(shard * SHARD, min(self.frames, (shard + 1) * SHARD))]

    def missing(self) -> Iterator[tuple[int, int]]:
        """The files (augmentation, shard) that are absent or damaged."""
        for draw in range(self.draws):
            for shard in range(-(-self.frames // SHARD)):
                if self.shard(draw, shard) is None:
                    yield draw, shard

    def shard(self, draw: int, shard: int) -> Shard | None:
        """The mapped file, or ``None`` where it is absent or damaged."""
        place = (draw, shard)
        found = self._shards.pop(place, None)
        if found is None:
            try:
                found = Shard(self.path(draw, shard), verify=place not in self._verified)
            except (OSError, ValueError):
                return None
            if len(found) != len(self.keys(draw, shard)):
                return None
            self._verified.add(place)
        self._shards[place] = found  # the last one used is the last one to be closed
        if len(self._shards) > _OPEN:
            del self._shards[next(iter(self._shards))]
        return found

    def load(self, keys: Sequence[tuple[int, int]]) -> RecordedBatch | None:
        """See ``Recordings``."""
        records: list[Record] = []
        channels = (self.layout.channels("cells"), self.layout.channels("everywhere"))
        for index, draw in keys:
            shard = self.shard(draw, index // SHARD)
            if shard is None:
                return None
            records.append(shard.record(index % SHARD, channels=channels))
        grid = self.layout.spec.output_grid
        return RecordedBatch.of(records, grid.nx * grid.ny)

    def bytes(self) -> int:
        """Size of its files."""
        return sum(path.stat().st_size for path in self.folder.glob("draw*.kdt"))


def weights_hash(module: torch.nn.Module) -> str:
    """A hash of all weights, the same on every machine."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]


def database_hash(database: Any) -> str | None:
    """What identifies the objects that are pasted, or ``None`` without any."""
    if database is None:
        return None
    return hashlib.sha256(database.boxes.array.tobytes() + database.boxes.label.tobytes()).hexdigest()[:16]
