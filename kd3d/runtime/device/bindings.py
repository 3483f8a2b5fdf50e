"""A device through NVIDIA's cuda-bindings (``cuda.bindings``, series 12 and 13)."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import BackendError
from kd3d.optional import require
from kd3d.runtime.device.cudart import host_buffer, version_text
from kd3d.runtime.device.driver import kernel_arguments
from kd3d.runtime.device.protocol import DeviceInfo, Dim3, Event, HostBuffer, Stream
from kd3d.runtime.device.status import raise_failed

_PLAIN_SHARED = 48 << 10


class CudaBindingsBackend:
    """Everything through ``cuda.bindings.runtime``, kernels through ``cuda.bindings.driver``. See ``DeviceBackend``.

    Args:
        index: of the device.

    Raises:
        BackendError: cuda-bindings, the driver or the device is missing.
    """

    name = "cuda-bindings"

    def __init__(self, index: int = 0) -> None:
        self._rt: Any = require("cuda.bindings.runtime", extra="cuda")
        self._cu: Any = require("cuda.bindings.driver", extra="cuda")
        self.index = index
        self._thread = threading.local()
        self.make_current()

    def make_current(self) -> None:
        """Let the calling thread use the device."""
        if getattr(self._thread, "ready", False):
            return
        self._call("cudaSetDevice", self.index)
        self._call("cudaFree", 0)
        self._thread.ready = True

    def info(self) -> DeviceInfo:
        """The device."""
        kinds = self._rt.cudaDeviceAttr
        name = self._driver("cuDeviceGetName", 256, self._driver("cuDeviceGet", self.index))
        return DeviceInfo(
            bytes(name).split(b"\0")[0].decode(),
            (
                self._attribute(kinds.cudaDevAttrComputeCapabilityMajor),
                self._attribute(kinds.cudaDevAttrComputeCapabilityMinor),
            ),
            version_text(int(self._call("cudaDriverGetVersion"))),
            int(self._call("cudaMemGetInfo")[1]),
            bool(self._attribute(kinds.cudaDevAttrIntegrated)),
        )

    def free_memory(self) -> int:
        """Bytes that are free now."""
        return int(self._call("cudaMemGetInfo")[0])

    def alloc(self, size: int) -> int:
        """Device memory."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", address)

    def alloc_host(self, size: int, *, mapped: bool = False) -> HostBuffer:
        """Page-locked host memory."""
        flags = self._rt.cudaHostAllocMapped if mapped else self._rt.cudaHostAllocDefault
        address = int(self._call("cudaHostAlloc", size, flags))
        return host_buffer(address, size, int(self._call("cudaHostGetDevicePointer", address, 0)) if mapped else None)

    def free_host(self, buffer: HostBuffer) -> None:
        """Give page-locked memory back."""
        self._call("cudaFreeHost", buffer.address)

    def to_device(self, target: int, source: NDArray[Any], stream: Stream) -> None:
        """Copy to the device."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, stream)

    def to_host(self, target: NDArray[Any], source: int, stream: Stream) -> None:
        """Copy from the device."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, stream)

    def fill(self, target: int, size: int, *, byte: int = 0, stream: Stream) -> None:
        """Set bytes on the device."""
        self._call("cudaMemsetAsync", target, byte, size, stream)

    def stream(self) -> Stream:
        """A new stream."""
        return Stream(int(self._call("cudaStreamCreateWithFlags", self._rt.cudaStreamNonBlocking)))

    def synchronize(self, stream: Stream) -> None:
        """Wait for a stream."""
        self._call("cudaStreamSynchronize", stream)

    def free_stream(self, stream: Stream) -> None:
        """Give a stream back."""
        self._call("cudaStreamDestroy", stream)

    def event(self) -> Event:
        """A new event."""
        return Event(int(self._call("cudaEventCreate")))

    def record(self, event: Event, stream: Stream) -> None:
        """Let the event happen on the stream."""
        self._call("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Device time between two events."""
        self._call("cudaEventSynchronize", end)
        return float(self._call("cudaEventElapsedTime", start, end))

    def free_event(self, event: Event) -> None:
        """Give an event back."""
        self._call("cudaEventDestroy", event)

    def begin_capture(self, stream: Stream) -> None:
        """Collect what is put on the stream from now on."""
        self._call("cudaStreamBeginCapture", stream, self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)

    def end_capture(self, stream: Stream) -> Any:
        """What was collected, as an executable graph."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch_graph(self, graph: Any, stream: Stream) -> None:
        """Run a graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: Any) -> None:
        """Give a graph back."""
        self._call("cudaGraphExecDestroy", graph)

    def load_module(self, image: bytes) -> Any:
        """Kernels from a cubin, fatbin or PTX."""
        return self._driver("cuModuleLoadData", image)

    def function(self, module: Any, name: str) -> Any:
        """A kernel of a module by its name."""
        return self._driver("cuModuleGetFunction", module, name.encode())

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
        if shared_bytes > _PLAIN_SHARED:
            kind = self._cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._driver("cuFuncSetAttribute", function, kind, shared_bytes)
        held, places = kernel_arguments(args)
        self._driver("cuLaunchKernel", function, *grid, *block, shared_bytes, stream, ctypes.addressof(places), 0)
        del held

    def unload_module(self, module: Any) -> None:
        """Give a module back."""
        self._driver("cuModuleUnload", module)

    def close(self) -> None:
        """Nothing is held: the primary context belongs to the process."""

    def _attribute(self, number: Any) -> int:
        return int(self._call("cudaDeviceGetAttribute", number, self.index))

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = _result(getattr(self._rt, name)(*arguments))
        if int(code):
            raise_failed(name, int(code), code.name)
        return values[0] if len(values) == 1 else values

    def _driver(self, name: str, *arguments: Any) -> Any:
        try:
            code, *values = _result(getattr(self._cu, name)(*arguments))
        except RuntimeError as error:  # cuda.pathfinder's, where libcuda is not there
            raise BackendError(f"{name}: there is no NVIDIA driver here ({error}).") from error
        if int(code):
            raise_failed(name, int(code), code.name)
        return values[0] if len(values) == 1 else values


def _result(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
