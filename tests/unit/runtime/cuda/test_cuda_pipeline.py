"""Points to boxes on the device, against the pipeline of the processor: the same network, the same boxes."""

from dataclasses import replace

import numpy as np
import pytest

from kd3d.errors import BackendError, DataError
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.cuda.pipeline import CudaPipeline
from kd3d.runtime.frames import Frame
from kd3d.runtime.heads import onnx_names
from kd3d.runtime.pipeline import Pipeline
from kd3d.runtime.tensors import TensorInfo
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec

SPEC = DetectorSpec(
    name="test",
    points=PointSpec(features=("x", "y", "z", "intensity", "time_lag")),
    grid=BevGrid(-8, -4, -3, 8, 4, 1, 0.5),
    encoder=PillarEncoderSpec(max_points=4, max_pillars=300),
    backbone=BevBackboneSpec((2,), (1,), (8,), (1,), (8,)),
    head=CenterHeadSpec(tasks=(("car", "bus"), ("person",)), velocity=True),
    decode=DecodeSpec(3, 50, 0.3, (-9, -5, -4, 9, 5, 4), "rotate", (0.1, 0.2), 50, 20),
)
COLUMNS = ("x", "y", "z", "intensity")


def heads_of(features, counts, cells, spec):
    """A network of its own: head maps that depend on every input."""
    ny, nx = spec.output_grid.ny, spec.output_grid.nx
    canvas = np.zeros((features.shape[2], ny * nx * 4 + 1), np.float32)
    canvas[:, cells] = features.sum(axis=1).T + counts
    canvas = canvas[:, :-1].reshape(-1, ny, 2, nx, 2).sum(axis=(2, 4))
    found = {}
    for at, name in enumerate(onnx_names(spec)):
        channels = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}.get(
            name[6:], len(spec.head.tasks[int(name[4])])
        )
        found[name] = np.sin(canvas[(at + np.arange(channels)) % len(canvas)] + at).astype(np.float32)[None]
    return found


class DeviceNet:
    """``TrtRunner``'s interface over the shim device."""

    name = "net"

    def __init__(self, device, spec, *, index=np.int64, rows=128, step=32, floats=np.float32):
        self.backend, self.stream, self.spec, self._index = device, 1, spec, np.dtype(index)
        width = (spec.pillar_encoder.max_points, spec.point_inputs)
        self.inputs = (
            TensorInfo("features", np.dtype(np.float32), (None, *width), (1, *width), (rows, *width), step),
            TensorInfo("counts", self._index, (None,), (1,), (rows,), step),
            TensorInfo("cells", self._index, (None,), (1,), (rows,), step),
        )
        sample = heads_of(np.zeros((1, *width), np.float32), np.zeros(1, int), np.zeros(1, int), spec)
        self.outputs = tuple(
            TensorInfo(name, np.dtype(floats), value.shape, value.shape, value.shape) for name, value in sample.items()
        )
        self.shapes, self._places = [], {}

    def __enter__(self):
        for tensor in (*self.inputs, *self.outputs):
            self._places[tensor.name] = self.backend.alloc(int(np.prod(tensor.high)) * tensor.dtype.itemsize)

    def __exit__(self, *_):
        for place in self._places.values():
            self.backend.free(place)
        self._places = {}

    def address(self, name):
        return self._places[name]

    def enqueue(self, shapes):
        self.shapes.append(shapes["features"])
        feeds = {}
        for tensor in self.inputs:
            feeds[tensor.name] = np.empty(shapes[tensor.name], tensor.dtype)
            self.backend.to_host(feeds[tensor.name], self._places[tensor.name], self.stream)
        for name, value in heads_of(**feeds, spec=self.spec).items():
            self.backend.to_device(self._places[name], value, self.stream)
        return {tensor.name: tensor.shape for tensor in self.outputs}


class HostNet:
    """The same network for the pipeline of the processor."""

    name = "host"

    def __init__(self, spec, inputs):
        self.spec, self.inputs = spec, inputs

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def infer(self, feeds):
        return heads_of(**feeds, spec=self.spec)


def frame_of(seed, count, **more):
    points = np.random.default_rng(seed).uniform(-8, 8, (count, 4)).astype(np.float32)
    return Frame(f"f{seed}", points, COLUMNS, None, ("car",), np.eye(4), np.eye(4), **more)


