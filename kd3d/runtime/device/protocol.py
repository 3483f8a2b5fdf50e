"""What the runtime needs of a CUDA device, in one small protocol: memory, copies, streams, events, graphs, kernels.

Handles are plain numbers, as CUDA's own interface has them, so that TensorRT and kernels take them from any backend:
device addresses, streams, events. Every backend works on the device's primary context, which it shares with torch,
ONNX Runtime and TensorRT in the same process. Calls are asynchronous in the order of their stream unless they say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NewType, Protocol

import numpy as np
from numpy.typing import NDArray

Stream = NewType("Stream", int)
Event = NewType("Event", int)
Dim3 = tuple[int, int, int]


@dataclass(frozen=True)
class DeviceInfo:
    """A device as its driver describes it.

    Args:
        name: such as ``NVIDIA A100-SXM4-40GB``.
        compute_capability: major and minor number, such as (8, 7) for Orin.
        driver: the highest CUDA version of the driver, such as ``12.6``.
        memory_bytes: in total.
        integrated: shares its memory with the host, as on Jetson.
    """

    name: str
    compute_capability: tuple[int, int]
    driver: str
    memory_bytes: int
    integrated: bool


@dataclass(frozen=True)
class HostBuffer:
    """Page-locked host memory, which copies to and from the device asynchronously.

    Args:
        array: uint8 ``[size]``; take ``.view(dtype).reshape(shape)`` of it. Valid until ``free_host``.
        address: on the host.
        device_address: where the device sees the same memory; ``None`` unless it was asked for as mapped.
    """

    array: NDArray[np.uint8]
    address: int
    device_address: int | None = None


class DeviceBackend(Protocol):
    """One device through one binding.

    Every method raises ``CudaError`` with CUDA's own words where a call fails, ``DeviceMemoryError`` where memory is
    short, and ``BackendError`` where the driver is of no use.
    """

    @property
    def name(self) -> str:
        """Of the binding: ``cuda-bindings``, ``ctypes``, ``pycuda`` or ``torch``."""

    def make_current(self) -> None:
        """Let the calling thread use the device; the thread that opened it may already. Cheap when repeated."""

    def info(self) -> DeviceInfo:
        """The device."""

    def free_memory(self) -> int:
        """Bytes of device memory that are free now."""

    def alloc(self, size: int) -> int:
        """Device memory; its address, aligned to 256 bytes. ``DeviceMemoryError`` where there is not enough."""

    def free(self, address: int) -> None:
        """Give device memory back; waits for work on it."""

    def alloc_host(self, size: int, *, mapped: bool = False) -> HostBuffer:
        """Page-locked host memory; ``mapped`` gives it an address on the device as well (no copies on Jetson)."""

    def free_host(self, buffer: HostBuffer) -> None:
        """Give page-locked memory back."""

    def to_device(self, target: int, source: NDArray[Any], stream: Stream) -> None:
        """Copy a C-contiguous array to a device address. Keep ``source`` unchanged until the stream got there."""

    def to_host(self, target: NDArray[Any], source: int, stream: Stream) -> None:
        """Copy ``target.nbytes`` from a device address into a C-contiguous array."""

    def fill(self, target: int, size: int, *, byte: int = 0, stream: Stream) -> None:
        """Set ``size`` bytes at a device address to ``byte``."""

    def stream(self) -> Stream:
        """A new stream, which does not wait for the default one."""

    def synchronize(self, stream: Stream) -> None:
        """Wait until everything on the stream is done; errors of asynchronous work appear here."""

    def free_stream(self, stream: Stream) -> None:
        """Give a stream back."""

    def event(self) -> Event:
        """A new event that keeps time."""

    def record(self, event: Event, stream: Stream) -> None:
        """Let the event happen when the stream gets there."""

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds of device time between two events; waits for ``end``."""

    def free_event(self, event: Event) -> None:
        """Give an event back."""

    def begin_capture(self, stream: Stream) -> None:
        """Collect what is put on the stream from now on, instead of running it."""

    def end_capture(self, stream: Stream) -> Any:
        """What was collected, as an executable graph; ``launch_graph`` runs it."""

    def launch_graph(self, graph: Any, stream: Stream) -> None:
        """Run a graph."""

    def free_graph(self, graph: Any) -> None:
        """Give a graph back."""

    def load_module(self, image: bytes) -> Any:
        """Kernels from a cubin, fatbin or PTX."""

    def function(self, module: Any, name: str) -> Any:
        """A kernel of a module by its (unmangled, ``extern "C"``) name."""

    def launch(
        self,
        function: Any,
        grid: Dim3,
        block: Dim3,
        *,
        args: Sequence[np.generic],
        stream: Stream,
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel.

        Args:
            function: of ``function``.
            grid: blocks along x, y, z.
            block: threads along x, y, z.
            args: numpy scalars of the parameters' exact types; a device address is ``np.uint64(address)``.
            stream: to run on.
            shared_bytes: of dynamic shared memory.
        """

    def unload_module(self, module: Any) -> None:
        """Give a module back."""

    def close(self) -> None:
        """Release what the backend holds itself; nothing of it may be used afterwards."""
