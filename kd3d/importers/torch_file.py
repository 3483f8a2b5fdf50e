"""Files that ``torch.save`` wrote: today's zip, and the older stream of pickles, which OpenPCDet still writes."""

from __future__ import annotations

import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from kd3d.errors import CheckpointError
from kd3d.importers.pickles import Storage, read_pickle, scan, storage_of

_ZIP, _TAR_MAGIC = b"PK\x03\x04", b"ustar"
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def read_torch_file(path: Path) -> Any:
    """The object in ``path``; tensors are ``LazyTensor`` with their storages filled.

    Raises:
        CheckpointError: the file is missing, damaged, or not one of torch's, or its pickle would run code.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
    if not content:
        raise CheckpointError(f"{path}: is empty. Copy or download the file again.")
    if content.startswith(_ZIP):
        return _read_zip(content, path)
    if content[257:262] == _TAR_MAGIC:
        raise CheckpointError(
            f"{path}: a tar file as torch 0.1 wrote it. Save it again with a newer torch, on a machine of trust."
        )
    return _read_legacy(content, path)


def _read_zip(content: bytes, path: Path) -> Any:
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            return _from_archive(archive, path)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error}). Copy the file again.") from error


def _from_archive(archive: zipfile.ZipFile, path: Path) -> Any:
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError(f"{path}: a zip file, but not one that torch.save wrote: it has no data.pkl.")
    root = pickles[0][: -len("data.pkl")]
    if f"{root}constants.pkl" in names:
        raise CheckpointError(f"{path}: TorchScript, which is code. Give the checkpoint it was made from.")
    if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
        raise CheckpointError(f"{path}: a compressed zip file, which torch.save does not write. Save it again.")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder").strip() != b"little":
        raise CheckpointError(f"{path}: written on a big-endian machine, which is not supported.")
    known: dict[str, Storage] = {}
    found = read_pickle(archive.read(pickles[0]), str(path), lambda pid: storage_of(pid, known))
    for key, storage in known.items():
        name = f"{root}data/{key}"
        if name not in names:
            raise CheckpointError(f"{path}: damaged, the numbers of storage {key} are missing. Copy the file again.")
        _fill(storage, archive.read(name), f"{path}: storage {key}")
    return found


def _read_legacy(content: bytes, path: Path) -> Any:
    rest = content
    start: list[Any] = []
    for _ in range(3):  # magic number, protocol, facts of the machine
        length = _length(rest, path)
        start.append(read_pickle(rest, str(path)))
        rest = rest[length:]
        if start[0] != _LEGACY_MAGIC:
            raise CheckpointError(f"{path}: not a checkpoint: a pickle, but not one that torch.save wrote.")
    if start[1] != _LEGACY_PROTOCOL or not isinstance(start[2], dict) or start[2].get("little_endian") is not True:
        raise CheckpointError(f"{path}: written by another torch than is known, or on a big-endian machine.")
    known: dict[str, Storage] = {}
    length = _length(rest, path)
    found = read_pickle(rest, str(path), lambda pid: storage_of(pid, known))
    rest = rest[length:]
    length = _length(rest, path)
    keys = read_pickle(rest, str(path))
    _fill_stream(known, keys, rest[length:], path)
    return found


def _length(content: bytes, path: Path) -> int:
    if not content.startswith(b"\x80"):
        raise CheckpointError(f"{path}: not a checkpoint, or cut short: no pickle where one should be.")
    return scan(content, str(path))


def _fill_stream(known: dict[str, Storage], keys: Any, content: bytes, path: Path) -> None:
    if not isinstance(keys, list) or {str(key) for key in keys} != set(known):
        raise CheckpointError(f"{path}: damaged, the list of storages does not fit the tensors.")
    place = 0
    for key in map(str, keys):
        head = content[place : place + 8]
        count = struct.unpack("<q", head)[0] if len(head) == 8 else -1
        if count != known[key].count:
            raise CheckpointError(f"{path}: damaged or cut short at storage {key}. Copy the file again.")
        size = count * known[key].dtype.itemsize
        _fill(known[key], content[place + 8 : place + 8 + size], f"{path}: storage {key}")
        place += 8 + size


def _fill(storage: Storage, content: bytes, where: str) -> None:
    wanted = storage.count * storage.dtype.itemsize
    if len(content) != wanted:
        raise CheckpointError(f"{where} has {len(content)} bytes, not {wanted}: damaged or cut short. Copy it again.")
    if wanted:
        storage.data = torch.frombuffer(bytearray(content), dtype=storage.dtype)
