"""A device through ctypes on libcudart: needs no wheel, so it works on every JetPack and in every container."""

from __future__ import annotations

import ctypes
import threading
from ctypes import byref, c_float, c_int, c_size_t, c_uint, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.runtime.device.driver import Driver, DriverKernels
from kd3d.runtime.device.library import Library, open_runtime
from kd3d.runtime.device.protocol import DeviceInfo, Event, HostBuffer, Stream

# Numbers of driver_types.h, the same from CUDA 11 to 13.
_TO_DEVICE, _TO_HOST = 1, 2
_NON_BLOCKING, _MAPPED = 1, 2
_INTEGRATED, _MAJOR, _MINOR = 18, 75, 76


class CtypesBackend(DriverKernels):
    """libcudart for memory, streams and events; libcuda for kernels and graphs. See ``DeviceBackend``.

    Args:
        index: of the device.
        runtime: libcudart; the one found here unless given.
        driver: libcuda; the system's unless given.

    Raises:
        BackendError: a library, the driver or the device is missing.
    """

    name = "ctypes"

    def __init__(self, index: int = 0, *, runtime: Library | None = None, driver: Driver | None = None) -> None:
        self._cuda, self.index = runtime or open_runtime(), index
        self._driver = driver or Driver()
        self._thread = threading.local()
        self.make_current()

    def make_current(self) -> None:
        """Let the calling thread use the device."""
        if getattr(self._thread, "ready", False):
            return
        self._cuda.call("cudaSetDevice", c_int(self.index))
        self._cuda.call("cudaFree", c_void_p(0))  # before CUDA 12 only this makes the primary context current
        self._thread.ready = True

    def info(self) -> DeviceInfo:
        """The device."""
        version, free, total = c_int(), c_size_t(), c_size_t()
        self._cuda.call("cudaDriverGetVersion", byref(version))
        self._cuda.call("cudaMemGetInfo", byref(free), byref(total))
        return DeviceInfo(
            self._driver.device_name(self.index),
            (self._attribute(_MAJOR), self._attribute(_MINOR)),
            version_text(version.value),
            total.value,
            bool(self._attribute(_INTEGRATED)),
        )

    def free_memory(self) -> int:
        """Bytes that are free now."""
        free, total = c_size_t(), c_size_t()
        self._cuda.call("cudaMemGetInfo", byref(free), byref(total))
        return free.value

    def alloc(self, size: int) -> int:
        """Device memory."""
        place = c_void_p()
        self._cuda.call("cudaMalloc", byref(place), c_size_t(size))
        return place.value or 0

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._cuda.call("cudaFree", c_void_p(address))

    def alloc_host(self, size: int, *, mapped: bool = False) -> HostBuffer:
        """Page-locked host memory."""
        place, seen = c_void_p(), c_void_p()
        self._cuda.call("cudaHostAlloc", byref(place), c_size_t(size), c_uint(_MAPPED if mapped else 0))
        if mapped:
            self._cuda.call("cudaHostGetDevicePointer", byref(seen), place, c_uint(0))
        return host_buffer(place.value or 0, size, seen.value)

    def free_host(self, buffer: HostBuffer) -> None:
        """Give page-locked memory back."""
        self._cuda.call("cudaFreeHost", c_void_p(buffer.address))

    def to_device(self, target: int, source: NDArray[Any], stream: Stream) -> None:
        """Copy to the device."""
        self._copy(target, source.ctypes.data, source.nbytes, kind=_TO_DEVICE, stream=stream)

    def to_host(self, target: NDArray[Any], source: int, stream: Stream) -> None:
        """Copy from the device."""
        self._copy(target.ctypes.data, source, target.nbytes, kind=_TO_HOST, stream=stream)

    def fill(self, target: int, size: int, *, byte: int = 0, stream: Stream) -> None:
        """Set bytes on the device."""
        self._cuda.call("cudaMemsetAsync", c_void_p(target), c_int(byte), c_size_t(size), c_void_p(stream))

    def stream(self) -> Stream:
        """A new stream."""
        made = c_void_p()
        self._cuda.call("cudaStreamCreateWithFlags", byref(made), c_uint(_NON_BLOCKING))
        return Stream(made.value or 0)

    def synchronize(self, stream: Stream) -> None:
        """Wait for a stream."""
        self._cuda.call("cudaStreamSynchronize", c_void_p(stream))

    def free_stream(self, stream: Stream) -> None:
        """Give a stream back."""
        self._cuda.call("cudaStreamDestroy", c_void_p(stream))

    def event(self) -> Event:
        """A new event."""
        made = c_void_p()
        self._cuda.call("cudaEventCreate", byref(made))
        return Event(made.value or 0)

    def record(self, event: Event, stream: Stream) -> None:
        """Let the event happen on the stream."""
        self._cuda.call("cudaEventRecord", c_void_p(event), c_void_p(stream))

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Device time between two events."""
        passed = c_float()
        self._cuda.call("cudaEventSynchronize", c_void_p(end))
        self._cuda.call("cudaEventElapsedTime", byref(passed), c_void_p(start), c_void_p(end))
        return passed.value

    def free_event(self, event: Event) -> None:
        """Give an event back."""
        self._cuda.call("cudaEventDestroy", c_void_p(event))

    def close(self) -> None:
        """Nothing is held: the primary context belongs to the process."""

    def _attribute(self, number: int) -> int:
        value = c_int()
        self._cuda.call("cudaDeviceGetAttribute", byref(value), c_int(number), c_int(self.index))
        return value.value

    def _copy(self, target: int, source: int, size: int, *, kind: int, stream: Stream) -> None:
        place, origin = c_void_p(target), c_void_p(source)
        self._cuda.call("cudaMemcpyAsync", place, origin, c_size_t(size), c_int(kind), c_void_p(stream))


def host_buffer(address: int, size: int, device_address: int | None) -> HostBuffer:
    """A numpy view of page-locked memory."""
    array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return HostBuffer(array, address, device_address)


def version_text(number: int) -> str:
    """12060 as ``12.6``."""
    return f"{number // 1000}.{number % 1000 // 10}"
