"""Compiled kernels on disk: one file per source, device and NVRTC, so that a start costs no compilation."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from kd3d.errors import BackendError, OutputError
from kd3d.runs.atomic import write_bytes
from kd3d.runtime.cuda import compile as compiling

CACHE_VARIABLE = "KD3D_KERNEL_CACHE"
_DIGEST = 32  # bytes of SHA-256 before the image


def cached_kernels(capability: tuple[int, int]) -> bytes:
    """As ``compile_kernels``, from the cache where it has them; a damaged file is compiled again and replaced.

    What nvcc compiles through pycuda is kept by pycuda itself. A folder that cannot be written is done without.

    Raises:
        BackendError: there is no compiler, or it does not know the device.
    """
    try:
        version = compiling.nvrtc_version()
    except BackendError:
        return compiling.compile_kernels(capability)
    path = cache_file(capability, version)
    image = _read(path)
    if image is None:
        image = compiling.compile_kernels(capability)
        with suppress(OutputError, OSError):
            write_bytes(path, hashlib.sha256(image).digest() + image)
    return image


def cache_file(capability: tuple[int, int], version: str) -> Path:
    """Where the kernels for a device lie, compiled by the NVRTC of a version, whether they are there or not."""
    text = "\0".join(compiling.OPTIONS).encode() + b"\0" + compiling.SOURCE.read_bytes()
    source = hashlib.sha256(text).hexdigest()[:16]
    return cache_folder() / f"kernels-{source}-sm{capability[0]}{capability[1]}-nvrtc{version}.cubin"


def cache_folder() -> Path:
    """``$KD3D_KERNEL_CACHE``, else ``kd3d/kernels`` in the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path("~/.cache").expanduser()) / "kd3d" / "kernels"


def _read(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    image = data[_DIGEST:]
    return image if image and hashlib.sha256(image).digest() == data[:_DIGEST] else None
