"""Exports run on the vehicle side, and a wrong one is refused and leaves nothing."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd3d.detectors.checkpoint import Model, save_model, weights_hash
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.errors import GateError, GraphError, OutputError, UsageError
from kd3d.export import graph as graph_module
from kd3d.export.onnx import check_parity, export_onnx
from kd3d.export.parity import compare
from kd3d.export.parity_match import Tolerance
from kd3d.export.probes import probe_frames
from kd3d.runtime.frames import write_frames
from kd3d.runtime.pipeline import load_pipeline
from kd3d.runtime.points import NUSCENES_COLUMNS, read_points
from kd3d.spec import PillarEncoderSpec
from tests.support.trained import TINY, trained_like


@pytest.fixture(scope="module")
def model() -> Model:
    return trained_like(TINY)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "tiny"
    return folder, export_onnx(model, folder)


def test_the_folder_holds_what_the_vehicle_needs_and_how_it_was_made(exported, model, tmp_path):
    folder, result = exported
    assert sorted(path.name for path in folder.iterdir()) == ["export.json", "model.onnx", "pipeline.json", "spec.json"]
    assert (result.artifact, result.precision) == (folder / "model.onnx", "fp32")
    record = json.loads((folder / "export.json").read_text())
    save_model(tmp_path / "model", model.module, {})
    assert record["model"]["weights_sha256"] == weights_hash(tmp_path / "model")
    assert [gate["name"] for gate in record["gates"]] == ["checker", "operators", "parity", "trt-rtx"]
    assert result.to_json()["gates"] == record["gates"]
    objections = record["gates"][1]["objections"]
    assert objections["8.6"] == ["opset 20 is above 17, the last one documented for it"]
    assert objections["10.3"] == objections["11.4"] == objections["rtx"] == []
    assert record["parity"]["passed"]
    assert record["operators"]["ScatterND"] == 1
    assert record["operators"]["ReduceMax"] == len(TINY.pillar_encoder.filters)
    assert not {"ArgMax", "TopK"} & set(record["operators"])  # what a maximum with indices would bring
    assert json.loads((folder / "pipeline.json").read_text())["state"] == []


def test_parity_compared_real_boxes_and_matched_them_all(exported):
    _, result = exported
    assert result.parity.frames == 5
    assert result.parity.boxes > 200
    assert result.parity.matched + result.parity.ties == result.parity.boxes
    assert result.parity.ties <= 0.02 * result.parity.boxes
    assert result.parity.worst["map"] < 1e-5


def test_the_file_is_as_large_as_its_weights(exported, model):
    weights = sum(tensor.numel() for tensor in model.module.parameters()) * 4
    assert exported[1].artifact.stat().st_size < weights + 60_000


def test_no_norm_is_left_and_no_path_of_this_machine(exported):
    import onnx

    graph = onnx.load(exported[1].artifact)
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}
    assert b"/kd3d/" not in graph.SerializeToString()
    assert {item.key for item in graph.metadata_props} == {"kd3d.spec", "kd3d.version", "kd3d.weights_sha256"}


@pytest.mark.parametrize(("mode", "pillars"), [("hard", 300), ("dynamic", None)])
def test_every_encoder_exports_with_free_and_with_fixed_pillars(tmp_path, mode, pillars):
    spec = replace(TINY, encoder=PillarEncoderSpec((16, 16), max_points=6, max_pillars=2000, mode=mode))
    result = export_onnx(trained_like(spec), tmp_path / "out", pillars=pillars, opset=18)
    assert result.parity.boxes > 100
    with load_pipeline(tmp_path / "out") as pipeline:
        feeds = pipeline.pre(probe_frames(spec)[-1])
        assert feeds["features"].shape[0] == (pillars or 2000)


def test_the_export_runs_without_torch(exported, model, tmp_path):
    folder, _ = exported
    frames = probe_frames(TINY)
    write_frames(frames, tmp_path / "frames")
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["torch", "onnx", "nuscenes", "safetensors"]))
import numpy as np
from kd3d.runtime.frames import read_frames
from kd3d.runtime.pipeline import load_pipeline
from kd3d.runtime.points import NUSCENES_COLUMNS, read_points
frame = read_frames({str(tmp_path / "frames")!r})[3]
for source in ({str(folder)!r}, {str(folder / "model.onnx")!r}):
    with load_pipeline(source) as pipeline:
        boxes = pipeline(frame)
    np.save({str(tmp_path / "boxes.npy")!r}, boxes.array)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    wanted = TorchPipeline(model)(frames[3])
    got = np.load(tmp_path / "boxes.npy")
    assert len(wanted) > 20
    assert abs(len(got) - len(wanted)) <= 1
    best = wanted.array[:5, :3]
    assert np.abs(best[:, None] - got[None, :, :3]).max(-1).min(1).max() < 0.01


def test_a_graph_of_other_weights_fails_the_parity_gate(exported):
    other = trained_like(TINY)
    other.module.head.tasks[0]["rot"].out.bias.data += torch.tensor([0.05, 0.0])
    with pytest.raises(GateError, match=r"gate parity: .* task0_rot differs by .* reference .*, candidate") as caught:
        check_parity(
            TorchPipeline(other, padded=True),
            exported[0],
            (),
            probes=probe_frames(TINY),
            pillars=None,
            tolerance=Tolerance(),
        )
    assert caught.value.gate == "parity"


def test_an_fp16_export_of_the_shipped_teacher_keeps_its_boxes(tmp_path):
    import onnx

    from kd3d.bench.synthetic import synthetic_frames
    from kd3d.detectors.assets import SHIPPED_TEACHER
    from kd3d.detectors.checkpoint import load_model

    teacher = load_model(SHIPPED_TEACHER)
    cloud = synthetic_frames(teacher.spec, count=1, points=4000)[0]
    frame = replace(probe_frames(teacher.spec)[0], token="made", points=cloud.points)
    result = export_onnx(teacher, tmp_path / "half", frames=[frame], precision="fp16")
    assert result.precision == json.loads((tmp_path / "half/export.json").read_text())["precision"] == "fp16"
    assert result.parity.passed
    gate = next(gate for gate in result.gates if gate.name == "fp16")
    assert set(gate.details["kept_fp32"]) == {"view", "linear"}
    assert 0 < gate.details["peak"] < gate.details["limit"]
    assert gate.details["emulation"]["passed"]
    graph = onnx.load(result.artifact).graph
    canvas = next(node for node in graph.node if node.op_type == "ConstantOfShape")
    assert canvas.attribute[0].t.data_type == onnx.TensorProto.FLOAT16
    assert {item.type.tensor_type.elem_type for item in graph.output} == {onnx.TensorProto.FLOAT}
    weights = sum(tensor.numel() for tensor in teacher.module.parameters())
    assert result.artifact.stat().st_size < 2.1 * weights + 60_000


def test_an_unknown_precision_or_tensorrt_is_refused(model, tmp_path):
    with pytest.raises(UsageError, match="precision must be fp32 or fp16 or int8, not 'int4'"):
        export_onnx(model, tmp_path / "out", precision="int4")
    with pytest.raises(UsageError, match=r"no limits are known of TensorRT '7'; known are 8.6, 10.3"):
        export_onnx(model, tmp_path / "out", targets=["7"])


def test_objections_of_a_named_tensorrt_refuse_the_graph(exported):
    from kd3d.export.onnx import check_targets

    with pytest.raises(GraphError, match=r"gate operators: 1 objection\(s\): TensorRT 8.6: opset 20 is above 17"):
        check_targets(exported[1].artifact, ["8.6", "10.3"])


class Amax(graph_module.OneFrame):
    """A network with the scatter that TensorRT cannot parse."""

    def forward(self, features, counts, cells):
        maps = super().forward(features, counts, cells)
        extra = torch.zeros(8).scatter_reduce(0, cells % 8, features[:, 0, 0], "amax")
        return (maps[0] + extra.sum(), *maps[1:])


def test_a_scatter_with_reduction_is_refused_and_leaves_nothing(model, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_module, "OneFrame", Amax)
    with pytest.raises(GraphError, match=r"gate operators: 1 node.*\(reduction max is not supported by TensorRT"):
        export_onnx(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_senseless_requests_are_refused_before_any_work(model, tmp_path):
    with pytest.raises(UsageError, match="opset must be 18 to 20, not 9"):
        export_onnx(model, tmp_path / "out", opset=9)
    with pytest.raises(UsageError, match=r"pillars must be 2 to 4096 \(the grid's cells\), not 0"):
        export_onnx(model, tmp_path / "out", pillars=0)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something else than an export"):
        export_onnx(model, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_parity_holds_on_a_real_nuscenes_frame(exported, model, shared_data):
    files = sorted((shared_data / "nuscenes_keyframe").rglob("*.bin"))
    assert files, "the real key frame is missing"
    points = read_points(files[0], NUSCENES_COLUMNS)
    frame = replace(probe_frames(TINY)[0], token="real", points=points, features=NUSCENES_COLUMNS)
    with load_pipeline(exported[0]) as candidate:
        report = compare(TorchPipeline(model), candidate, [frame])
    assert report.passed, report.failures
    assert report.boxes > 50
    assert report.worst["center_m"] < 1e-3
