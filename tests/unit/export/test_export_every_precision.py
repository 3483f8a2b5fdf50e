"""Five networks in three precisions through every gate that needs no GPU; two of them through real RTX builds."""

import json
from dataclasses import replace

import pytest

from kd3d.errors import BackendError, GateError, GraphError, UsageError
from kd3d.export import onnx as onnx_module
from kd3d.export.int8 import Int8Settings
from kd3d.export.onnx import PRECISIONS, export_onnx
from kd3d.export.parity_match import INT8_TOLERANCE
from kd3d.export.probes import probe_frames
from kd3d.export.rtx import rtx_gate
from kd3d.export.trt import export_trt, read_source
from kd3d.export.trt_build import BuildSettings
from kd3d.optional import available
from kd3d.runtime.pipeline import load_pipeline
from tests.support.trained import FIVE

GATES = {
    "fp32": ["checker", "operators", "parity", "trt-rtx"],
    "fp16": ["checker", "operators", "fp16", "parity", "trt-rtx"],
    "int8": ["checker", "operators", "int8", "fp16", "parity", "trt-rtx"],
}


TWO = ("pillars", "three-levels-dynamic-pillars")
needs_rtx = pytest.mark.skipif(not available("tensorrt_rtx"), reason="tensorrt-rtx is not installed: no RTX builds")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", FIVE)
def test_every_network_passes_every_gate_in_every_precision(traced, name, precision, tmp_path):
    model = traced(name)
    frames = probe_frames(model.spec, seed=5)[2:3]
    result = export_onnx(model, tmp_path / "out", frames=frames, precision=precision)
    assert [gate.name for gate in result.gates] == GATES[precision]
    assert result.parity.boxes > 20
    share = INT8_TOLERANCE.share if precision == "int8" else 1.0
    assert result.parity.matched + result.parity.ties >= share * result.parity.boxes
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record["precision"] == precision
    if precision == "int8":
        gate = next(gate for gate in record["gates"] if gate["name"] == "int8")
        assert gate["layers"] + len(gate["kept"]) == gate["weighted"]
        assert 2 * gate["layers"] > gate["weighted"] - 8
        assert set(gate["errors"]) >= {name for name, rule in gate["kept"].items() if rule.startswith("sensitive")}
        assert record["operators"]["QuantizeLinear"] > 0
        source = read_source(tmp_path / "out")
        assert (source.precision, source.int8) == ("int8", gate["layers"] / gate["weighted"])


@pytest.mark.parametrize("name", TWO)
def test_int8_for_a_cpu_runs_and_is_refused_for_tensorrt(traced, name, tmp_path):
    model = traced(name)
    frames = probe_frames(model.spec, seed=5)[2:3]
    made = export_onnx(model, tmp_path / "out", frames=frames, precision="int8", int8=Int8Settings(device="cpu"))
    assert [gate.name for gate in made.gates] == ["checker", "operators", "int8", "parity", "trt-rtx"]
    assert made.gates[-1].reason == "this int8 graph is for ONNX Runtime on a CPU"
    with load_pipeline(tmp_path / "out") as pipeline:
        assert len(pipeline(frames[0])) > 0
    with pytest.raises(GraphError, match=r"this int8 graph is for ONNX Runtime on a CPU: TensorRT has no unsigned"):
        read_source(tmp_path / "out")


def test_int8_for_tensorrt_8_6_keeps_float32_scales(traced, tmp_path):
    model = traced("pillars")
    frames = probe_frames(model.spec, seed=5)[2:3]
    result = export_onnx(model, tmp_path / "out", frames=frames, precision="int8", opset=18)
    assert [gate.name for gate in result.gates] == ["checker", "operators", "int8", "parity", "trt-rtx"]


@needs_rtx
@pytest.mark.rtx
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", TWO)
def test_tensorrt_rtx_builds_two_networks_for_two_generations(traced, monkeypatch, name, precision, tmp_path):
    model = traced(name)
    monkeypatch.setattr(onnx_module, "rtx_gate", lambda at, spec: rtx_gate(at, spec, capabilities=("SM80", "SM89")))
    frames = probe_frames(model.spec, seed=5)[2:3]
    result = export_onnx(model, tmp_path / "out", frames=frames, precision=precision)
    assert result.gates[-1].state == "passed"
    assert min(result.gates[-1].details["engine_bytes"].values()) > 10_000
    made = export_trt(
        read_source(tmp_path / "out"),
        tmp_path / "engine",
        BuildSettings(precision, precision, capabilities=("SM89",)),
        runtime="tensorrt_rtx",
    )
    assert made.record["typing"] == "strong"


@needs_rtx
def test_rtx_without_a_gpu_or_a_capability_says_what_to_give(graphs, monkeypatch, tmp_path):
    path = graphs("pillars")[1]
    monkeypatch.setattr("kd3d.export.trt.graphics_cards", lambda: [])
    with pytest.raises(BackendError, match=r"tensorrt_rtx needs an NVIDIA GPU .* or give --capability") as caught:
        export_trt(read_source(path), tmp_path / "out", BuildSettings("fp32", "fp32"), runtime="tensorrt_rtx")
    assert caught.value.exit_code == 5
    assert not (tmp_path / "out").exists()


def test_int8_without_frames_and_an_unreachable_tolerance_are_refused(traced, tmp_path):
    model = traced("pillars")
    with pytest.raises(UsageError, match=r"int8 is calibrated on real frames. Give --frames"):
        export_onnx(model, tmp_path / "out", precision="int8")
    frames = probe_frames(model.spec, seed=5)[2:3]
    strict = replace(INT8_TOLERANCE, score=1e-9, share=1.0, center_m=1e-9)
    with pytest.raises(GateError, match=r"gate int8: 8 bits move boxes on 1 frame.* whatever is left out") as caught:
        export_onnx(model, tmp_path / "out", frames=frames, precision="int8", tolerance=strict)
    assert (caught.value.exit_code, caught.value.gate) == (4, "int8")
    assert not (tmp_path / "out").exists()
