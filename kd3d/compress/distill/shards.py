"""The files of a cache: records of some frames in one file that is whole or absent, read through a memory map."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.compress.distill.record import Record
from kd3d.runs.atomic import write_bytes

_MAGIC = 0x6B64336474656131  # "kd3dtea1"
_HEAD = 4  # magic, check sum, records, bytes: int64 each
_TYPES: tuple[type[Any], ...] = (np.float32, np.int32, np.float16, np.float16)


def write_shard(path: Path, records: Sequence[Record]) -> None:
    """Write records, atomically.

    The file is int64 ``magic, CRC-32 of all that follows, records, bytes``, then per record where its four arrays begin
    and how many numbers each has, then the arrays, eight-byte aligned.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    index, parts, at = [], [], 0
    for record in records:
        arrays: tuple[NDArray[Any], ...] = record.arrays()
        for array, kind in zip(arrays, _TYPES, strict=True):
            content = np.ascontiguousarray(array, kind).tobytes()
            index += [at, array.size]
            parts.append(content + b"\0" * (-len(content) % 8))
            at += len(parts[-1])
    body = np.array(index, np.int64).tobytes() + b"".join(parts)
    head = np.array([_MAGIC, zlib.crc32(body), len(records), len(body)], np.int64)
    write_bytes(path, head.tobytes() + body)


class Shard:
    """A mapped file.

    Args:
        path: of the file.
        verify: compare its check sum, which reads all of it.

    Raises:
        ValueError: it is damaged or of another kind.
        OSError: it is not there.
    """

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        head = np.frombuffer(self._map[: 8 * _HEAD], np.int64)
        body = memoryview(self._map)[8 * _HEAD :]
        whole = len(head) == _HEAD and head[0] == _MAGIC and head[3] == len(body)
        if not whole or (verify and zlib.crc32(body) != head[1]):
            raise ValueError(f"{path} is damaged")
        self._index = np.frombuffer(self._map, np.int64, 8 * int(head[2]), 8 * _HEAD).reshape(-1, 4, 2)
        self._start = 8 * (_HEAD + 8 * int(head[2]))

    def __len__(self) -> int:
        """Number of records."""
        return len(self._index)

    def record(self, place: int, *, channels: tuple[int, int]) -> Record:
        """The record at ``place``, in the mapped memory.

        Args:
            place: in the file.
            channels: of the cells and of the whole maps.
        """
        boxes, cells, values, dense = (self._array(place, part) for part in range(4))
        return Record.of_arrays(boxes, cells, _rows(values, channels[0], len(cells)), _rows(dense, channels[1], 0))

    def _array(self, place: int, part: int) -> NDArray[Any]:
        start, count = (int(value) for value in self._index[place, part])
        return np.frombuffer(self._map, _TYPES[part], count, self._start + start)


def _rows(values: NDArray[Any], channels: int, rows: int) -> NDArray[Any]:
    return values.reshape(-1, channels) if channels else np.zeros((rows, 0), np.float16)
