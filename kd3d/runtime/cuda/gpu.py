"""One device with the kernels loaded: arrays on it, copies, launches and prefix sums, all on one stream."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kd3d.runtime.cuda.cache import cached_kernels
from kd3d.runtime.device.protocol import DeviceBackend, Dim3, HostBuffer, Stream

THREADS = 256  # of the kernels that treat one item per thread
_SCAN_SIZE = 2048  # SCAN_SIZE of the kernels


@dataclass(frozen=True)
class DeviceArray:
    """An array on the device: where, shape and type."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return math.prod(self.shape) * self.dtype.itemsize

    def tail(self, start: int) -> DeviceArray:
        """From row ``start`` on."""
        row = self.nbytes // self.shape[0]
        return DeviceArray(self.address + start * row, (self.shape[0] - start, *self.shape[1:]), self.dtype)


@dataclass(frozen=True)
class Prefix:
    """Prefix sums as the kernels read them: within blocks, and of whole blocks."""

    before: DeviceArray
    sums: DeviceArray


class Gpu:
    """The kernels on a device and a stream.

    Args:
        device: the backend; it stays open.
        stream: of the backend, such as the engine's; a new one unless given.
        image: the compiled kernels; compiled for the device unless given.

    Attributes:
        image: what was loaded.

    Raises:
        BackendError: the kernels cannot be compiled here.
        CudaError, DeviceMemoryError: the device failed.
    """

    def __init__(self, device: DeviceBackend, *, stream: Stream | None = None, image: bytes | None = None) -> None:
        self.device = device
        self.image = image or cached_kernels(device.info().compute_capability)
        self._module = device.load_module(self.image)
        self._own_stream = stream is None
        self.stream = device.stream() if stream is None else stream
        self._functions: dict[str, Any] = {}
        self._arrays: list[int] = []
        self._pinned: list[HostBuffer] = []

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """Device memory until ``close``; at least one byte, and not initialised."""
        made = DeviceArray(0, shape, np.dtype(dtype))
        address = self.device.alloc(max(made.nbytes, 1))
        self._arrays.append(address)
        return DeviceArray(address, shape, made.dtype)

    def upload(self, value: NDArray[Any]) -> DeviceArray:
        """A new device array with the content of ``value``; there when this returns."""
        value = np.ascontiguousarray(value)
        made = self.array(value.shape, value.dtype)
        self.device.to_device(made.address, value, self.stream)
        self.device.synchronize(self.stream)
        return made

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Page-locked host memory until ``close``."""
        self._pinned.append(self.device.alloc_host(size))
        return self._pinned[-1].array

    def fill(self, array: DeviceArray, byte: int) -> None:
        """Set every byte of ``array``."""
        self.device.fill(array.address, array.nbytes, byte=byte, stream=self.stream)

    def fetch(self, array: DeviceArray) -> NDArray[Any]:
        """The content of ``array`` when everything before it is done."""
        value = np.empty(array.shape, array.dtype)
        if value.size:
            self.device.to_host(value, array.address, self.stream)
        self.device.synchronize(self.stream)
        return value

    def per_item(self, name: str, *args: DeviceArray | int, items: int) -> None:
        """Run a kernel with one thread per item; nothing where there is none."""
        if items:
            self.run(name, *args, grid=(-(-items // THREADS), 1, 1))

    def run(
        self, name: str, *args: DeviceArray | int, grid: Dim3, threads: int = THREADS, shared_bytes: int = 0
    ) -> None:
        """Run a kernel; arrays are passed as addresses, numbers as int32."""
        if name not in self._functions:
            self._functions[name] = self.device.function(self._module, name)
        values = [np.uint64(arg.address) if isinstance(arg, DeviceArray) else np.int32(arg) for arg in args]
        self.device.launch(
            self._functions[name],
            grid,
            (threads, 1, 1),
            args=values,
            stream=self.stream,
            shared_bytes=shared_bytes,
        )

    def prefix(self, items: int) -> Prefix:
        """Room for prefix sums of ``items`` numbers."""
        return Prefix(self.array((items,), np.int32), self.array((max(-(-items // _SCAN_SIZE), 1),), np.int32))

    def scan(self, values: DeviceArray, prefix: Prefix, total: DeviceArray) -> None:
        """Exclusive prefix sums of int32 ``values``, and their ``total [1]``."""
        items, blocks = values.shape[0], prefix.sums.shape[0]
        self.run("scan_partial", values, prefix.before, prefix.sums, items, grid=(blocks, 1, 1))
        self.run("scan_sums", prefix.sums, total, blocks, grid=(1, 1, 1))

    def close(self) -> None:
        """Wait, then give back memory, stream and kernels; after an error of the device, too, as far as it goes."""
        with ExitStack() as stack:
            stack.callback(self.device.unload_module, self._module)
            if self._own_stream:
                stack.callback(self.device.free_stream, self.stream)
            for buffer in self._pinned:
                stack.callback(self.device.free_host, buffer)
            for address in self._arrays:
                stack.callback(self.device.free, address)
            stack.callback(self.device.synchronize, self.stream)
            self._arrays, self._pinned = [], []
