"""The commands of the main path on a small Waymo data set."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from kd3d.cli.main import app
from kd3d.compress.data import CompressData
from kd3d.compress.search.holdout import hold_out
from kd3d.datasets.open import open_dataset
from kd3d.detectors.presets import preset
from kd3d.runs.atomic import read_json, write_json
from kd3d.spec.codec import to_json


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """A file with a tiny network that takes Waymo's point features and has its classes."""
    tiny, waymo = preset("world-centerpoint-pillar-tiny"), preset("waymo-centerpoint-pillar")
    head = replace(tiny.head, tasks=waymo.head.tasks, velocity=False)
    path = tmp_path_factory.mktemp("spec") / "spec.json"
    write_json(path, to_json(replace(tiny, name="waymo-tiny", points=waymo.points, head=head)))
    return path


def run(*words):
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1]), result.stdout


def test_a_detector_is_trained_and_scored_on_waymo_frames(waymo_world, spec, tmp_path):
    root, _ = waymo_world
    assert run("data", "check", "--data", root)[0] == {"format": "waymo", "frames": 8, "problems": []}
    frames, _ = run("data", "frames", "--data", root, "--out", tmp_path / "frames", "-n", 2)
    assert frames["frames"] == 2
    trained, _ = run(
        "train", "--preset", spec, "--data", root, "--out", tmp_path / "run", "--steps", 2, "--batch-size", 2,
        "--workers", 0, "--paste", 3,
    )  # fmt: skip
    assert 0 <= trained["mAP"] <= 1
    found, shown = run("eval", "--model", tmp_path / "run", "--data", root, "--out", tmp_path / "scores")
    assert "LEVEL_2 APH" in shown
    assert found["NDS"] is None
    assert found["extras"]["objects"]["Pedestrian"] == {"LEVEL_1": 0, "LEVEL_2": 2}
    assert found["mAP"] == found["extras"]["levels"]["LEVEL_2"]["mAP"]
    assert read_json(tmp_path / "scores/metrics.json")["extras"]["mAPH"] == found["extras"]["mAPH"]


def test_results_files_are_for_nuscenes(waymo_world, tmp_path):
    root, _ = waymo_world
    result = CliRunner().invoke(app, ["eval", "--results", str(tmp_path / "r.json"), "--data", str(root)])
    assert "for KITTI and Waymo give --model" in str(result.exception)


def test_a_search_holds_whole_segments_out(waymo_world):
    train = open_dataset(waymo_world[0], split="train")
    divided = hold_out(CompressData(train=train), 0.5)
    assert [token.rsplit("_", 1)[0] for token in divided.data.val.tokens] == ["training-1"] * 2
    assert len(divided.data.val[1].boxes) == 3
