"""TensorRT and TensorRT-RTX: an engine as a runner. No torch.

One code path serves 8.6 to 11.x: tensors by name, ``set_tensor_address`` and ``execute_async_v3``. What a version has
is asked of the module (``hasattr``), never of its version number.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import CudaError, DataError, DeviceMemoryError, EngineError, UsageError
from kd3d.optional import require
from kd3d.runtime.device.choose import open_backend
from kd3d.runtime.device.protocol import DeviceBackend, HostBuffer, Stream
from kd3d.runtime.engine_file import EngineFile
from kd3d.runtime.shortage import out_of_memory
from kd3d.runtime.tensors import TensorInfo
from kd3d.runtime.trt_logger import Keeper, make_logger, make_profiler, said
from kd3d.runtime.trt_tensors import check_shape, engine_tensors

Arrays = Mapping[str, NDArray[Any]]
Shapes = tuple[tuple[int, ...], ...]
GRAPHS = 4  # sizes of a free side that are prepared when graphs are asked for
_SMALL = 1 << 20  # bytes: below, an integrated device reads host memory in place


@dataclass
class _Place:
    """Memory of one tensor at its largest; ``copied`` is false where the device reads the host's own memory."""

    info: TensorInfo
    host: HostBuffer
    address: int
    copied: bool

    def view(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The host's part, as an array of ``shape``."""
        size = math.prod(shape) * self.info.dtype.itemsize
        return self.host.array[:size].view(self.info.dtype).reshape(shape)


@dataclass
class _Prepared:
    """An execution context whose input shapes are set, and its graphs once they were captured."""

    context: Any
    shapes: Shapes
    outputs: Shapes
    graphs: dict[bool, Any] = field(default_factory=dict)  # with and without copies
    ran: bool = False


class TrtRunner:
    """An engine on a device; see ``kd3d.runtime.runners.Runner``.

    Args:
        engine: with its record.
        backend: opens the device; the first binding that works unless given.
        cuda_graph: launch the network with its copies as one CUDA graph. A free number of pillars is then rounded up to
            one of four sizes, each with a context and a graph of its own: a graph is only good for the shapes of its
            capture. TensorRT-RTX captures by itself.
    """

    def __init__(
        self, engine: EngineFile, *, backend: Callable[[], DeviceBackend] = open_backend, cuda_graph: bool = False
    ) -> None:
        self.engine, self.cuda_graph = engine, cuda_graph
        self._open_backend, self._held = backend, ExitStack()
        self._backend: DeviceBackend | None = None
        self._alone = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._prepared: dict[Shapes, _Prepared] = {}
        self._inputs: tuple[TensorInfo, ...] = ()
        self._outputs: tuple[TensorInfo, ...] = ()

    @property
    def name(self) -> str:
        """Such as ``tensorrt-10.3.0``."""
        graph = "-graph" if self.cuda_graph else ""
        return f"{self.engine.module}-{self.engine.record.get('version')}{graph}"

    @property
    def device(self) -> str:
        """The device's name, once it is open."""
        return self.backend.info().name

    @property
    def metadata(self) -> dict[str, str]:
        """Empty: an engine has no place for it, ``spec.json`` lies beside it."""
        return {}

    @property
    def backend(self) -> DeviceBackend:
        """The device, for kernels before and after the network on the same ``stream``."""
        if self._backend is None:
            raise UsageError(f"{self.engine.path.name} is not loaded. Use the runner in a with statement.")
        return self._backend

    @property
    def stream(self) -> Stream:
        """Everything runs here."""
        assert self.backend is not None
        return self._stream

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Inputs with the limits of the engine's profile."""
        assert self.backend is not None
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Outputs."""
        assert self.backend is not None
        return self._outputs

    def __enter__(self) -> TrtRunner:
        """Check and load the engine, and reserve its memory.

        Raises:
            BackendError: TensorRT, a driver or a GPU is missing.
            EngineError: the engine is for another TensorRT or another device.
            DataError: the engine is damaged.
            DeviceMemoryError: the device has not enough memory.
            GraphError: a tensor's type is unknown to numpy.
        """
        if self._backend is None:
            with ExitStack() as stack:
                self._load(stack)
                self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run the engine. Threads may share a runner: they take turns.

        Args:
            feeds: arrays by input name; int64 becomes int32 where the engine has no int64 (before TensorRT 10).

        Returns:
            All outputs by name, in memory of their own.

        Raises:
            DataError: an input is missing, or its shape or type does not fit the engine or its profile.
            DeviceMemoryError, CudaError: the device failed.
        """
        shapes = self._check(feeds)
        with self._alone:
            self.backend.make_current()
            for info, shape in zip(self.inputs, shapes, strict=True):
                np.copyto(self._places[info.name].view(shape), feeds[info.name], casting="same_kind")
            prepared = self._prepare(shapes)
            self._launch(prepared, copies=True)
            self.backend.synchronize(self._stream)
            return {
                info.name: self._places[info.name].view(shape).copy()
                for info, shape in zip(self._outputs, prepared.outputs, strict=True)
            }

    def address(self, name: str) -> int:
        """Where a tensor lies on the device, to be filled or read by kernels on ``stream``."""
        assert self.backend is not None
        return self._places[name].address

    def enqueue(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Run the network alone, on inputs that already lie at their ``address``; returns before it is done.

        Args:
            shapes: of all inputs by name.

        Returns:
            Shapes of the outputs, which will lie at their ``address``.

        Raises:
            DataError: a shape does not fit the profile.
            CudaError: the device failed.
        """
        wanted = tuple(tuple(shapes[info.name]) for info in self.inputs)
        for info, shape in zip(self._inputs, wanted, strict=True):
            check_shape(info, shape)
        prepared = self._prepare(wanted)
        self._launch(prepared, copies=False)
        return {info.name: shape for info, shape in zip(self._outputs, prepared.outputs, strict=True)}

    def bound(self, feeds: Arrays) -> Callable[[], object]:
        """Inputs placed on the device once; each call runs the network and leaves the outputs there. For timing."""
        self.infer(feeds)
        shapes = {info.name: np.shape(feeds[info.name]) for info in self._inputs}

        def run() -> None:
            self.enqueue(shapes)
            self.backend.synchronize(self._stream)

        return run

    @contextmanager
    def profiled(self, sink: Callable[[str, float], object]) -> Iterator[None]:
        """Tell ``sink`` the name and milliseconds of every layer that runs, while entered; not of CUDA graphs."""
        contexts = [prepared.context for prepared in self._prepared.values()]
        profiler = make_profiler(self._trt, sink)  # held: a context does not own it
        for context in contexts:
            context.profiler = profiler
        try:
            yield
        finally:
            for prepared in self._prepared.values():
                prepared.context.profiler = None

    def _load(self, stack: ExitStack) -> None:
        trt: Any = require(self.engine.module, extra="gpu" if self.engine.module == "tensorrt" else "trt-rtx")
        self.engine.check_version(str(trt.__version__))
        data = self.engine.read()
        backend = self._open_backend()
        stack.callback(self._forget)
        stack.callback(backend.close)
        info = backend.info()
        self.engine.check_device(info)
        self._trt, self._logger = trt, make_logger(trt)
        self._loaded = self._deserialise(data)
        self._backend, self._stream = backend, backend.stream()
        stack.callback(backend.free_stream, self._stream)
        self._inputs, self._outputs = engine_tensors(trt, self._loaded, graphs=GRAPHS if self._captures else 1)
        self._reserve(stack, integrated=info.integrated)

    @property
    def _captures(self) -> bool:
        return self.cuda_graph and not hasattr(self._trt, "CudaGraphStrategy")

    def _deserialise(self, data: bytes) -> Any:
        self._runtime = self._trt.Runtime(self._logger)
        if self.engine.settings.get("version_compatible"):  # such an engine brings its own runtime along
            self._runtime.engine_host_code_allowed = True
        loaded = self._runtime.deserialize_cuda_engine(data)
        if loaded is None:
            raise _refusal(
                self._logger, f"{self.engine.path}: {self.engine.module} {self._trt.__version__} cannot load it"
            )
        return loaded

    def _reserve(self, stack: ExitStack, *, integrated: bool) -> None:
        largest = tuple(tuple(int(side or 1) for side in info.high) for info in self._inputs)
        for info, shape in zip(self._inputs, largest, strict=True):
            self._place(info, shape, stack, in_place=integrated)
        stack.callback(self._drop)
        prepared = self._new(largest)
        self._prepared[largest] = prepared
        for info, shape in zip(self._outputs, prepared.outputs, strict=True):
            self._place(info, shape, stack, in_place=False)
        self._bind(prepared)

    def _place(self, info: TensorInfo, shape: tuple[int, ...], stack: ExitStack, *, in_place: bool) -> None:
        size = max(math.prod(shape) * info.dtype.itemsize, 1)
        shared = in_place and size <= _SMALL
        host = self.backend.alloc_host(size, mapped=shared)
        stack.callback(self.backend.free_host, host)
        address = host.device_address if shared else None
        if address is None:
            address = self.backend.alloc(size)
            stack.callback(self.backend.free, address)
        self._places[info.name] = _Place(info, host, address, copied=not shared)

    def _new(self, shapes: Shapes) -> _Prepared:
        context = self._context()
        if context is None:
            raise _refusal(self._logger, f"{self.engine.path}: no execution context", default=DeviceMemoryError)
        return _Prepared(context, shapes, self._shape(context, shapes))

    def _context(self) -> Any:
        if not (self.cuda_graph and hasattr(self._trt, "CudaGraphStrategy")):
            return self._loaded.create_execution_context()
        config = self._loaded.create_runtime_config()
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._loaded.create_execution_context(config)

    def _shape(self, context: Any, shapes: Shapes) -> Shapes:
        for info, shape in zip(self._inputs, shapes, strict=True):
            if not context.set_input_shape(info.name, shape):
                told = said(self._logger)
                raise DataError(f"{self.engine.path.name} refuses the shape {shape} of {info.name}: {told}")
        return tuple(tuple(int(side) for side in context.get_tensor_shape(info.name)) for info in self._outputs)

    def _bind(self, prepared: _Prepared) -> None:
        for name, place in self._places.items():
            prepared.context.set_tensor_address(name, place.address)

    def _prepare(self, shapes: Shapes) -> _Prepared:
        if shapes in self._prepared:
            return self._prepared[shapes]
        if self._captures and len(self._prepared) < GRAPHS:
            prepared = self._new(shapes)
            self._bind(prepared)
        else:  # the oldest context is used again: its shapes change, so its graph is no good any more
            prepared = self._prepared.pop(next(iter(self._prepared)))
            self._free_graphs(prepared)
            prepared.outputs, prepared.shapes = self._shape(prepared.context, shapes), shapes
        self._prepared[shapes] = prepared
        return prepared

    def _launch(self, prepared: _Prepared, *, copies: bool) -> None:
        """The first run of new shapes is plain, as TensorRT asks for; the next one is captured."""
        work = self._copy_and_execute if copies else self._execute
        if not (self._captures and prepared.ran):
            work(prepared)
            prepared.ran = True
            return
        if copies not in prepared.graphs:
            self.backend.begin_capture(self._stream)
            try:
                work(prepared)
            finally:
                graph = self.backend.end_capture(self._stream)
            prepared.graphs[copies] = graph
        self.backend.launch_graph(prepared.graphs[copies], self._stream)

    def _copy_and_execute(self, prepared: _Prepared) -> None:
        for info, shape in zip(self._inputs, prepared.shapes, strict=True):
            place = self._places[info.name]
            if place.copied:
                self.backend.to_device(place.address, place.view(shape), self._stream)
        self._execute(prepared)
        for info, shape in zip(self._outputs, prepared.outputs, strict=True):
            place = self._places[info.name]
            self.backend.to_host(place.view(shape), place.address, self._stream)

    def _execute(self, prepared: _Prepared) -> None:
        if not prepared.context.execute_async_v3(int(self._stream)):
            raise _refusal(self._logger, f"{self.engine.path.name}: the network could not be run", default=CudaError)

    def _check(self, feeds: Arrays) -> Shapes:
        missing = [info.name for info in self.inputs if info.name not in feeds]
        if missing:
            raise DataError(
                f"{self.engine.path.name} needs the input(s) {', '.join(missing)}, but got {', '.join(feeds)}."
            )
        for info in self._inputs:
            kind = np.asarray(feeds[info.name]).dtype
            if kind.kind != info.dtype.kind:
                raise DataError(f"{self.engine.path.name}: {info.name} must be {info.dtype}, not {kind}.")
            check_shape(info, np.shape(feeds[info.name]))
        return tuple(np.shape(feeds[info.name]) for info in self._inputs)

    def _free_graphs(self, prepared: _Prepared) -> None:
        for graph in prepared.graphs.values():
            self.backend.free_graph(graph)
        prepared.graphs, prepared.ran = {}, False

    def _drop(self) -> None:
        """Contexts before the engine, and the engine before its runtime."""
        for prepared in self._prepared.values():
            self._free_graphs(prepared)
        self._prepared.clear()
        self._loaded = None

    def _forget(self) -> None:
        self._backend, self._loaded, self._runtime = None, None, None
        self._places.clear()


def _refusal(logger: Keeper, what: str, *, default: type[Exception] = EngineError) -> Exception:
    text = said(logger)
    return (DeviceMemoryError if out_of_memory(text) else default)(f"{what}: {text}")
