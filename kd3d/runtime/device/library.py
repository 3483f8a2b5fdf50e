"""A CUDA library through ctypes: found by name, or by an environment variable, and its calls checked."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kd3d.errors import BackendError
from kd3d.runtime.device.status import OK, raise_failed

DRIVER_VARIABLE, RUNTIME_VARIABLE = "KD3D_LIBCUDA", "KD3D_LIBCUDART"
_RUNTIMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib", "/usr/lib/aarch64-linux-gnu")


class Library:
    """Calls of a shared library whose functions return 0 when all is well.

    Args:
        handle: of the library.
        describe: CUDA's own name of a result code.
    """

    def __init__(self, handle: Any, describe: Callable[[Any, int], str]) -> None:
        self._handle, self._describe = handle, describe

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; numbers must be ctypes values of the parameters' types.

        Raises:
            BackendError: the library has no such function, or the driver is of no use.
            DeviceMemoryError: the device has not enough memory.
            CudaError: the call failed otherwise.
        """
        try:
            function = getattr(self._handle, name)
        except AttributeError as error:
            raise BackendError(f"{self._handle._name} has no {name}: it is older than CUDA 11.4.") from error
        code = int(function(*arguments))
        if code != OK:
            raise_failed(name, code, self._describe(self._handle, code))


def open_driver() -> Library:
    """The driver's own library, libcuda.

    Raises:
        BackendError: there is none, so there is no NVIDIA driver.
    """
    handle = _first((os.environ.get(DRIVER_VARIABLE) or "libcuda.so.1",))
    if handle is None:
        raise BackendError("there is no NVIDIA driver here (no libcuda.so.1). Install it, or use --device cpu.")
    return Library(handle, _driver_name)


def open_runtime() -> Library:
    """The CUDA runtime, libcudart: of the system, of a toolkit, or of NVIDIA's wheels in this environment.

    Raises:
        BackendError: it is nowhere.
    """
    given = os.environ.get(RUNTIME_VARIABLE)
    handle = _first((given,) if given else (*_RUNTIMES, *_elsewhere()))
    if handle is None:
        raise BackendError(
            f"there is no CUDA runtime library ({given or _RUNTIMES[-1]}) here. Install the CUDA runtime, or name the "
            f"file in the variable {RUNTIME_VARIABLE}."
        )
    return Library(handle, _runtime_name)


def _elsewhere() -> Iterable[str]:
    """Where the loader does not look by itself."""
    wheels = [found for entry in sys.path for found in sorted(Path(entry).glob("nvidia/*/lib")) if entry]
    for folder in (*map(Path, _FOLDERS), *wheels):
        yield from (str(folder / name) for name in _RUNTIMES if (folder / name).exists())


def _first(names: Iterable[str]) -> Any:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _driver_name(handle: Any, code: int) -> str:
    text = ctypes.c_char_p()
    handle.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
    return (text.value or b"unknown").decode()


def _runtime_name(handle: Any, code: int) -> str:
    handle.cudaGetErrorName.restype = ctypes.c_char_p
    return (handle.cudaGetErrorName(ctypes.c_int(code)) or b"unknown").decode()
