"""Layers that float16 rounding hurts stay in fp32, and no more than needed."""

import copy
import json

import onnx
import pytest
import torch

from kd3d.detectors.presets import preset
from kd3d.errors import GateError
from kd3d.export import half_layers
from kd3d.export.half_layers import HalfLayer, HalfLayers
from kd3d.export.onnx import export_onnx
from kd3d.export.precision_plan import Plan
from kd3d.export.probes import probe_frames
from kd3d.runtime.pipeline import load_pipeline
from tests.support.trained import trained_like

SPEC = preset("world-centerpoint-pillar-tiny")
LOUD = 3000.0  # float16 has steps of 2 there


@pytest.fixture(scope="module")
def frames():
    return probe_frames(SPEC, seed=5)[2:3]


@pytest.fixture(scope="module")
def planted():
    """Sizes are told by small differences of large values, which the last convolution takes away again."""
    model = copy.deepcopy(trained_like(SPEC))
    branch = model.module.head.tasks[0]["dim"]
    with torch.no_grad():
        branch.hidden.norm.bias += LOUD
        branch.out.weight[..., :1, :], branch.out.weight[..., 2:, :] = 0, 0  # no loud border of zeros
        branch.out.weight[..., :, 0], branch.out.weight[..., :, 2] = 0, 0
        branch.out.bias.copy_(-LOUD * branch.out.weight.sum((1, 2, 3)))
    return model


def test_the_layers_that_move_boxes_stay_in_fp32_and_the_gate_passes(planted, frames, tmp_path):
    made = export_onnx(planted, tmp_path / "out", frames=frames, precision="fp16")
    gate = next(gate for gate in made.gates if gate.name == "fp16")
    sensitive = [name for name, rule in gate.details["kept_fp32"].items() if rule.startswith("sensitive")]
    assert 1 <= len(sensitive) <= 2  # the loud layer, and the one that reads it
    assert gate.details["emulation"]["passed"]
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    told = next(one for one in record["gates"] if one["name"] == "fp16")
    assert set(sensitive) <= set(told["kept_fp32"])
    with load_pipeline(tmp_path / "out") as pipeline:
        assert len(pipeline(frames[0])) > 0


def test_nothing_is_spared_where_no_box_moves(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(half_layers, "layer_errors", None)
    made = export_onnx(trained_like(SPEC), tmp_path / "out", frames=frames, precision="fp16")
    gate = next(gate for gate in made.gates if gate.name == "fp16")
    assert not [rule for rule in gate.details["kept_fp32"].values() if rule.startswith("sensitive")]


def test_where_nothing_helps_the_export_is_refused(planted, frames, tmp_path, monkeypatch):
    from kd3d.export import half

    monkeypatch.setattr(half, "compare", lambda *given, **named: Refusal())
    with pytest.raises(GateError, match="rounding to float16 moves boxes on 1 frame") as caught:
        export_onnx(planted, tmp_path / "out", frames=frames, precision="fp16")
    assert caught.value.gate == "fp16"
    assert not (tmp_path / "out").exists()


class Refusal:
    passed, frames, matched, boxes, failures = False, 1, 0, 3, ("a car moved",)


def test_a_layer_is_its_convolution_and_what_follows_up_to_the_next():
    names = [("Relu", "a"), ("Conv", "b"), ("Relu", "c"), ("Concat", "d"), ("Conv", "e"), ("Relu", "f"), ("Gemm", "g")]
    nodes = [onnx.helper.make_node(kind, ["x", "w"], [name]) for kind, name in names]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    every = HalfLayers.of(model, Plan({0, 1, 2, 3, 6}, {"e": "range"}))
    assert every.layers == (HalfLayer("b", frozenset({1, 2, 3})), HalfLayer("g", frozenset({6})))
    less = every.without({"b": "sensitive: 3.00 tolerances alone"})
    assert (less.plan.low, less.plan.kept["b"], len(less.layers)) == ({0, 6}, "sensitive: 3.00 tolerances alone", 1)
    assert every.only(every.layers[1]).plan.low == {6}
