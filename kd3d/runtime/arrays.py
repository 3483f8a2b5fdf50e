"""Numpy files from outside: read without running what they hold, and damaged ones refused in one sentence."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError

# What numpy and zipfile raise over damaged files: a header is parsed as Python, and may claim any size or compression.
DAMAGE = (
    OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, MemoryError, OverflowError, RecursionError,
    SyntaxError, NotImplementedError, RuntimeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_arrays(path: Path, *, again: str) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` by name, or that of an ``.npy`` under the name ``""``.

    Args:
        path: of the file.
        again: what to do about a damaged one.

    Raises:
        DataError: the file is missing, damaged, or holds Python objects.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:  # np.load leaves a file it opened itself open where it fails
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                return {"": np.asarray(loaded)}
            with loaded:
                return {name: np.asarray(loaded[name]) for name in loaded.files}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. {again}") from error
    except DAMAGE as error:
        raise DataError(f"{path}: not readable as a numpy file ({reason(error)}). {again}") from error


def map_array(path: Path, *, again: str) -> NDArray[Any]:
    """An ``.npy`` that stays on the disk until its rows are asked for.

    Raises:
        DataError: as ``read_arrays``.
    """
    try:
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. {again}") from error
    except DAMAGE as error:
        raise DataError(f"{path}: not readable as a numpy file ({reason(error)}). {again}") from error


def reason(error: BaseException) -> str:
    """What went wrong, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
