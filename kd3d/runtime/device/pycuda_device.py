"""A device through pycuda, on the primary context: ``pycuda.autoinit`` would make a context of its own."""

from __future__ import annotations

import atexit
import threading
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import BackendError, CudaError, DeviceMemoryError
from kd3d.optional import require
from kd3d.runtime.device.cudart import version_text
from kd3d.runtime.device.driver import Driver, DriverKernels
from kd3d.runtime.device.protocol import DeviceInfo, Event, HostBuffer, Stream

_NON_BLOCKING = 1


class _Pushed:
    """The context on the calling thread's stack, until ``leave`` or the thread's end.

    pycuda keeps a stack of its own per thread, and ends the whole process where a thread ends with a context on it.
    What ``threading.local`` holds is thrown away by the thread itself, before that stack is.
    """

    def __init__(self, context: Any) -> None:
        context.push()
        self._context: Any = context

    def leave(self) -> None:
        """Take it off; a second time does nothing."""
        context, self._context = self._context, None
        if context is not None:
            context.pop()

    def __del__(self) -> None:
        with suppress(Exception):
            self.leave()


class PycudaBackend(DriverKernels):
    """pycuda for memory, streams and events; it has no graphs, so those and kernels go through libcuda.

    Args:
        index: of the device.
        driver: libcuda; the system's unless given.

    Raises:
        BackendError: pycuda, the driver or the device is missing.
    """

    name = "pycuda"

    def __init__(self, index: int = 0, *, driver: Driver | None = None) -> None:
        self._cuda: Any = require("pycuda.driver", extra="pycuda")
        self._driver = driver or Driver()
        try:
            self._cuda.init()
            self._device = self._cuda.Device(index)
            self._context = self._device.retain_primary_context()
            self._thread = threading.local()
            self.make_current()
            atexit.register(self._leave)  # of the main thread, whose locals outlive pycuda's stack
        except self._cuda.Error as error:
            raise BackendError(f"pycuda cannot use device {index} ({error}). Check nvidia-smi.") from error
        self._memory: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}

    def make_current(self) -> None:
        """Let the calling thread use the device."""
        if getattr(self._thread, "pushed", None) is None:
            self._thread.pushed = _Pushed(self._context)

    def info(self) -> DeviceInfo:
        """The device."""
        return DeviceInfo(
            str(self._device.name()),
            tuple(self._device.compute_capability()),
            version_text(int(self._cuda.get_driver_version())),
            int(self._device.total_memory()),
            bool(self._device.get_attribute(self._cuda.device_attribute.INTEGRATED)),
        )

    def free_memory(self) -> int:
        """Bytes that are free now."""
        return int(self._cuda.mem_get_info()[0])

    def alloc(self, size: int) -> int:
        """Device memory."""
        held = self._call("mem_alloc", size)
        self._memory[int(held)] = held
        return int(held)

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._memory.pop(address).free()

    def alloc_host(self, size: int, *, mapped: bool = False) -> HostBuffer:
        """Page-locked host memory."""
        flags = self._cuda.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._call("pagelocked_empty", size, np.uint8, "C", flags)
        seen = int(array.base.get_device_pointer()) if mapped else None
        return HostBuffer(array, array.ctypes.data, seen)

    def free_host(self, buffer: HostBuffer) -> None:
        """Give page-locked memory back."""
        base: Any = buffer.array.base
        base.free()

    def to_device(self, target: int, source: NDArray[Any], stream: Stream) -> None:
        """Copy to the device."""
        self._call("memcpy_htod_async", target, source, self._streams[stream])

    def to_host(self, target: NDArray[Any], source: int, stream: Stream) -> None:
        """Copy from the device."""
        self._call("memcpy_dtoh_async", target, source, self._streams[stream])

    def fill(self, target: int, size: int, *, byte: int = 0, stream: Stream) -> None:
        """Set bytes on the device."""
        self._call("memset_d8_async", target, byte, size, self._streams[stream])

    def stream(self) -> Stream:
        """A new stream."""
        made = self._call("Stream", _NON_BLOCKING)
        self._streams[int(made.handle)] = made
        return Stream(int(made.handle))

    def synchronize(self, stream: Stream) -> None:
        """Wait for a stream."""
        self._guard("Stream.synchronize", self._streams[stream].synchronize)

    def free_stream(self, stream: Stream) -> None:
        """Give a stream back."""
        del self._streams[stream]

    def event(self) -> Event:
        """A new event; pycuda does not tell its handle, so it gets a number of ours."""
        made = self._call("Event")
        self._events[id(made)] = made
        return Event(id(made))

    def record(self, event: Event, stream: Stream) -> None:
        """Let the event happen on the stream."""
        self._events[event].record(self._streams[stream])

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Device time between two events."""
        self._guard("Event.synchronize", self._events[end].synchronize)
        return float(self._events[end].time_since(self._events[start]))

    def free_event(self, event: Event) -> None:
        """Give an event back."""
        del self._events[event]

    def close(self) -> None:
        """Give everything back and leave the primary context."""
        for held in (self._memory, self._streams, self._events):
            held.clear()
        atexit.unregister(self._leave)
        self._leave()

    def _leave(self) -> None:
        pushed = getattr(self._thread, "pushed", None)
        self._thread.pushed = None
        if pushed is not None:
            pushed.leave()

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._guard(name, getattr(self._cuda, name), *arguments)

    def _guard(self, name: str, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._cuda.MemoryError as error:
            raise DeviceMemoryError(f"{name}: the device has not enough free memory ({error}).") from error
        except self._cuda.Error as error:
            raise CudaError(f"{name} failed: {error}.") from error
