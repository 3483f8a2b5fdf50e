"""Detectors with anchor heads through the command line: exported, run, timed, scored, trained and taught."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from kd3d.cli.main import run
from kd3d.detectors.checkpoint import load_model, save_model
from kd3d.detectors.presets import preset
from kd3d.evaluation.evaluate import score_predictions

SUPPORT = Path(__file__).resolve().parents[2] / "support" / "tiny_anchor.py"
NAMES = ("anchor_cls", "anchor_box", "anchor_dir")
WORLD = "world-pointpillars-tiny"
EDITIONS = ["kitti-pointpillars", "kitti-pointpillars-mmdet3d", "kitti-second"]


@pytest.fixture(scope="module")
def tiny_anchor():
    spec = importlib.util.spec_from_file_location("tiny_anchor", SUPPORT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=EDITIONS)
def model(request, tiny_anchor, tmp_path_factory):
    return tiny_anchor.write_model(tmp_path_factory.mktemp("anchor") / "model", request.param)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kd3d.export.rtx.available", lambda name: False)  # a build takes most of a minute
        assert run(["export", "onnx", "--model", str(model), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def anchors(tiny_anchor, tmp_path_factory):
    """A model folder to refuse."""
    return tiny_anchor.write_model(tmp_path_factory.mktemp("refused") / "model")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    path = tmp_path_factory.mktemp("cloud") / "cloud.bin"
    rng = np.random.default_rng(3)
    points = rng.uniform((0, -39, -3, 0), (69, 39, 1, 1), (4000, 4))
    points.astype(np.float32).tofile(path)
    return path


@pytest.fixture
def said(capsys):
    """Run a command line; its JSON line."""

    def call(*arguments, code=0):
        capsys.readouterr()
        assert run([*map(str, arguments), "--json"]) == code
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


def test_an_export_passes_its_gates_with_boxes_to_compare(exported):
    record = json.loads((exported / "export.json").read_text())
    gates = {gate["name"]: gate["state"] for gate in record["gates"]}
    assert {"checker", "operators", "parity"} <= {name for name, state in gates.items() if state == "passed"}
    parity = record["parity"]
    assert parity["passed"]
    assert parity["boxes"] > 50
    assert parity["matched"] + parity["ties"] == parity["boxes"]


@pytest.mark.slow
@pytest.mark.rtx
def test_tensorrt_rtx_builds_the_network_where_it_is_installed(model, tmp_path, said):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    gates = said("export", "onnx", "--model", model, "--out", tmp_path / "onnx")["gates"]
    assert [gate["state"] for gate in gates if gate["name"] == "trt-rtx"] == ["passed"]


def test_infer_gives_torchs_boxes_from_the_export_and_writes_the_anchor_maps(model, exported, cloud, tmp_path, said):
    found = {}
    for name, argument in (("torch", model), ("onnx", exported)):
        raw = tmp_path / f"{name}.npz"
        boxes = said("infer", "--model", argument, "--points", cloud, "--raw", raw)["boxes"]
        found[name] = boxes, dict(np.load(raw))
    (ours, our_maps), (theirs, their_maps) = found.values()
    assert set(our_maps) == set(their_maps) == set(NAMES)
    grid = load_model(model).spec.output_grid
    assert [our_maps[name].shape for name in NAMES] == [(count, grid.ny, grid.nx) for count in (18, 42, 12)]
    for name in NAMES:
        np.testing.assert_allclose(our_maps[name], their_maps[name], atol=1e-4, rtol=1e-4)
    assert len(ours) == len(theirs) > 5
    for one, other in zip(ours, theirs, strict=True):
        assert one["class"] == other["class"]
        np.testing.assert_allclose(one["center_m"], other["center_m"], atol=1e-3)
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_bench_times_the_export_stage_by_stage(exported, said):
    timed = said("bench", exported, "--synthetic", "--iterations", 5, "--warmup", 1, "--warmup-ms", 0, "--threads", 1)
    (row,) = timed["models"]
    assert row["e2e_ms"]["p50"] > 0
    assert set(row["stages"]) >= {"pre", "network", "decode", "nms"}


def test_eval_scores_the_model_and_its_export_alike_on_kitti_frames(model, exported, shared_data, said, monkeypatch):
    kitti = shared_data / "kitti"
    if not (kitti / "training" / "velodyne").is_dir():
        pytest.skip(f"the KITTI frames are not at {kitti}; set KD3D_SHARED")
    counts = []

    def counted(predictions, *arguments, **options):
        counts.append(sum(map(len, predictions.values())))
        return score_predictions(predictions, *arguments, **options)

    monkeypatch.setattr("kd3d.evaluation.evaluate.score_predictions", counted)
    found = [said("eval", "--model", each, "--data", kitti) for each in (model, exported)]
    assert set(found[0]["per_class"]) == {"Car", "Pedestrian", "Cyclist"}
    assert found[0]["extras"]["objects"]["Car"]["moderate"] > 5
    assert counts[0] == pytest.approx(counts[1], rel=0.01)
    assert min(counts) > 50
    assert found[0]["extras"]["objects"] == found[1]["extras"]["objects"]
    assert found[0]["per_class"] == found[1]["per_class"]


def test_training_writes_a_model_that_was_scored_and_resumes(tiny_root, tmp_path, said):
    command = ("train", "--preset", WORLD, "--data", tiny_root, "--out", tmp_path / "run")
    rest = ("--batch-size", 1, "--workers", 0, "--steps", 2, "--checkpoint-every", 1)
    first = said(*command, *rest)
    assert first["steps"] == 2
    assert first["mAP"] >= 0
    terms = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["terms"]
    assert set(terms) == {"anchor.cls", "anchor.box", "anchor.dir"}
    assert said(*command, *rest, "--resume") == first
    assert said("info", tmp_path / "run")["params"] > 0


def test_a_student_with_anchors_learns_from_one_by_the_recipe_for_anchors(tiny_anchor, tiny_root, tmp_path, said):
    save_model(tmp_path / "teacher", tiny_anchor.anchor_module(preset(WORLD)), {})
    teacher = ("--teacher", tmp_path / "teacher", "--student", WORLD)
    rest = ("--data", tiny_root, "--steps", 1, "--batch-size", 1, "--workers", 0, "--teacher-cache", "auto")
    found = said("distill", *teacher, *rest, "--out", tmp_path / "run")
    terms = json.loads(next((tmp_path / "run").rglob("metrics.jsonl")).read_text().splitlines()[0])["terms"]
    assert set(terms) == {"anchor.cls", "anchor.box", "anchor.dir", "kd.anchor-logits", "kd.anchor-boxes"}
    assert found["teacher_cache"]["hit_rate"] == 1


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (
            ("distill", "--teacher", "world-teacher", "--student", WORLD),
            "kd.logits compares maps of centre heads, but wo",
        ),
        (("distill", "--teacher", "ANCHOR", "--student", WORLD), "no class in common: Car"),
        (
            ("compress", "--teacher", "ANCHOR", "--budget-flops", "50%", "--recipe", "labelfree"),
            "but tiny-pointpillars",
        ),
    ],
    ids=["centres teach anchors", "other anchors", "recipe of centre heads"],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    command, text, anchors, tiny_root, tmp_path, said
):
    out = tmp_path / "out"
    arguments = [anchors if part == "ANCHOR" else part for part in command]
    told = said(*arguments, "--data", tiny_root, "--out", out, code=2)
    assert told["kind"] == "UsageError"
    assert text in told["error"]
    assert not out.exists()
