"""AutoCast of NVIDIA ModelOpt as the second way to fp16: whatever it does, the same gates judge."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from kd3d.cli.main import run
from kd3d.errors import BackendError, GateError, GraphError, UsageError
from kd3d.export import autocast as autocast_module
from kd3d.export.onnx import export_onnx
from kd3d.export.precision import rewrite, with_initializers
from kd3d.export.precision_plan import LIMIT, Plan, tensor_types
from kd3d.export.probes import probe_frames
from kd3d.optional import available

HALF = onnx.TensorProto.FLOAT16


class Tool:
    """AutoCast as modelopt 0.47 behaves: names, arguments, metadata dropped, the canvas cast from fp32 zeros."""

    def __init__(self, *, ruin=None, error=None):
        self.ruin, self.error, self.level, self.given = ruin, error, None, {}

    def configure_logging(self, level):
        self.level = level

    def convert_to_mixed_precision(self, onnx_path, **given):
        self.given = given
        if self.error is not None:
            raise self.error
        (file,) = Path(given["calibration_data"]).glob("*.npz")
        with np.load(file) as ranges:
            self.frame = {name: ranges[name].shape for name in ranges.files}
        model = with_initializers(onnx.load(onnx_path))
        types = tensor_types(model)

        def excluded(name):
            return any(re.match(pattern, name) for pattern in given["nodes_to_exclude"])

        floats = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT}
        nodes = enumerate(model.graph.node)
        plan = Plan({i for i, node in nodes if floats.intersection(node.output) and not excluded(node.name)})
        half = rewrite(model, plan, types)
        widen_canvas(half)
        del half.metadata_props[:]
        if self.ruin is not None:
            self.ruin(half)
        return half


def widen_canvas(half):
    """Zeros in fp32, and a cast: AutoCast does not rewrite what names its type."""
    at, canvas = next((i, node) for i, node in enumerate(half.graph.node) if node.op_type == "ConstantOfShape")
    name = canvas.output[0]
    del canvas.attribute[:]
    canvas.output[0] = f"{name}_wide"
    cast = onnx.helper.make_node("Cast", [f"{name}_wide"], [name], to=HALF)
    half.graph.node.insert(at + 1, cast)


@pytest.fixture
def use(monkeypatch):
    def install(tool):
        monkeypatch.setattr(autocast_module, "require", lambda name, extra: module(tool, name, extra))
        return tool

    def module(tool, name, extra):
        if name != autocast_module.MODULE:
            return __import__(name, fromlist=["_"])
        assert extra == "autocast"
        return SimpleNamespace(
            configure_logging=tool.configure_logging, convert_to_mixed_precision=tool.convert_to_mixed_precision
        )

    return install


def check(folder, result):
    """What every route must keep."""
    record = json.loads((folder / "export.json").read_text())
    gate = next(gate for gate in record["gates"] if gate["name"] == "fp16")
    assert [one["name"] for one in record["gates"]] == ["checker", "operators", "fp16", "parity", "trt-rtx"]
    assert (gate["by"], gate["state"], record["precision"]) == ("autocast", "passed", "fp16")
    assert gate["emulation"]["passed"]
    assert gate["peak"] < LIMIT
    assert all(rule.startswith(("absolute", "autocast")) for rule in gate["kept_fp32"].values())
    assert sum(rule.startswith("absolute") for rule in gate["kept_fp32"].values()) >= 2
    graph = onnx.load(result.artifact)
    told = {item.key: item.value for item in graph.metadata_props}
    assert told["kd3d.precision"] == "fp16"
    assert "kd3d.spec" in told
    canvas = next(node for node in graph.graph.node if node.op_type == "ConstantOfShape")
    assert canvas.attribute[0].t.data_type == HALF
    values = (*graph.graph.input, *graph.graph.output)
    assert HALF not in {value.type.tensor_type.elem_type for value in values}


def test_what_autocast_makes_passes_the_same_gates_and_keeps_points_in_metres_fp32(traced, use, tmp_path):
    tool = use(Tool())
    result = export_onnx(traced("pillars"), tmp_path / "out", precision="fp16", half_by="autocast")
    check(tmp_path / "out", result)
    assert tool.level == "ERROR"  # nothing of its progress on standard output
    assert tool.given["keep_io_types"] is True
    assert tool.given["data_max"] == LIMIT
    nodes = onnx.load(result.artifact).graph.node
    assert tool.given["nodes_to_include"] == [f"{node.name}$" for node in nodes if node.op_type == "ScatterND"]
    assert tool.frame["features"][0] == traced("pillars").spec.encoder.rows  # the fullest frame


def overflow(half):
    """A node more: the largest map, a million times itself, in float16."""
    low = next(node for node in half.graph.node if node.op_type == "Conv")
    big = onnx.numpy_helper.from_array(np.float16([60_000]), "planted.factor")
    half.graph.initializer.append(big)
    half.graph.node.append(onnx.helper.make_node("Mul", [low.output[0], "planted.factor"], ["planted.large"]))


def test_what_autocast_lets_overflow_is_refused_and_nothing_written(traced, use, tmp_path):
    use(Tool(ruin=overflow))
    with pytest.raises(GateError, match=r"gate fp16: planted.large reaches inf in float16, above 32000") as caught:
        export_onnx(traced("pillars"), tmp_path / "out", precision="fp16", half_by="autocast")
    assert (caught.value.exit_code, caught.value.gate) == (4, "fp16")
    assert not (tmp_path / "out").exists()


def test_a_changed_interface_and_a_failure_of_autocast_are_refused(traced, use, tmp_path):
    use(Tool(ruin=lambda half: half.graph.output.pop()))
    with pytest.raises(GraphError, match=r"AutoCast changed the inputs or outputs .*--half-by kd3d"):
        export_onnx(traced("pillars"), tmp_path / "out", precision="fp16", half_by="autocast")
    use(Tool(error=Exception("ONNXRuntime failed to run, see logs for details")))
    with pytest.raises(GraphError, match=r"AutoCast cannot convert this graph: ONNXRuntime failed to run") as caught:
        export_onnx(traced("pillars"), tmp_path / "out", precision="fp16", half_by="autocast")
    assert caught.value.exit_code == 8


def test_without_modelopt_the_line_that_installs_it_is_given(traced, monkeypatch, tmp_path):
    monkeypatch.setattr(autocast_module, "MODULE", "modelopt_that_is_not_here.onnx.autocast")
    with pytest.raises(BackendError, match=r"pip install 'kd3d\[autocast\]'") as caught:
        export_onnx(traced("pillars"), tmp_path / "out", precision="fp16", half_by="autocast")
    assert caught.value.exit_code == 5


def test_a_converter_that_is_unknown_or_has_nothing_to_do_is_refused(traced, tmp_path, capsys):
    with pytest.raises(UsageError, match="fp16 is made by kd3d or autocast, not by 'amp'"):
        export_onnx(traced("pillars"), tmp_path / "out", precision="fp16", half_by="amp")
    words = ["export", "onnx", "--model", "world-centerpoint-pillar-tiny", "--out", str(tmp_path / "out")]
    assert run([*words, "--precision", "int8", "--half-by", "autocast"]) == 2
    assert "--half-by autocast goes with --precision fp16, not with int8" in capsys.readouterr().err


@pytest.mark.skipif(not available("modelopt"), reason="nvidia-modelopt is not installed: AutoCast itself is not run")
def test_autocast_itself_passes_the_gates(traced, tmp_path):
    model = traced("pillars")
    frames = probe_frames(model.spec, seed=5)[2:3]
    result = export_onnx(model, tmp_path / "out", frames=frames, precision="fp16", half_by="autocast")
    check(tmp_path / "out", result)
