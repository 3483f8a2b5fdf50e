"""A device through torch, where torch is there anyway: its allocator, so that both share one pool of memory.

The module is handed in by the command: nothing in ``kd3d.runtime`` imports torch.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import BackendError, DeviceMemoryError
from kd3d.runtime.device.cudart import version_text
from kd3d.runtime.device.driver import Driver, DriverKernels
from kd3d.runtime.device.protocol import DeviceInfo, Event, HostBuffer, Stream

_INTEGRATED = 18


class TorchBackend(DriverKernels):
    """torch for memory, streams and events; libcuda for copies, graphs and kernels. See ``DeviceBackend``.

    Args:
        torch: the imported module.
        index: of the device.
        driver: libcuda; the system's unless given.

    Raises:
        BackendError: torch sees no such device.
    """

    name = "torch"

    def __init__(self, torch: Any, index: int = 0, *, driver: Driver | None = None) -> None:
        if index >= (torch.cuda.device_count() if torch.cuda.is_available() else 0):
            raise BackendError(
                f"torch sees no CUDA device {index}. Install a CUDA build of torch, or use --device cpu."
            )
        self._torch, self._device, self.index = torch, torch.device("cuda", index), index
        self._thread = threading.local()
        self.make_current()
        self._driver = driver or Driver()
        self._memory: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}

    def make_current(self) -> None:
        """Let the calling thread use the device."""
        if not getattr(self._thread, "ready", False):
            self._torch.cuda.set_device(self._device)
            self._torch.cuda.synchronize(self._device)  # makes the primary context current
            self._thread.ready = True

    def info(self) -> DeviceInfo:
        """The device."""
        found = self._torch.cuda.get_device_properties(self._device)
        return DeviceInfo(
            found.name,
            (found.major, found.minor),
            version_text(self._driver.version()),
            int(found.total_memory),
            bool(self._driver.attribute(_INTEGRATED, self.index)),
        )

    def free_memory(self) -> int:
        """Bytes that are free now."""
        return int(self._torch.cuda.mem_get_info(self._device)[0])

    def alloc(self, size: int) -> int:
        """Device memory."""
        try:
            held = self._torch.empty(size, dtype=self._torch.uint8, device=self._device)
        except self._torch.cuda.OutOfMemoryError as error:
            raise DeviceMemoryError(f"the device has not {size} bytes of free memory ({error}).") from error
        self._memory[held.data_ptr()] = held
        return int(held.data_ptr())

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._torch.cuda.synchronize(self._device)
        del self._memory[address]

    def alloc_host(self, size: int, *, mapped: bool = False) -> HostBuffer:
        """Page-locked host memory; under unified addressing the device sees all of it at the same address."""
        held = self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True)
        self._memory[held.data_ptr()] = held
        array: NDArray[np.uint8] = held.numpy()
        return HostBuffer(array, int(held.data_ptr()), int(held.data_ptr()) if mapped else None)

    def free_host(self, buffer: HostBuffer) -> None:
        """Give page-locked memory back."""
        del self._memory[buffer.address]

    def to_device(self, target: int, source: NDArray[Any], stream: Stream) -> None:
        """Copy to the device."""
        self._driver.to_device(target, source, stream)

    def to_host(self, target: NDArray[Any], source: int, stream: Stream) -> None:
        """Copy from the device."""
        self._driver.to_host(target, source, stream)

    def fill(self, target: int, size: int, *, byte: int = 0, stream: Stream) -> None:
        """Set bytes on the device."""
        self._driver.fill(target, size, byte=byte, stream=stream)

    def stream(self) -> Stream:
        """A new stream."""
        made = self._torch.cuda.Stream(self._device)
        self._streams[made.cuda_stream] = made
        return Stream(int(made.cuda_stream))

    def synchronize(self, stream: Stream) -> None:
        """Wait for a stream."""
        self._streams[stream].synchronize()

    def free_stream(self, stream: Stream) -> None:
        """Give a stream back to torch's pool."""
        self._streams.pop(stream, None)

    def event(self) -> Event:
        """A new event; torch makes it when it is first recorded, so it gets a number of ours."""
        made = self._torch.cuda.Event(enable_timing=True)
        self._events[id(made)] = made
        return Event(id(made))

    def record(self, event: Event, stream: Stream) -> None:
        """Let the event happen on the stream."""
        self._events[event].record(self._streams[stream])

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Device time between two events."""
        self._events[end].synchronize()
        return float(self._events[start].elapsed_time(self._events[end]))

    def free_event(self, event: Event) -> None:
        """Give an event back."""
        del self._events[event]

    def close(self) -> None:
        """Give everything back to torch."""
        for held in (self._memory, self._streams, self._events):
            held.clear()
