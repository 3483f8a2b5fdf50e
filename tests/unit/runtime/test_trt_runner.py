"""The whole engine path, on a device in host memory and TensorRT bindings that run the engine's ONNX."""

import ctypes
import hashlib
import json
import platform
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

from kd3d.errors import BackendError, CudaError, DataError, DeviceMemoryError, EngineError, GraphError, UsageError
from kd3d.runtime.device.cudart import CtypesBackend
from kd3d.runtime.engine_file import read_engine_file
from kd3d.runtime.trt_runner import TrtRunner

PROFILE = {"features": ((1, 3), (4, 3), (40, 3)), "cells": ((1,), (4,), (40,))}


def write_engine(folder, *, version="10.3.0", kind=TensorProto.FLOAT, **changes):
    """An engine that adds up features whose cell is even; the fake's engines are ONNX."""
    rows = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["pillars", 3])
    cells = helper.make_tensor_value_info("cells", TensorProto.INT64, ["pillars"])
    out = helper.make_tensor_value_info("total", kind, [1, 3])
    two = helper.make_tensor("two", TensorProto.INT64, [1], [2])
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [0])
    nodes = [
        helper.make_node("Mod", ["cells", "two"], ["odd"]),
        helper.make_node("Cast", ["odd"], ["odd_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["odd_float", "one"], ["column"]),
        helper.make_node("Sub", ["unit", "column"], ["even"]),
        helper.make_node("Mul", ["features", "even"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=1),
        helper.make_node("Cast", ["sum"], ["total"], to=kind),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    unit = helper.make_tensor("unit", TensorProto.FLOAT, [1, 1], [1.0])
    graph = helper.make_graph(nodes, "g", [rows, cells], [out], [two, axis, one, unit])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    header = json.dumps({"version": version, "half": "FP32", "profile": PROFILE}).encode()
    data = b"FAKE" + header + b"\n" + model.SerializeToString()
    (folder / "model.engine").write_bytes(data)
    record = {
        "format": 1,
        "runtime": "tensorrt",
        "version": version,
        "device": {"name": "Fake Orin", "compute_capability": [8, 7]},
        "machine": {"architecture": platform.machine()},
        "settings": {},
        "engine": {"file": "model.engine", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        **changes,
    }
    (folder / "engine.json").write_text(json.dumps(record))
    return read_engine_file(folder)


def feeds(count, seed=0):
    rng = np.random.default_rng(seed)
    return {"features": rng.random((count, 3), np.float32), "cells": rng.integers(0, 99, count)}


def wanted(given):
    return (given["features"] * (given["cells"] % 2 == 0)[:, None]).sum(0, keepdims=True)


@pytest.fixture
def use(monkeypatch, fake_tensorrt):
    """Install a fake TensorRT whose work goes onto the stream of ``backend``."""

    def install(backend, version="10.3.0", *, name="tensorrt", **knobs):
        module = fake_tensorrt.make_module(version, enqueue=backend.enqueue, **knobs)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return install


@pytest.fixture
def runner(tmp_path, use, host_device):
    backend = host_device.HostBackend()
    module = use(backend)
    made = TrtRunner(write_engine(tmp_path), backend=lambda: backend)
    made.held, made.module = backend, module
    return made


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "10.16.1", "11.4.0"])
def test_an_engine_gives_its_graphs_results_at_any_size(tmp_path, use, host_device, version):
    backend = host_device.HostBackend()
    use(backend, version)
    with TrtRunner(write_engine(tmp_path, version=version), backend=lambda: backend) as runner:
        integers = np.int32 if version.startswith("8") else np.int64
        described = {info.name: (info.dtype, info.shape, info.low, info.high, info.step) for info in runner.inputs}
        assert described["features"] == (np.float32, (None, 3), (1, 3), (40, 3), 1)
        assert described["cells"] == (integers, (None,), (1,), (40,), 1)
        assert [(info.name, info.shape) for info in runner.outputs] == [("total", (1, 3))]
        assert (runner.name, runner.device, runner.metadata) == (f"tensorrt-{version}", "Fake Orin", {})
        for count in (1, 7, 40, 7):
            given = feeds(count, seed=count)
            np.testing.assert_allclose(runner.infer(given)["total"], wanted(given), rtol=1e-5)
    assert not backend.held
    assert backend.closed
    assert backend.log[-1] == "free_stream"


def test_results_stay_when_the_next_frame_comes(runner):
    with runner:
        first = runner.infer(feeds(5))
        kept = first["total"].copy()
        runner.infer(feeds(9, seed=3))
        np.testing.assert_array_equal(first["total"], kept)


def test_memory_is_reserved_once_and_used_again(runner):
    with runner:
        before = dict(runner.held.held)
        for count in (3, 40, 1):
            runner.infer(feeds(count))
        assert runner.held.held.keys() == before.keys()
        assert runner.held.log.count("pinned") == 3
        assert runner.module.log["contexts"] == 1


def test_on_jetson_small_inputs_are_read_in_place(tmp_path, use, host_device):
    backend = host_device.HostBackend(integrated=True)
    use(backend)
    with TrtRunner(write_engine(tmp_path), backend=lambda: backend) as runner:
        given = feeds(6)
        np.testing.assert_allclose(runner.infer(given)["total"], wanted(given), rtol=1e-5)
    assert backend.log.count("mapped") == 2
    assert "to_device" not in backend.log
    assert "to_host" in backend.log


def test_graphs_are_captured_on_the_second_run_of_a_size_and_launched_from_then_on(tmp_path, use, host_device):
    backend = host_device.HostBackend()
    module = use(backend)
    with TrtRunner(write_engine(tmp_path), backend=lambda: backend, cuda_graph=True) as runner:
        assert runner.inputs[0].step == 10
        assert [runner.inputs[0].round_up(0, count) for count in (0, 1, 10, 11, 39, 40, 99)] == [
            10,
            10,
            10,
            20,
            40,
            40,
            40,
        ]
        for seed, count in enumerate((10, 10, 10, 40, 10, 40, 40, 20, 30, 10)):
            given = feeds(count, seed)
            np.testing.assert_allclose(runner.infer(given)["total"], wanted(given), rtol=1e-5)
        assert backend.log.count("capture") == 2
        assert backend.log.count("launch_graph") == 6
        assert module.log["contexts"] == 4
    assert backend.log.count("free_graph") == 2


def test_a_network_between_kernels_is_captured_without_copies(tmp_path, use, host_device):
    backend = host_device.HostBackend()
    use(backend)
    with TrtRunner(write_engine(tmp_path), backend=lambda: backend, cuda_graph=True) as runner:
        for seed in range(3):
            given = feeds(10, seed)
            for name, kind in (("features", np.float32), ("cells", np.int64)):
                backend.to_device(runner.address(name), np.ascontiguousarray(given[name], kind), runner.stream)
            runner.enqueue({"features": (10, 3), "cells": (10,)})
            got = np.zeros((1, 3), np.float32)
            backend.to_host(got, runner.address("total"), runner.stream)
            np.testing.assert_allclose(got, wanted(given), rtol=1e-5)
        assert [backend.log.count(what) for what in ("capture", "launch_graph", "to_device")] == [1, 2, 6]
        np.testing.assert_allclose(runner.infer(given)["total"], wanted(given), rtol=1e-5)
        assert backend.log.count("capture") == 2, "with copies it is another graph"
    assert backend.log.count("free_graph") == 2


def test_a_size_too_many_takes_the_oldest_context_and_its_graph_is_captured_anew(tmp_path, use, host_device):
    backend = host_device.HostBackend()
    module = use(backend)
    with TrtRunner(write_engine(tmp_path), backend=lambda: backend, cuda_graph=True) as runner:
        for seed, count in enumerate((5, 5, 5, 6, 7, 8, 9, 5, 5, 5, 5)):
            given = feeds(count, seed)
            np.testing.assert_allclose(runner.infer(given)["total"], wanted(given), rtol=1e-5)
        assert module.log["contexts"] == 4
        assert backend.log.count("capture") == 2
        assert "free_graph" in backend.log


def test_tensorrt_rtx_captures_by_itself(tmp_path, use, host_device):
    backend = host_device.HostBackend()
    module = use(backend, "1.7.1", name="tensorrt_rtx")
    module.CudaGraphStrategy = type("CudaGraphStrategy", (), {"WHOLE_GRAPH_CAPTURE": 1})
    asked = []
    engine_file = write_engine(tmp_path, version="1.7.1", runtime="tensorrt_rtx")
    plain = module.Runtime

    class Runtime(plain):
        def deserialize_cuda_engine(self, data):
            engine = plain.deserialize_cuda_engine(self, data)
            make, engine.create_runtime_config = engine.create_execution_context, type("Config", (), {})
            engine.create_execution_context = lambda config: asked.append(config.cuda_graph_strategy) or make()
            return engine

    module.Runtime = Runtime
    with TrtRunner(engine_file, backend=lambda: backend, cuda_graph=True) as runner:
        for count in (4, 4, 9):
            given = feeds(count)
            np.testing.assert_allclose(runner.infer(given)["total"], wanted(given), rtol=1e-5)
        assert runner.inputs[0].step == 1
    assert asked == [1]
    assert "capture" not in backend.log


def test_kernels_can_fill_and_read_the_tensors_in_place(runner):
    with runner:
        given = feeds(4)
        for name, kind in (("features", np.float32), ("cells", np.int64)):
            runner.backend.to_device(runner.address(name), np.ascontiguousarray(given[name], kind), runner.stream)
        copies = runner.held.log.count("to_host")
        assert runner.enqueue({"features": (4, 3), "cells": (4,)}) == {"total": (1, 3)}
        assert runner.held.log.count("to_host") == copies
        got = np.zeros((1, 3), np.float32)
        runner.backend.to_host(got, runner.address("total"), runner.stream)
        np.testing.assert_allclose(got, wanted(given), rtol=1e-5)
        runs = runner.module.log["runs"]
        runner.bound(given)()
        assert runner.module.log["runs"] == runs + 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cells": None}, r"model.engine needs the input\(s\) cells, but got features"),
        (
            {"features": np.zeros((41, 3), np.float32)},
            r"features has shape \(41, 3\), but the engine takes \(1, 3\) to",
        ),
        ({"features": np.zeros((0, 3), np.float32)}, r"features has shape \(0, 3\)"),
        ({"features": np.zeros((4, 3, 1), np.float32)}, r"features has shape \(4, 3, 1\)"),
        ({"features": np.zeros((4, 3), np.int64)}, "features must be float32, not int64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(runner, change, text):
    given = {name: value for name, value in {**feeds(4), **change}.items() if value is not None}
    with runner, pytest.raises(DataError, match=text):
        runner.infer(given)


def test_an_engine_is_not_handed_over_before_its_record_was_compared(tmp_path, use, host_device):
    backend = host_device.HostBackend(capability=(8, 9), device="RTX 4090")
    module = use(backend, "10.7.0")
    module.Runtime = None
    engine = write_engine(tmp_path)
    with pytest.raises(EngineError, match=r"built by tensorrt 10.3.0, but here is 10.7.0"):
        TrtRunner(engine, backend=lambda: backend).__enter__()
    module.__version__ = "10.3.0"
    with pytest.raises(EngineError, match=r"built for Fake Orin \(compute capability 8.7\), but .*RTX 4090 \(.*8.9\)"):
        TrtRunner(engine, backend=lambda: backend).__enter__()
    assert backend.closed
    assert not backend.held
    (tmp_path / "model.engine").write_bytes(engine.path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"bytes, but .* were built"):
        TrtRunner(engine, backend=lambda: backend).__enter__()


def test_what_tensorrt_says_of_an_engine_reaches_the_user(tmp_path, use, host_device):
    backend = host_device.HostBackend()
    use(backend)
    content = b"something else"
    told = {"file": "model.engine", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    engine = write_engine(tmp_path, engine=told)
    engine.path.write_bytes(content)
    with pytest.raises(EngineError, match=r"tensorrt 10.3.0 cannot load it: magicTag does not match"):
        TrtRunner(engine, backend=lambda: backend).__enter__()


def test_too_little_memory_is_its_own_error_and_nothing_is_kept(tmp_path, use, host_device):
    backend = host_device.HostBackend()
    use(backend, memory=False)
    engine = write_engine(tmp_path)
    with pytest.raises(DeviceMemoryError, match=r"no execution context: .*out of memory") as caught:
        TrtRunner(engine, backend=lambda: backend).__enter__()
    assert caught.value.exit_code == 5
    assert not backend.held
    small = host_device.HostBackend(memory=600)
    use(small)
    with pytest.raises(DeviceMemoryError, match=r"not enough free memory"):
        TrtRunner(engine, backend=lambda: small).__enter__()
    assert not small.held


def test_a_failed_run_and_an_unknown_type_are_errors(tmp_path, use, host_device, monkeypatch):
    backend = host_device.HostBackend()
    module = use(backend)
    runner = TrtRunner(write_engine(tmp_path), backend=lambda: backend)
    with runner:
        runner._prepared[((40, 3), (40,))].context.places.clear()
        with pytest.raises(CudaError, match=r"model.engine: the network could not be run: it gave no reason"):
            runner.infer(feeds(4))
    with monkeypatch.context() as patched:
        patched.setattr(module, "nptype", lambda kind: (_ for _ in ()).throw(TypeError("bfloat16")))
        with pytest.raises(GraphError, match=r"is of a type that numpy does not know"):
            runner.__enter__()


def test_a_refused_shape_says_what_tensorrt_said(runner, monkeypatch):
    with runner:
        context = next(iter(runner._prepared.values())).context
        monkeypatch.setattr(context, "set_input_shape", lambda name, shape: False)
        with pytest.raises(DataError, match=r"refuses the shape \(4, 3\) of features: it gave no reason"):
            runner.infer(feeds(4))


def test_a_runner_that_is_not_entered_says_so(runner):
    for use_it in (lambda: runner.infer(feeds(1)), lambda: runner.inputs, lambda: runner.address("cells")):
        with pytest.raises(UsageError, match=r"model.engine is not loaded. Use the runner in a with statement"):
            use_it()


def test_without_tensorrt_the_line_that_installs_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r"tensorrt is needed here.*kd3d\[gpu\]"):
        TrtRunner(write_engine(tmp_path)).__enter__()


def test_the_ctypes_binding_carries_an_engine_with_graphs(tmp_path, fake_tensorrt, fake_cuda, monkeypatch):
    kept = []

    def enqueue(stream, work):
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: work())
        kept.append(call)
        assert fake_cuda.cudaLaunchHostFunc(ctypes.c_void_p(stream), call, None) == 0

    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make_module(enqueue=enqueue))
    before = fake_cuda.fake_used()
    with TrtRunner(write_engine(tmp_path), backend=CtypesBackend, cuda_graph=True) as runner:
        for seed, count in enumerate((4, 10, 10, 10, 40, 10)):
            given = feeds(count, seed)
            np.testing.assert_allclose(runner.infer(given)["total"], wanted(given), rtol=1e-5)
    calls = fake_cuda.fake_calls().split()
    assert calls.count(b"capture") == 1
    assert calls.count(b"launchGraph") == 3
    assert calls.count(b"cudaHostAllocMapped") == 2  # the fake device is integrated, as Orin is
    assert fake_cuda.fake_used() == before


def test_threads_take_turns_and_each_makes_the_device_current(runner):
    from concurrent.futures import ThreadPoolExecutor

    many = [feeds(count, seed=count) for count in range(1, 13)]
    with runner, ThreadPoolExecutor(3) as pool:
        for given, got in zip(many, pool.map(runner.infer, many), strict=True):
            np.testing.assert_allclose(got["total"], wanted(given), rtol=1e-5)
    assert len(runner.held.threads) >= 1
