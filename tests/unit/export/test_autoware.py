"""A student in Autoware's layout gives, by the node's rules written down independently, the boxes it gives here."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.cli.main import run
from kd3d.detectors.checkpoint import Model, save_model
from kd3d.detectors.presets import preset
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.errors import GateError, GraphError, LayoutError, OutputError, UsageError
from kd3d.export import autoware, half
from kd3d.export.autoware import AutowareSettings, export_autoware
from kd3d.export.autoware_files import NodeParameters, parameter_files
from kd3d.export.autoware_half import convert_files
from kd3d.export.autoware_network import autoware_networks
from kd3d.export.autoware_node import TorchNode
from kd3d.export.autoware_rules import class_names, decoration, node_range, notes
from kd3d.export.gates import Gate
from kd3d.export.graph import lower_opset
from kd3d.export.parity_match import FP16_TOLERANCE
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.autoware import AutowareNode
from kd3d.runtime.autoware_rules import NodeRules, node_decode
from kd3d.runtime.runners import OrtRunner
from kd3d.spec import PointSpec
from tests.support import autoware_node
from tests.support.autoware_detector import ALL, CIRCLE, THRESHOLD, cloud, file_node, frame_of, small, trained_like


def texts_of(spec, features):
    made = parameter_files(
        "m", spec, features, NodeParameters(class_names(spec), THRESHOLD, 0.0, CIRCLE), precision="fp32"
    )
    return made["m.param.yaml"], made["m_ml_package.param.yaml"]


def torch_node(model: Model, count=None, scale=None):
    """The node around the torch networks: as the files are, without writing them."""
    features = decoration(model.spec, features=count, intensity_scale=scale)
    encoder, head = autoware_networks(model.module, features)

    def run_encoder(array):
        with torch.inference_mode():
            return encoder(torch.from_numpy(array)).numpy()

    def run_head(array):
        with torch.inference_mode():
            return [tensor.numpy() for tensor in head(torch.from_numpy(array))]

    return autoware_node.Node(autoware_node.parameters(*texts_of(model.spec, features)), run_encoder, run_head)


def columns(points, node):
    """What reaches the node: without intensity where it has four columns."""
    return points if node.columns == 5 else points[:, [0, 1, 2, 4]]


def require_same(boxes, objects, *, loose=1.0):
    """Every box has its object at its place, and there are no others."""
    assert len(boxes) == len(objects)
    distance = np.hypot(*(boxes.array[:, None, :2] - objects[None, :, :2]).transpose(2, 0, 1))
    partner = distance.argmin(1)
    assert len(set(partner)) == len(partner)
    mine, theirs = boxes.array, objects[partner]
    np.testing.assert_allclose(mine[:, :6], theirs[:, :6], rtol=1e-4 * loose, atol=1e-3 * loose)
    turn = (mine[:, 6] - theirs[:, 6] + math.pi) % (2 * math.pi) - math.pi
    assert np.abs(turn).max() < 1e-3 * loose
    np.testing.assert_allclose(mine[:, 7:], theirs[:, 7:9], atol=1e-3 * loose)
    np.testing.assert_array_equal(boxes.label, theirs[:, 9])
    np.testing.assert_allclose(boxes.score, theirs[:, 10], atol=1e-4 * loose)


LAG = ("x", "y", "z", "time_lag")
CASES = {
    "ten features": ({"points": LAG}, None),
    "ten features, a detector without time": ({}, None),
    "nine features, empty rows that count": ({"points": LAG}, 9),
    "nine features, empty rows that do not": ({"points": LAG, "mode": "dynamic"}, 9),
    "nine features, the range's middle at zero": ({"z": (-4.0, 4.0)}, 9),
    "eleven features": ({"points": ALL, "intensity": "unit"}, None),
    "eleven features in another order": ({"points": ("x", "y", "z", "time_lag", "intensity")}, None),
    "eleven features, raw intensity without time": ({"points": ("x", "y", "z", "intensity"), "mode": "dynamic"}, None),
    "intensity that is not used": ({"points": LAG}, 11),
    "two layers": ({"filters": (24, 32)}, None),
    "two layers without empty rows": ({"filters": (24, 20), "mode": "dynamic"}, 9),
    "no velocity": ({"velocity": False}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_node_finds_our_boxes(case):
    choices, count = CASES[case]
    spec = small(**choices)
    model = trained_like(spec)
    points = cloud(spec)
    boxes = TorchPipeline(model, padded=True)(frame_of(points, spec))
    assert 5 < len(boxes) < 70
    node = torch_node(model, count)
    require_same(boxes, node(columns(points, node)))


@settings(max_examples=8, deadline=None)
@given(
    points=st.sampled_from([("x", "y", "z"), LAG, ALL, ("x", "y", "z", "intensity")]),
    mode=st.sampled_from(["hard", "dynamic"]),
    width=st.integers(1, 32),
    layers=st.integers(1, 3),
    velocity=st.booleans(),
    z_min=st.floats(-5, 0),
    height=st.floats(2, 9),
    unit=st.booleans(),
    nine=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_random_detectors_give_the_same_boxes_in_the_node(
    points, mode, width, layers, velocity, z_min, height, unit, nine, seed
):
    spec = small(
        points=points, mode=mode, filters=(*([8] * (layers - 1)), width), velocity=velocity,
        z=(z_min, z_min + height), intensity="unit" if unit else "raw",
    )  # fmt: skip
    model = trained_like(spec, seed)
    seen = cloud(spec, seed)
    boxes = TorchPipeline(model, padded=True)(frame_of(seen, spec))
    scores = 1 / (1 + np.exp(-_best_logits(model, seen)))
    if np.abs(scores - THRESHOLD).min() < 1e-4 or _close_calls(boxes):
        return  # a box that rounding lets in or out is no finding
    node = torch_node(model, 9 if nine and "intensity" not in points else None)
    require_same(boxes, node(columns(seen, node)), loose=5)


def _best_logits(model, points):
    pipeline = TorchPipeline(model, padded=True)
    return pipeline.network(pipeline.pre(frame_of(points, model.spec)))["task0_hm"].max(1)


def _close_calls(boxes):
    gaps = np.hypot(*(boxes.array[:, None, :2] - boxes.array[None, :, :2]).transpose(2, 0, 1))
    return bool((np.abs(gaps - CIRCLE) < 1e-3).any()) or bool((np.diff(np.sort(boxes.score)) < 1e-6).any())


def test_of_crowded_pillars_the_network_looks_at_as_many_points_as_in_training():
    spec = small(max_points=8)
    encoder, _ = autoware_networks(trained_like(spec).module, decoration(spec))
    points = torch.randn(4, 32, 10)
    with torch.inference_mode():
        few, more = encoder(points), points.clone()
        more[:, 8:] = 100
        assert torch.equal(few, encoder(more))
    assert any("kd3d over 8" in line for line in notes(spec, class_names(spec)))


@pytest.fixture
def no_builds(monkeypatch):
    """One export is built by TensorRT-RTX; the others need not wait for that."""
    monkeypatch.setattr(autoware, "rtx_gate", lambda *_: Gate("trt-rtx", "skipped", reason="not asked here"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    spec = small(points=ALL, intensity="unit", mode="dynamic", filters=(16, 24))
    model = trained_like(spec)
    folder = tmp_path_factory.mktemp("autoware") / "out"
    chosen = AutowareSettings(name="m", score_threshold=THRESHOLD)
    frames = [frame_of(cloud(spec, seed), spec) for seed in (1, 2)]
    return model, folder, export_autoware(model, folder, chosen, frames=frames)


def test_the_two_files_and_the_parameters_alone_give_our_boxes(exported):
    model, folder, _ = exported
    node = file_node(folder, "m")
    for seed in range(3):
        points = cloud(model.spec, seed)
        boxes = TorchPipeline(model, padded=True)(frame_of(points, model.spec))
        assert len(boxes) > 3
        require_same(boxes, node(points, seed=seed))
        kept = node(points, seed=seed, iou=True)
        assert 0 < len(kept) <= len(boxes)


def test_the_files_are_what_the_node_binds(exported):
    import onnx

    _, folder, result = exported
    encoder, head = (onnx.load(folder / f"pts_{part}_m.onnx") for part in ("voxel_encoder", "backbone_neck_head"))

    def shapes(values):
        return {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim] for value in values}

    assert shapes(encoder.graph.input) == {"input_features": [160, 32, 11]}
    assert shapes(encoder.graph.output) == {"pillar_features": [160, 32]}
    assert shapes(head.graph.input) == {"spatial_features": [1, 32, 12, 16]}
    assert list(shapes(head.graph.output).items()) == [
        ("heatmap", [1, 3, 6, 8]), ("reg", [1, 2, 6, 8]), ("height", [1, 1, 6, 8]),
        ("dim", [1, 3, 6, 8]), ("rot", [1, 2, 6, 8]), ("vel", [1, 2, 6, 8]),
    ]  # fmt: skip
    assert {node.op_type for node in head.graph.node} == {"Conv", "ConvTranspose", "Relu", "Concat"}
    assert [item.version for item in head.opset_import] == [17]
    assert {item.key: item.value for item in head.metadata_props}["kd3d.layout"] == "autoware"
    gates = {gate.name: gate for gate in result.gates}
    assert list(gates) == ["checker", "operators", "parity", "trt-rtx"]
    assert all(not found for of in gates["operators"].details["objections"].values() for found in of.values())
    assert result.parity.boxes > 50
    assert result.parity.matched + result.parity.ties == result.parity.boxes
    assert result.agreement == {"frames": 2, "boxes": result.agreement["boxes"], "found": result.agreement["boxes"]}
    assert result.agreement["boxes"] > 5
    record = json.loads((folder / "export.json").read_text())
    assert record["features"][3:5] == ["intensity", "time_lag"]
    assert sorted(result.files) == sorted(path.name for path in folder.iterdir())


def test_the_newer_bundle_says_the_same_as_the_older_files(exported):
    _, folder, _ = exported
    bundle = autoware_node.parameters((folder / "ml_package.param.yaml").read_text())
    older = autoware_node.parameters((folder / "m_ml_package.param.yaml").read_text())
    assert older["model_params"].items() <= bundle["model_params"].items()
    assert bundle["version"] == "v4.1"
    assert (folder / bundle["encoder_onnx_path"]).is_file()
    assert (folder / bundle["head_onnx_path"]).is_file()
    remapper = autoware_node.parameters((folder / bundle["class_remapper_param_path"]).read_text())
    assert [len(value) for value in remapper.values()] == [64, 64, 64]
    scores = bundle["model_params"]["detection_score_thresholds"]["min_confidence_scores"]
    assert scores == {key: [THRESHOLD] for key in ("CAR", "BICYCLE", "PEDESTRIAN")}


def test_float16_files_give_our_boxes_too_and_keep_the_canvas_in_float16(tmp_path, no_builds):
    import onnx

    spec = small(points=ALL, intensity="unit")
    model = trained_like(spec)
    chosen = AutowareSettings(name="h", score_threshold=THRESHOLD, precision="fp16")
    frames = [frame_of(cloud(spec, seed), spec) for seed in (1, 2)]
    result = export_autoware(model, tmp_path / "out", chosen, frames=frames)
    assert "fp16" in [gate.name for gate in result.gates]
    head = onnx.load(tmp_path / "out" / "pts_backbone_neck_head_h.onnx")
    first = next(node for node in head.graph.node if node.op_type == "Conv")
    weights = {item.name: item.data_type for item in head.graph.initializer}
    assert weights[first.input[1]] == onnx.TensorProto.FLOAT16
    assert {value.type.tensor_type.elem_type for value in (*head.graph.input, *head.graph.output)} == {1}
    encoder = onnx.load(tmp_path / "out" / "pts_voxel_encoder_h.onnx")
    product = next(node for node in encoder.graph.node if node.op_type == "MatMul")
    kinds = {item.name: item.data_type for item in encoder.graph.initializer}
    assert kinds[product.input[1]] == onnx.TensorProto.FLOAT  # metres
    params = autoware_node.parameters((tmp_path / "out" / "ml_package.param.yaml").read_text())
    assert params["trt_precision"] == "fp16"
    points = cloud(spec, 1)
    boxes = TorchPipeline(model, padded=True)(frame_of(points, spec))
    found = file_node(tmp_path / "out", "h")(points)
    distance = np.hypot(*(boxes.array[:, None, :2] - found[None, :, :2]).transpose(2, 0, 1)).min(1)
    assert (distance[boxes.score > THRESHOLD + 0.03] < 0.05).all()


def test_float16_that_overflows_or_moves_boxes_is_refused(exported, tmp_path, monkeypatch):
    import onnx

    model, folder, _ = exported
    encoder, head = (tmp_path / f"pts_{part}_m.onnx" for part in ("voxel_encoder", "backbone_neck_head"))
    for path in (encoder, head):
        path.write_bytes((folder / path.name).read_bytes())
    loud = onnx.load(head)
    weight = next(item for item in loud.graph.initializer if len(item.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1e6), weight.name))
    onnx.save(loud, head)
    features = decoration(model.spec)
    rules = NodeRules(features.names, class_names(model.spec), intensity_scale=features.intensity_scale)
    reference = TorchNode(model.spec, rules, decoration=features, module=model.module, slots=32)
    frames = [frame_of(cloud(model.spec), model.spec)]
    with OrtRunner(encoder) as first, OrtRunner(head) as second:
        node = AutowareNode(model.spec, rules, runners=(first, second), by_iou=False)
        with monkeypatch.context() as low, pytest.raises(GateError, match=r"gate fp16: .* above 0\.1") as caught:
            low.setattr(half, "LIMIT", 0.1)
            convert_files(encoder, head, reference, node, frames=frames, tolerance=FP16_TOLERANCE)
        assert caught.value.exit_code == 4
        with pytest.raises(GateError, match="rounding to float16 moves boxes"):
            convert_files(encoder, head, reference, node, frames=frames, tolerance=FP16_TOLERANCE)
    assert head.read_bytes() == loud.SerializeToString()


def test_files_that_differ_from_torch_are_refused_and_leave_nothing(tmp_path, monkeypatch):
    def turned(*arguments):
        encoder, head = autoware_networks(*arguments)
        head.head.tasks[0]["rot"].out.weight.data *= -1
        return encoder, head

    monkeypatch.setattr(autoware, "autoware_networks", turned)
    with pytest.raises(GateError, match=r"gate parity: in the node, .* differ on 5 frame") as caught:
        export_autoware(trained_like(small()), tmp_path / "out", AutowareSettings(name="m"))
    assert caught.value.gate == "parity"
    assert not list(tmp_path.iterdir())


REFUSED = {
    "6 tasks, each with boxes of its own": lambda: preset("nuscenes-centerpoint-pillar"),
    "64 channels per pillar": lambda: small(filters=(64,)),
    "elongation, which Autoware": lambda: small(points=("x", "y", "z", "elongation")),
    "no linear layer makes one of the other": lambda: small(points=ALL, intensity="tanh"),
    "an anchor head": lambda: preset("kitti-pointpillars"),
    "a voxel encoder": lambda: preset("waymo-centerpoint-voxel"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_the_node_cannot_run_is_refused_with_the_reason(reason, tmp_path):
    spec = REFUSED[reason]()
    with pytest.raises(LayoutError, match=reason) as caught:
        export_autoware(Model(spec, torch.nn.Identity()), tmp_path / "out", AutowareSettings(name="m"))
    assert caught.value.exit_code == 8
    assert not list(tmp_path.iterdir())


def test_settings_that_make_no_sense_are_named():
    with pytest.raises(UsageError, match="the model name must be letters"):
        AutowareSettings(name="a b")
    with pytest.raises(UsageError, match=r"the circle's radius positive; got 0\.35, 0 and 0 m"):
        AutowareSettings(name="m", circle_m=0)
    with pytest.raises(UsageError, match="opset must be 17 to 20, not 16"):
        AutowareSettings(name="m", opset=16)
    with pytest.raises(UsageError, match="features must be 9, 10 or 11, not 12"):
        decoration(small(), features=12)
    with pytest.raises(UsageError, match="the intensity scale must be positive, not 0"):
        decoration(small(points=ALL), intensity_scale=0.0)
    with pytest.raises(LayoutError, match="eats intensity, which the node feeds with 11 features only, not with 9"):
        decoration(small(points=ALL), features=9)
    with pytest.raises(UsageError, match=r"has 3 classes \(car, cyclist, pedestrian\), but 1 names were given"):
        class_names(small(), ("CAR",))


def test_an_earlier_export_is_replaced_and_anything_else_is_not(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something else than an export"):
        export_autoware(trained_like(small()), tmp_path / "out", AutowareSettings(name="m"))


def test_an_operator_that_an_older_set_lacks_is_a_refused_graph(tmp_path):
    import onnx

    value = [onnx.helper.make_tensor_value_info(name, 1, [2, 2]) for name in "xy"]
    node = onnx.helper.make_node("Gelu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), tmp_path / "a.onnx")
    with pytest.raises(GraphError, match=r"a cannot be written for opset 17: .*Choose a higher --opset"):
        lower_opset(tmp_path / "a.onnx", 17)


def test_the_node_counts_the_cells_that_the_grid_has():
    cut = 0
    for cell in (0.1, 0.2, 0.25, 0.32, 0.4, 0.8):
        for low in np.arange(-80, 1, 1.6).tolist():
            high = low + 240 * cell
            found = np.array(node_range(BevGrid(low, low, -3, high, high, 5, cell))).astype(np.float32)
            assert ((found[3:5] - found[:2]) / np.float32(cell)).astype(int).tolist() == [240, 240]
            assert np.abs(found[3:5] - high).max() < 1e-4
            cut += int((np.float32(high) - np.float32(low)) / np.float32(cell)) != 240
    assert cut > 10  # it is not rare


def test_a_range_that_float32_cannot_count_is_refused():
    grid = BevGrid(1e6, 0, -3, 1e6 + 2.4, 9, 5, 0.03)
    with pytest.raises(LayoutError, match="which is how the node counts"):
        node_range(grid)


def test_the_node_is_told_what_the_detector_s_own_decoding_would_do_differently():
    spec = preset("world-centerpoint-pillar-tiny")
    found = " ".join(notes(spec, class_names(spec)))
    assert "CONSTRUCTION_VEHICLE, BARRIER, TRAFFIC_CONE as UNKNOWN" in found
    assert "suppresses by circle and BEV IoU" in found
    raw = replace(spec, points=PointSpec(features=ALL, intensity="raw", camera_view_only=True))
    assert "were they so in training" in " ".join(notes(raw, ("CAR",)))
    assert "the node feeds the whole cloud" in " ".join(notes(raw, ("CAR",)))
    same = node_decode(small(), NodeRules((), ()))
    assert notes(same, ("CAR",)) == ()


def test_the_command_refuses_six_tasks_and_names_the_files_otherwise(tmp_path, capsys, no_builds):
    line = ["export", "autoware", "--out", str(tmp_path / "a"), "--json", "--model"]
    assert run([*line, "world-centerpoint-pillar-six-tasks"]) == 8
    assert "takes the best class of each cell" in capsys.readouterr().err
    save_model(tmp_path / "model", trained_like(small()).module, {})
    assert run([*line, str(tmp_path / "model"), "--name", "x", "--class-names", "CAR,BICYCLE, ANIMAL"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"artifact", "files", "precision", "parity", "gates", "agreement", "notes"} <= set(said)
    assert "x.param.yaml" in said["files"]
    assert "the node publishes ANIMAL as UNKNOWN" in said["notes"]
