"""The kernels' source becomes machine code for one device, by NVRTC (no compiler needed) or by nvcc through pycuda."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from kd3d.errors import BackendError, UsageError
from kd3d.optional import require

SOURCE = Path(__file__).with_name("kernels.cu")
NVRTC_VARIABLE = "KD3D_LIBNVRTC"
COMPILERS = ("nvrtc", "pycuda")  # in the order of auto
# Contraction of a * b + c changes the last digit, and with it which side of a cell's border a point is on.
OPTIONS = ("--fmad=false", "--std=c++17")
_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so")
_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib", "/usr/lib/aarch64-linux-gnu")


def compile_kernels(capability: tuple[int, int], compiler: str = "auto") -> bytes:
    """A cubin of ``kernels.cu``.

    Args:
        capability: of the device, such as (8, 7).
        compiler: ``nvrtc``, ``pycuda`` (which runs nvcc), or ``auto``: the first that is there.

    Raises:
        UsageError: another compiler.
        BackendError: there is no compiler, or it does not know the device.
    """
    makers: dict[str, Callable[[tuple[int, int]], bytes]] = {"nvrtc": _by_nvrtc, "pycuda": _by_pycuda}
    if compiler in makers:
        return makers[compiler](capability)
    if compiler != "auto":
        raise UsageError(f"the kernels' compiler must be auto, {' or '.join(COMPILERS)}, not {compiler!r}.")
    reasons = []
    for each in COMPILERS:
        try:
            return makers[each](capability)
        except BackendError as error:
            reasons.append(f"{each}: {error}")
    raise BackendError(f"the CUDA kernels cannot be compiled here. {' | '.join(reasons)}")


def supported_capabilities() -> tuple[tuple[int, int], ...]:
    """The devices that the NVRTC found here compiles for.

    Raises:
        BackendError: there is no NVRTC.
    """
    library, count = _open(), c_int()
    library.nvrtcGetNumSupportedArchs(byref(count))
    numbers = (c_int * count.value)()
    library.nvrtcGetSupportedArchs(numbers)
    return tuple(divmod(number, 10) for number in numbers)


def nvrtc_version() -> str:
    """Of the NVRTC found here, such as ``13.0``.

    Raises:
        BackendError: there is none.
    """
    library, major, minor = _open(), c_int(), c_int()
    _check(library, library.nvrtcVersion(byref(major), byref(minor)))
    return f"{major.value}.{minor.value}"


def _by_nvrtc(capability: tuple[int, int]) -> bytes:
    library, known = _open(), supported_capabilities()
    if capability not in known:
        raise BackendError(
            f"this NVRTC cannot compile for SM {_text(capability)}; it knows {', '.join(map(_text, known))}. "
            f"Install the CUDA toolkit of the device's driver, or name its libnvrtc in {NVRTC_VARIABLE}."
        )
    program = c_void_p()
    _check(library, library.nvrtcCreateProgram(byref(program), SOURCE.read_bytes(), b"kernels.cu", 0, None, None))
    try:
        options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}", *OPTIONS]
        code = library.nvrtcCompileProgram(
            program, len(options), (c_char_p * len(options))(*(option.encode() for option in options))
        )
        if code:
            log = _text_of(library, program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").decode(errors="replace")
            raise BackendError(f"the CUDA kernels do not compile for SM {_text(capability)}: {log.strip()[:500]}")
        return _text_of(library, program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
    finally:
        library.nvrtcDestroyProgram(byref(program))


def _by_pycuda(capability: tuple[int, int]) -> bytes:
    compiler: Any = require("pycuda.compiler", extra="gpu")
    try:
        image = compiler.compile(
            SOURCE.read_text(),
            options=list(OPTIONS),
            arch=f"sm_{capability[0]}{capability[1]}",
            no_extern_c=True,
        )
    except Exception as error:  # pycuda's own classes exist only where it could be imported
        raise BackendError(f"nvcc, which pycuda runs, could not compile the CUDA kernels: {error}") from error
    return bytes(image)


def _open() -> Any:
    given = os.environ.get(NVRTC_VARIABLE)
    for name in (given,) if given else (*_NAMES, *_elsewhere()):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise BackendError(
        f"NVRTC, CUDA's run-time compiler, is not here ({given or _NAMES[0]}). Install it with "
        f"pip install nvidia-cuda-nvrtc, or the CUDA toolkit, or name the file in the variable {NVRTC_VARIABLE}."
    )


def _elsewhere() -> Iterable[str]:
    """Where the loader does not look by itself: NVIDIA's wheels, and the toolkit."""
    wheels = [found for entry in sys.path if entry for found in sorted(Path(entry).glob("nvidia/*/lib"))]
    for folder in (*wheels, *map(Path, _FOLDERS)):
        yield from (str(folder / name) for name in _NAMES if (folder / name).exists())


def _check(library: Any, code: int) -> None:
    if code:
        library.nvrtcGetErrorString.restype = c_char_p
        raise BackendError(f"NVRTC failed: {(library.nvrtcGetErrorString(c_int(code)) or b'?').decode()}.")


def _text_of(library: Any, program: c_void_p, size_of: str, get: str) -> bytes:
    size = c_size_t()
    getattr(library, size_of).argtypes = [c_void_p, POINTER(c_size_t)]
    _check(library, getattr(library, size_of)(program, byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, get)(program, buffer))
    return buffer.raw


def _text(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
