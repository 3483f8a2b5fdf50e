"""Points to boxes on the device: the pillar kernels fill an engine's inputs, the decoder reads its outputs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import BackendError, DataError
from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.cuda.decode import DeviceDecoder
from kd3d.runtime.cuda.gpu import DeviceArray, Gpu
from kd3d.runtime.cuda.pillars import Crop, DevicePillars
from kd3d.runtime.device.protocol import DeviceBackend, Event, Stream
from kd3d.runtime.frames import Frame
from kd3d.runtime.heads import onnx_names
from kd3d.runtime.tensors import TensorInfo, find_tensor
from kd3d.spec.detector import DetectorSpec

_FIRST_CAPACITY = 1 << 17  # points; grows with the clouds

Shapes = dict[str, tuple[int, ...]]


class DeviceNetwork(Protocol):
    """A network whose tensors lie on a device, such as ``TrtRunner``."""

    @property
    def name(self) -> str:
        """What runs where, for reports."""

    @property
    def backend(self) -> DeviceBackend:
        """The device."""

    @property
    def stream(self) -> Stream:
        """Where the network runs, and the kernels before and after it."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Inputs with their limits."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Outputs."""

    def address(self, name: str) -> int:
        """Where a tensor lies."""

    def enqueue(self, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
        """Run the network on its inputs; returns before it is done."""

    def __enter__(self) -> Any:
        """Load it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it."""


class CudaPipeline:
    """Stages ``pre``, ``network``, ``decode``, ``nms`` on the device; boxes equal those of ``Pipeline``.

    Called as a whole it waits twice: for the number of pillars, which decides the network's shape, and for the boxes;
    threads may share a pipeline so, and take turns. Each stage by itself waits for its end, so that stages can be timed
    one by one.

    Args:
        spec: of a detector with pillars and a centre head.
        runner: of its network; entered with the pipeline.
        image: the compiled kernels; compiled for the device unless given.

    Attributes:
        dropped_points, dropped_pillars, total_dropped_points, total_dropped_pillars: as in ``Pipeline``.
        device_ms: of the stages that were called one by one, from the first to the last of their work on the stream,
            by the device's clock; ``pre`` holds its wait for the number of pillars.
    """

    stages = ("pre", "network", "decode", "nms")
    holds_frame = True  # on the device, from pre to nms: stages of two frames must not overlap

    def __init__(self, spec: DetectorSpec, runner: DeviceNetwork, *, image: bytes | None = None) -> None:
        self.spec, self.runner, self._image = spec, runner, image
        self.dropped_points = self.dropped_pillars = 0
        self.total_dropped_points = self.total_dropped_pillars = 0
        self.device_ms: dict[str, float] = {}
        self._alone = threading.Lock()
        self._events: tuple[Event, ...] = ()
        self._gpu: Gpu | None = None
        self._pillar_gpu: Gpu | None = None
        self._pillars: DevicePillars | None = None
        self._decoder: DeviceDecoder | None = None

    @property
    def name(self) -> str:
        """Detector and runner, for reports."""
        return f"{self.spec.name} ({self.runner.name}, CUDA kernels)"

    def __enter__(self) -> CudaPipeline:
        """Load the network and the kernels.

        Raises:
            BackendError: the kernels cannot be compiled, or the network's tensors are not of the types they write.
            DataError: the network has other inputs or outputs than the detector.
            Kd3dError: the network cannot be loaded, see its runner.
        """
        if self._gpu is None:
            self.runner.__enter__()
            try:
                self._features, self._index = _checked_inputs(self.runner)
                heads = {name: self._head(name) for name in onnx_names(self.spec)}
                self._gpu = Gpu(self.runner.backend, stream=self.runner.stream, image=self._image)
                self._decoder = DeviceDecoder(self._gpu, self.spec, heads)
                self._events = tuple(self.runner.backend.event() for _ in range(2))
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with (
            ExitStack() as stack
        ):  # what cannot be given back, after an error of the device, keeps nothing else from it
            stack.callback(self.runner.__exit__, kind, error, trace)
            for event in self._events:
                stack.callback(self.runner.backend.free_event, event)
            for gpu in (self._gpu, self._pillar_gpu):
                if gpu is not None:
                    stack.callback(gpu.close)
            self._gpu = self._pillar_gpu = self._pillars = self._decoder = None
            self._events = ()

    def __call__(self, frame: Frame) -> Boxes3D:
        """Boxes of a frame; labels index ``spec.head.classes``."""
        with self._alone:
            self.runner.backend.make_current()
            self.runner.enqueue(self._fill_inputs(frame))
            decoder = self._entered_decoder()
            decoder.decode()
            decoder.nms()
            return decoder.boxes()

    def pre(self, frame: Frame) -> Shapes:
        """Fill the network's inputs; their shapes.

        Raises:
            DataError: the cloud lacks a column, or holds NaN or infinite values.
        """
        with self._timed("pre"):
            return self._fill_inputs(frame)

    def network(self, shapes: Shapes) -> Shapes:
        """Run the network on what ``pre`` left on the device; the shapes of its outputs."""
        with self._timed("network"):
            return self.runner.enqueue(shapes)

    def decode(self, shapes: Shapes) -> Shapes:
        """Find candidates in what ``network`` left on the device."""
        with self._timed("decode"):
            self._entered_decoder().decode()
        return shapes

    def nms(self, shapes: Shapes) -> Boxes3D:
        """Boxes that survive suppression, on the host."""
        with self._timed("nms"):
            self._entered_decoder().nms()
            return self._entered_decoder().boxes()

    def bound(self, shapes: Shapes) -> Callable[[], object]:
        """Each call runs the network alone, on what ``pre`` left on the device, and waits for it."""
        return lambda: self.network(shapes)

    def head_maps(self, shapes: Shapes) -> dict[str, NDArray[np.float32]]:
        """What ``network`` left on the device, on the host: head maps by name, ``[1, C, H, W]``."""
        gpu = self._entered_gpu()
        return {
            name: gpu.fetch(DeviceArray(self.runner.address(name), shape, np.dtype(np.float32)))
            for name, shape in shapes.items()
        }

    def _fill_inputs(self, frame: Frame) -> Shapes:
        pillars = self._room_for(frame)
        found = pillars.group(frame.points, crop=self._crop(frame), where=frame.token)
        self.dropped_points, self.dropped_pillars = found.dropped_points, found.dropped_pillars
        self.total_dropped_points += found.dropped_points
        self.total_dropped_pillars += found.dropped_pillars
        rows, encoder = self._features.round_up(0, found.pillars), self.spec.pillar_encoder
        shapes = {"features": (rows, encoder.max_points, self.spec.point_inputs), "counts": (rows,), "cells": (rows,)}
        types = {"features": np.dtype(np.float32), "counts": self._index, "cells": self._index}
        features, counts, cells = (
            DeviceArray(self.runner.address(name), shape, types[name]) for name, shape in shapes.items()
        )
        pillars.write(rows, features, counts, cells)
        return shapes

    def _room_for(self, frame: Frame) -> DevicePillars:
        """The pillar kernels' memory, made anew for a larger cloud or other columns."""
        now, needed = self._pillars, len(frame.points)
        if now is not None and now.columns == tuple(frame.features) and now.capacity >= needed:
            return now
        if self._pillar_gpu is not None:
            self._pillar_gpu.close()
            self._pillar_gpu = self._pillars = None
        self._pillar_gpu = Gpu(self.runner.backend, stream=self.runner.stream, image=self._entered_gpu().image)
        capacity = max(_FIRST_CAPACITY, 1 << max(needed - 1, 0).bit_length())
        self._pillars = DevicePillars(
            self._pillar_gpu,
            self.spec,
            tuple(frame.features),
            capacity=capacity,
            max_pillars=self._features.high[0],
            wide=self._index == np.int64,
        )
        return self._pillars

    def _crop(self, frame: Frame) -> Crop | None:
        if not self.spec.points.camera_view_only or frame.lidar2image is None or frame.image_size_px is None:
            return None
        return Crop(frame.lidar2image, frame.image_size_px)

    def _head(self, name: str) -> int:
        found = find_tensor(self.runner.outputs, name)
        if found is None:
            have = ", ".join(tensor.name for tensor in self.runner.outputs)
            raise DataError(f"the network gave no output {name}; it gave {have or 'nothing'}.")
        _need_type(self.runner, found, (np.float32,))
        return self.runner.address(name)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        device, stream = self.runner.backend, self.runner.stream
        device.make_current()
        device.record(self._events[0], stream)
        yield
        device.record(self._events[1], stream)
        device.synchronize(stream)
        self.device_ms[stage] = device.elapsed_ms(*self._events)

    def _entered_gpu(self) -> Gpu:
        assert self._gpu is not None, "use the pipeline in a with statement"
        return self._gpu

    def _entered_decoder(self) -> DeviceDecoder:
        assert self._decoder is not None, "use the pipeline in a with statement"
        return self._decoder


