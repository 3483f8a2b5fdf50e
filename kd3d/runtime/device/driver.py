"""What needs the driver's own interface: kernels, graphs and the device's name, through ctypes on libcuda.

libcuda comes with every driver, so that kernels and graphs work alike under each binding that lacks them itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.runtime.device.library import Library, open_driver
from kd3d.runtime.device.protocol import Dim3, Stream

_PLAIN_SHARED = 48 << 10  # what a kernel gets without asking
_MAX_DYNAMIC_SHARED = 8
_THREAD_LOCAL = 1  # capture this thread's work on the stream; other threads may go on


class Driver:
    """Kernels, graphs and copies of the driver's interface, in the context that is current.

    Args:
        library: libcuda; the system's unless given.

    Raises:
        BackendError: there is no driver.
    """

    def __init__(self, library: Library | None = None) -> None:
        self._cuda = library or open_driver()
        self._cuda.call("cuInit", c_uint(0))

    def device_name(self, index: int) -> str:
        """Such as ``Orin``."""
        device, text = c_int(), ctypes.create_string_buffer(256)
        self._cuda.call("cuDeviceGet", byref(device), c_int(index))
        self._cuda.call("cuDeviceGetName", text, c_int(len(text)), device)
        return text.value.decode()

    def attribute(self, number: int, index: int) -> int:
        """An attribute of a device, by its number in cuda.h."""
        device, value = c_int(), c_int()
        self._cuda.call("cuDeviceGet", byref(device), c_int(index))
        self._cuda.call("cuDeviceGetAttribute", byref(value), c_int(number), device)
        return value.value

    def version(self) -> int:
        """Such as 12060."""
        value = c_int()
        self._cuda.call("cuDriverGetVersion", byref(value))
        return value.value

    def to_device(self, target: int, source: NDArray[Any], stream: Stream) -> None:
        """As ``DeviceBackend.to_device``."""
        size = c_size_t(source.nbytes)
        self._cuda.call("cuMemcpyHtoDAsync_v2", c_uint64(target), c_void_p(source.ctypes.data), size, c_void_p(stream))

    def to_host(self, target: NDArray[Any], source: int, stream: Stream) -> None:
        """As ``DeviceBackend.to_host``."""
        size = c_size_t(target.nbytes)
        self._cuda.call("cuMemcpyDtoHAsync_v2", c_void_p(target.ctypes.data), c_uint64(source), size, c_void_p(stream))

    def fill(self, target: int, size: int, *, byte: int, stream: Stream) -> None:
        """As ``DeviceBackend.fill``."""
        self._cuda.call("cuMemsetD8Async", c_uint64(target), c_ubyte(byte), c_size_t(size), c_void_p(stream))

    def begin_capture(self, stream: Stream) -> None:
        """As ``DeviceBackend.begin_capture``."""
        self._cuda.call("cuStreamBeginCapture_v2", c_void_p(stream), c_int(_THREAD_LOCAL))

    def end_capture(self, stream: Stream) -> Any:
        """As ``DeviceBackend.end_capture``."""
        graph, ready = c_void_p(), c_void_p()
        self._cuda.call("cuStreamEndCapture", c_void_p(stream), byref(graph))
        try:
            self._cuda.call("cuGraphInstantiateWithFlags", byref(ready), graph, c_uint64(0))
        finally:
            self._cuda.call("cuGraphDestroy", graph)
        return ready

    def launch_graph(self, graph: Any, stream: Stream) -> None:
        """As ``DeviceBackend.launch_graph``."""
        self._cuda.call("cuGraphLaunch", graph, c_void_p(stream))

    def free_graph(self, graph: Any) -> None:
        """As ``DeviceBackend.free_graph``."""
        self._cuda.call("cuGraphExecDestroy", graph)

    def load_module(self, image: bytes) -> Any:
        """As ``DeviceBackend.load_module``."""
        module = c_void_p()
        self._cuda.call("cuModuleLoadData", byref(module), ctypes.c_char_p(image))
        return module

    def function(self, module: Any, name: str) -> Any:
        """As ``DeviceBackend.function``."""
        found = c_void_p()
        self._cuda.call("cuModuleGetFunction", byref(found), module, ctypes.c_char_p(name.encode()))
        return found

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
        """As ``DeviceBackend.launch``."""
        if shared_bytes > _PLAIN_SHARED:
            self._cuda.call("cuFuncSetAttribute", function, c_int(_MAX_DYNAMIC_SHARED), c_int(shared_bytes))
        held, places = kernel_arguments(args)
        sizes = [c_uint(side) for side in (*grid, *block, shared_bytes)]
        self._cuda.call("cuLaunchKernel", function, *sizes, c_void_p(stream), places, None)
        del held  # CUDA copied the values during the call

    def unload_module(self, module: Any) -> None:
        """As ``DeviceBackend.unload_module``."""
        self._cuda.call("cuModuleUnload", module)


def kernel_arguments(args: Sequence[np.generic]) -> tuple[list[NDArray[Any]], Any]:
    """Values in memory, and the array of their addresses that a launch takes; keep the former until it returns."""
    held = [np.array(value) for value in args]
    return held, (c_void_p * max(len(held), 1))(*[value.ctypes.data for value in held])


class DriverKernels:
    """Kernels and graphs of a backend whose own binding lacks them."""

    _driver: Driver

    def begin_capture(self, stream: Stream) -> None:
        """Collect what is put on the stream from now on."""
        self._driver.begin_capture(stream)

    def end_capture(self, stream: Stream) -> Any:
        """What was collected, as an executable graph."""
        return self._driver.end_capture(stream)

    def launch_graph(self, graph: Any, stream: Stream) -> None:
        """Run a graph."""
        self._driver.launch_graph(graph, stream)

    def free_graph(self, graph: Any) -> None:
        """Give a graph back."""
        self._driver.free_graph(graph)

    def load_module(self, image: bytes) -> Any:
        """Kernels from a cubin, fatbin or PTX."""
        return self._driver.load_module(image)

    def function(self, module: Any, name: str) -> Any:
        """A kernel of a module by its name."""
        return self._driver.function(module, name)

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
        """Run a kernel."""
        self._driver.launch(function, grid, block, args=args, stream=stream, shared_bytes=shared_bytes)

    def unload_module(self, module: Any) -> None:
        """Give a module back."""
        self._driver.unload_module(module)
