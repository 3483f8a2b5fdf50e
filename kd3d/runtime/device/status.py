"""CUDA's result codes as errors that say what to do."""

from __future__ import annotations

from typing import NoReturn

from kd3d.errors import BackendError, CudaError, DeviceMemoryError

OK = 0
MEMORY = 2
# Initialisation failed, a stub library, a driver older than the library, no device, no such device. Equal numbers in
# the runtime's and the driver's interface.
UNUSABLE = frozenset({3, 34, 35, 36, 46, 100, 101, 803, 804})


def raise_failed(call: str, code: int, said: str) -> NoReturn:
    """Raise the error that belongs to a result code.

    Args:
        call: the function's name.
        code: what it returned.
        said: CUDA's name of the code.

    Raises:
        DeviceMemoryError: not enough memory.
        BackendError: the driver or the device cannot be used at all.
        CudaError: everything else.
    """
    if code == MEMORY:
        raise DeviceMemoryError(
            f"{call}: the device has not enough free memory ({said}). End other programs on it, or use a smaller model "
            f"or profile (kd3d export trt --pillars)."
        )
    if code in UNUSABLE:
        raise BackendError(
            f"{call}: no usable NVIDIA driver or GPU here ({said}, code {code}). Check nvidia-smi, or use --device cpu."
        )
    raise CudaError(f"{call} failed: {said} (code {code}). The device's state is unknown now; start the program again.")
