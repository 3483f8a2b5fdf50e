"""Gate ``engine``: the engine that was built is run against its ONNX, on a fake device; what it says if it cannot."""

import json
import sys

import pytest

from kd3d.detectors.presets import preset
from kd3d.errors import BackendError, DeviceMemoryError, GateError
from kd3d.export import trt as trt_module
from kd3d.export.trt import export_trt, read_source
from kd3d.export.trt_build import BuildSettings
from kd3d.runtime.pipeline import load_pipeline

TINY = preset("world-centerpoint-pillar-tiny")


@pytest.fixture
def source(tmp_path, tiny_network):
    return read_source(tiny_network.write_network(tmp_path / "model.onnx"))


@pytest.fixture
def on_device(monkeypatch, fake_tensorrt, host_device):
    """Install a fake TensorRT and its device."""
    monkeypatch.setattr(trt_module, "graphics_cards", lambda: ["NVIDIA A100, 40960 MiB, 580.65"])

    def install(**knobs):
        backend = host_device.HostBackend(device="NVIDIA A100", capability=(8, 0))
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make_module(enqueue=backend.enqueue, **knobs))
        return lambda: backend

    return install


def test_an_engine_that_agrees_with_its_onnx_is_kept_and_can_be_run(source, tmp_path, on_device):
    backend = on_device()
    made = export_trt(source, tmp_path / "out", BuildSettings(pillars=(1, 100, 300)), backend=backend)
    (gate,) = made.record["gates"]
    assert (gate["name"], gate["state"], gate["parity"]["passed"]) == ("engine", "passed", True)
    assert gate["parity"]["boxes"] > 100
    written = json.loads((tmp_path / "out/engine.json").read_text())
    assert written["gates"] == [gate]
    assert written["device"]["compute_capability"] == [8, 0]
    for path in (tmp_path / "out", tmp_path / "out/model.engine"):
        from kd3d.runtime.engine_file import read_engine_file
        from kd3d.runtime.trt_runner import TrtRunner

        runner = TrtRunner(read_engine_file(path), backend=backend)
        with load_pipeline(path, runner) as engine:
            assert engine.name == f"{TINY.name} (tensorrt-10.3.0)"


def test_more_pillars_than_the_profile_are_dropped_counted_and_the_rest_is_right(source, tmp_path, on_device):
    from kd3d.export.probes import probe_frames

    backend = on_device()
    export_trt(source, tmp_path / "out", BuildSettings(pillars=(1, 100, 300)), backend=backend)
    full = probe_frames(TINY)[-1]
    from kd3d.runtime.engine_file import read_engine_file
    from kd3d.runtime.trt_runner import TrtRunner

    runner = TrtRunner(read_engine_file(tmp_path / "out"), backend=backend)
    with load_pipeline(tmp_path / "out", runner) as engine:
        feeds = engine.pre(full)
        assert len(feeds["cells"]) == 300
        assert engine.dropped_pillars == len(full.points) - 300 == engine.dropped_points
        engine(full)
        assert engine.total_dropped_pillars == 2 * (len(full.points) - 300)


def test_an_engine_that_differs_is_not_written(source, tmp_path, on_device):
    with pytest.raises(GateError, match=r"gate engine: the engine differs from its ONNX on 5 frame\(s\)") as caught:
        export_trt(source, tmp_path / "out", BuildSettings(), backend=on_device(wrong=3.0))
    assert (caught.value.exit_code, caught.value.gate) == (4, "engine")
    assert not (tmp_path / "out").exists()


def test_an_engine_too_large_for_the_device_is_not_written(source, tmp_path, on_device):
    with pytest.raises(DeviceMemoryError, match="no execution context"):
        export_trt(source, tmp_path / "out", BuildSettings(), backend=on_device(memory=False))
    assert not (tmp_path / "out").exists()


def test_where_no_binding_is_the_gate_is_skipped_with_the_reason(source, tmp_path, on_device):
    on_device()

    def none():
        raise BackendError("no NVIDIA GPU can be used here.")

    made = export_trt(source, tmp_path / "out", BuildSettings(), backend=none)
    assert made.record["gates"] == [{"name": "engine", "state": "skipped", "reason": "no NVIDIA GPU can be used here."}]
    assert "compute_capability" not in made.record["device"]


def test_an_engine_made_ahead_of_time_is_not_run(source, tmp_path, host_device):
    from kd3d.export.trt_gate import engine_gate

    gate = engine_gate(source.onnx, tmp_path, BuildSettings(capabilities=("SM89",)), backend=host_device.HostBackend)
    assert (gate.state, gate.reason) == ("skipped", "built ahead of time for other devices")
