"""Which binding to use: the one that was asked for, or the first that works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kd3d.errors import BackendError, UsageError
from kd3d.runtime.device.bindings import CudaBindingsBackend
from kd3d.runtime.device.cudart import CtypesBackend
from kd3d.runtime.device.protocol import DeviceBackend
from kd3d.runtime.device.pycuda_device import PycudaBackend
from kd3d.runtime.device.torch_device import TorchBackend

BACKENDS = ("cuda-bindings", "ctypes", "pycuda", "torch")  # in the order of auto


def open_backend(name: str = "auto", *, index: int = 0, torch: Any = None) -> DeviceBackend:
    """A device through one of ``BACKENDS``, or through the first that works.

    Args:
        name: one of them, or ``auto``.
        index: of the device.
        torch: the imported module; without it ``auto`` leaves torch out.

    Raises:
        UsageError: another name.
        BackendError: it, or none of them, can be used here; says why for each.
    """
    makers: dict[str, Callable[[], DeviceBackend]] = {
        "cuda-bindings": lambda: CudaBindingsBackend(index),
        "ctypes": lambda: CtypesBackend(index),
        "pycuda": lambda: PycudaBackend(index),
        "torch": lambda: _torch(torch, index),
    }
    if name in makers:
        return makers[name]()
    if name != "auto":
        raise UsageError(f"the CUDA backend must be auto, {', '.join(BACKENDS)}, not {name!r}.")
    reasons = []
    for each in BACKENDS if torch is not None else BACKENDS[:-1]:
        try:
            return makers[each]()
        except BackendError as error:
            reasons.append(f"{each}: {error}")
    raise BackendError(f"no NVIDIA GPU can be used here. {' | '.join(reasons)}")


def _torch(torch: Any, index: int) -> DeviceBackend:
    if torch is None:
        raise BackendError("the torch backend needs torch, which is not imported here. Use another --cuda-backend.")
    return TorchBackend(torch, index)
