"""Files that are either whole or absent: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kd3d.errors import DataError, OutputError

_SYNCERS = 8  # a journal takes many syncs at once in the time of one: 20 times faster for a world of 1000 files
_CUT_SHORT = re.compile(r"^\d+ requested and \d+ written$")  # numpy's words for a full disk, without a number


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write below ``path`` into an ``OutputError``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or _CUT_SHORT.search(str(error)):
            raise OutputError(f"{path}: the disk is full. Free some space or choose another folder.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise OutputError(f"{path}: cannot be written ({error.strerror}). Choose another folder.") from error
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success sync it and rename it to ``path``.

    Nothing is left behind when the body fails, and an existing file stays as it was.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    path = Path(path)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it becomes ``path``, replacing an existing folder.

    All files and folders in it are synced before that, so that a power cut leaves the folder whole or absent.

    Raises:
        OutputError: the parent is not writable or the disk is full.
    """
    path = Path(path)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            with _named(temporary, path):
                yield temporary
            _sync_tree(temporary)
            temporary.chmod(0o755)
            if path.exists():
                retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
                path.rename(retired / path.name)
                temporary.rename(path)
                _sync_rename(path.parent)
                shutil.rmtree(retired, ignore_errors=True)
            else:
                temporary.rename(path)
                _sync_rename(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sync_tree(root: Path) -> None:
    """Sync files, then the folders that name them, the innermost first. Links are left alone."""
    files, folders = [], []
    for folder, _, names in os.walk(root, topdown=False):
        folders.append(Path(folder))
        files += [path for path in (Path(folder, name) for name in names) if path.is_file() and not path.is_symlink()]
    with ThreadPoolExecutor(_SYNCERS) as pool:
        list(pool.map(_sync, files))
    for path in folders:
        _sync(path)


def _sync_rename(parent: Path) -> None:
    """Sync the folder a rename took place in; a failure is no error, because what was renamed is whole already."""
    with suppress(OSError):
        _sync(parent)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows has no handle for a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system cannot sync this, a folder on some network drives
            raise
    finally:
        os.close(handle)


@contextmanager
def _named(temporary: Path, path: Path) -> Iterator[None]:
    """Errors speak of the folder that was asked for, not of the temporary one."""
    try:
        yield
    except OutputError as error:
        raise OutputError(str(error).replace(str(temporary), str(path))) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` atomically, as UTF-8; halves of characters, which JSON can bring in, become question marks."""
    write_bytes(path, content.encode(errors="replace"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as indented JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not valid JSON.
    """
    try:
        return parse_json(Path(path).read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}). Restore the file or make it again.") from error


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not valid, or lists in lists are thousands deep.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