@pytest.fixture
def pair(shim, shim_library, monkeypatch):
    monkeypatch.setattr("kd3d.runtime.cuda.pipeline._FIRST_CAPACITY", 4096)  # launches are sized by it
    opened = []

    def make(spec=SPEC, order=0, **net):
        device = shim.ShimDevice(shim_library, order=order)
        runner = DeviceNet(device, spec, **net)
        opened.append((device, CudaPipeline(spec, runner, image=b"shim")))
        return opened[-1][1].__enter__(), Pipeline(spec, HostNet(spec, runner.inputs))

    yield make
    for device, pipeline in opened:
        pipeline.__exit__(None, None, None)
        assert not device.memory


def same(one, other):
    np.testing.assert_array_equal(one.label, other.label)
    np.testing.assert_allclose(one.array, other.array, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one.score, other.score, atol=1e-6)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("index", [np.int64, np.int32])
def test_frame_after_frame_has_the_boxes_of_the_processor(pair, order, index):
    ours, theirs = pair(order=order, index=index)
    for seed, count in enumerate((400, 0, 1, 2500, 60)):
        frame = frame_of(seed, count)
        same(ours(frame), theirs(frame))
        for name in ("dropped_points", "dropped_pillars", "total_dropped_points", "total_dropped_pillars"):
            assert getattr(ours, name) == getattr(theirs, name)
    assert ours.total_dropped_pillars > 0
    assert {shape[0] for shape in ours.runner.shapes} == {32, 64, 128}


def test_stage_by_stage_gives_the_same_boxes_as_at_once(pair):
    ours, theirs = pair()
    frame = frame_of(3, 700)
    staged = ours.nms(ours.decode(ours.network(ours.pre(frame))))
    same(staged, ours(frame))
    same(staged, theirs(frame))
    assert len(staged) > 3


def test_the_camera_s_view_is_cropped_as_on_the_processor(pair):
    ours, theirs = pair(replace(SPEC, points=replace(SPEC.points, camera_view_only=True)))
    matrix = np.array([[5, -7, 0.3, 1], [4.5, 0.2, -6, 2], [1, 0.02, 0.01, 0.1]])
    seen = frame_of(4, 900, lidar2image=matrix, image_size_px=(12, 9))
    same(ours(seen), theirs(seen))
    assert ours.runner.shapes[-1][0] < 128
    same(ours(frame_of(4, 900)), theirs(frame_of(4, 900)))


def test_larger_clouds_and_other_columns_get_new_room(pair, monkeypatch):
    monkeypatch.setattr("kd3d.runtime.cuda.pipeline._FIRST_CAPACITY", 16)
    ours, theirs = pair()
    first = frame_of(5, 40)
    swapped = replace(first, points=first.points[:, [1, 0, 3, 2]], features=("y", "x", "intensity", "z"))
    for frame in (first, frame_of(6, 300), swapped):
        same(ours(frame), theirs(frame))
    same(ours(swapped), ours(first))


def test_a_broken_cloud_is_named_and_the_next_one_is_fine(pair):
    ours, theirs = pair()
    broken = frame_of(7, 30)
    broken.points[8, 1] = np.nan
    with pytest.raises(DataError, match=r"f7: 1 of 30 points have NaN or infinite values, the first in row 8\."):
        ours(broken)
    same(ours(frame_of(8, 300)), theirs(frame_of(8, 300)))


def test_networks_that_the_kernels_cannot_feed_are_refused_and_released(shim, shim_library):
    def enter(change=None, **net):
        device = shim.ShimDevice(shim_library)
        runner = DeviceNet(device, SPEC, **net)
        if change is not None:
            change(runner)
        try:
            CudaPipeline(SPEC, runner, image=b"shim").__enter__()
        finally:
            assert not device.memory

    with pytest.raises(BackendError, match="task0_hm is float16; the CUDA kernels need float32"):
        enter(floats=np.float16)
    with pytest.raises(BackendError, match="counts is float32; the CUDA kernels need int64 or int32"):
        enter(index=np.float32)
    with pytest.raises(DataError, match="the network gave no output task0_hm; it gave task0_center"):
        enter(lambda runner: setattr(runner, "outputs", runner.outputs[1:]))
    with pytest.raises(DataError, match="net: the network takes features, counts; the CUDA kernels write"):
        enter(lambda runner: setattr(runner, "inputs", runner.inputs[:2]))
    with pytest.raises(BackendError, match="counts are int64 but cells int32; they must agree"):
        enter(
            lambda runner: setattr(
                runner, "inputs", (*runner.inputs[:2], replace(runner.inputs[2], dtype=np.dtype(np.int32)))
            )
        )
