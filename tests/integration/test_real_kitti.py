"""Real KITTI frames through the command line. Skipped with a reason where the data is absent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PRESET = "kitti-centerpoint-pillar-small"
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "kitti_overfit.py"
SHORT = ("--batch-size", 2, "--workers", 0, "--no-augment", "--norm-momentum", 0.1)


@pytest.fixture(scope="module")
def kitti(shared_data):
    folder = shared_data / "kitti"
    if not (folder / "training" / "velodyne").is_dir():
        pytest.skip(f"the KITTI frames are not at {folder}; set KD3D_SHARED")
    return folder


def test_two_steps_then_eval_export_infer_and_bench_on_real_frames(kitti, kd3d, tmp_path):
    run, export, frames = tmp_path / "run", tmp_path / "export", tmp_path / "frames"
    trained = kd3d("train", "--preset", PRESET, "--data", kitti, "--out", run, "--steps", 2, *SHORT)
    assert Path(trained["model"]).is_dir()
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["loss"] < 1e4 for line in losses if "loss" in line)

    scored = kd3d("eval", "--model", run, "--data", kitti)
    assert set(scored["per_class"]) == {"Car", "Pedestrian", "Cyclist"}
    assert set(scored["extras"]["ap_r40"]) == {"image", "bev", "3d"}
    assert scored["extras"]["objects"]["Car"]["moderate"] > 5

    assert kd3d("data", "frames", "--data", kitti, "--out", frames, "-n", 7)["frames"] == 7
    exported = kd3d("export", "onnx", "--model", run, "--out", export, "--frames", frames, "--parity-frames", 2)
    parity = exported["parity"]
    assert parity["passed"]
    assert parity["matched"] + parity["ties"] == parity["boxes"]

    found = kd3d("infer", "--model", export, "--points", kitti / "training" / "velodyne" / _first(kitti))
    assert found["points"] > 100_000

    timed = kd3d("bench", export, "--frames", frames, "--iterations", 7, "--warmup", 1, "--threads", 1)
    assert timed["frames"]["count"] == 7
    assert timed["models"][0]["e2e_ms"]["p50"] > 0


@pytest.mark.slow
def test_compress_meets_its_budget_on_real_frames(kitti, kd3d, tmp_path):
    run = tmp_path / "teacher"
    kd3d("train", "--preset", PRESET, "--data", kitti, "--out", run, "--steps", 10, *SHORT)
    found = kd3d(
        "compress", "--teacher", run, "--data", kitti, "--out", tmp_path / "run", "--budget-flops", "25%",
        "--steps", 10, *SHORT,
    )  # fmt: skip
    assert found["student"]["macs"] <= 0.25 * found["teacher"]["macs"]


@pytest.mark.slow
def test_a_teacher_learns_the_twenty_frames_by_heart(kitti, tmp_path):
    results = tmp_path / "results.json"
    subprocess.run(
        [sys.executable, BENCHMARK, "--out", tmp_path / "run", "--results", results],
        env={**os.environ, "KD3D_SHARED": str(kitti.parents[1])},
        check=True,
    )
    record = json.loads(results.read_text())
    teacher, student = record["models"]["teacher"], record["models"]["student"]
    assert teacher["scores"]["train"]["ap_r40"]["bev"]["Car"]["moderate"] > 0.80
    assert student["macs"] <= 0.25 * teacher["macs"]
    for model in (teacher, student):
        parity = model["parity_on_27_real_frames"]
        assert (parity["frames"], parity["failures"]) == (27, [])
        assert parity["matched"] + parity["ties"] == parity["boxes"] > 100


def _first(kitti):
    return sorted(path.name for path in (kitti / "training" / "velodyne").glob("*.bin"))[0]