def _checked_inputs(runner: DeviceNetwork) -> tuple[TensorInfo, np.dtype[Any]]:
    """The tensor of features, and the type of counts and cells."""
    found = {name: find_tensor(runner.inputs, name) for name in ("features", "counts", "cells")}
    missing = [name for name, tensor in found.items() if tensor is None]
    if missing or len(runner.inputs) != len(found):
        have = ", ".join(tensor.name for tensor in runner.inputs)
        raise DataError(f"{runner.name}: the network takes {have}; the CUDA kernels write {', '.join(found)}.")
    features, counts, cells = (tensor for tensor in found.values() if tensor is not None)
    _need_type(runner, features, (np.float32,))
    for tensor in (counts, cells):
        _need_type(runner, tensor, (np.int64, np.int32))
    if counts.dtype != cells.dtype:
        raise BackendError(f"{runner.name}: counts are {counts.dtype} but cells {cells.dtype}; they must agree.")
    return features, counts.dtype


def _need_type(runner: DeviceNetwork, tensor: TensorInfo, types: tuple[Any, ...]) -> None:
    if tensor.dtype not in [np.dtype(one) for one in types]:
        raise BackendError(
            f"{runner.name}: {tensor.name} is {tensor.dtype}; the CUDA kernels need "
            f"{' or '.join(np.dtype(one).name for one in types)}. Export with float32 inputs and outputs."
        )
