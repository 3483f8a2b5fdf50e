"""What an ``.onnx`` file says about itself, without the onnx package (vehicles have none)."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from kd3d.errors import DataError

_METADATA = 14  # ModelProto.metadata_props, a StringStringEntryProto of key 1 and value 2
_GRAPH = 7


def metadata(path: Path) -> dict[str, str]:
    """``metadata_props`` of a model.

    Raises:
        DataError: not an ONNX file.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size == 0:
        raise DataError(f"{path}: no such file, or an empty one.")
    found, graph = {}, False
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for number, begin, end in _fields(data, 0, len(data)):
                graph = graph or number == _GRAPH
                if number == _METADATA:
                    entry = {n: bytes(data[a:b]).decode() for n, a, b in _fields(data, begin, end)}
                    found[entry.get(1, "")] = entry.get(2, "")
        except (IndexError, ValueError) as error:
            raise DataError(f"{path}: not a whole ONNX file ({error}). Export it again.") from error
    if not graph:
        raise DataError(f"{path}: not an ONNX file: it holds no graph.")
    return found


def _fields(data: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number and place of each field of a protocol-buffers message; scalars have no place."""
    while begin < end:
        key, begin = _varint(data, begin)
        kind = key & 7
        if kind == 2:
            size, begin = _varint(data, begin)
            if begin + size > end:
                raise ValueError("it ends early")
            yield key >> 3, begin, begin + size
            begin += size
        elif kind == 0:
            _, begin = _varint(data, begin)
        elif kind in (1, 5):
            begin += 8 if kind == 1 else 4
        else:
            raise ValueError(f"field type {kind}")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
