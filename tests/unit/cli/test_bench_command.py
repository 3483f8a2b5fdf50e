"""``kd3d bench`` around the measurement: options, accuracy of what was timed, the stored baseline."""

import json

import numpy as np
import pytest

from kd3d.cli.main import run
from kd3d.datasets.world import write_world

TINY = "world-centerpoint-pillar-tiny"
QUICK = ("--iterations", "4", "--warmup", "0", "--warmup-ms", "0", "--streams", "1", "--no-power")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("bench") / "world"
    write_world(root, scenes=2, seed=3, samples_per_scene=2, cameras=False, workers=1)
    return root


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    path = tmp_path_factory.mktemp("points") / "one.bin"
    rng = np.random.default_rng(0)
    np.concatenate([rng.uniform(-20, 20, (3000, 3)), np.zeros((3000, 2))], 1).astype(np.float32).tofile(path)
    return path


def call(capsys, *arguments):
    code = run(["bench", *map(str, arguments), "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out.strip().splitlines()[-1]), said


def test_the_artefact_that_was_timed_is_scored_and_its_boxes_are_written(capsys, world, points, tmp_path):
    boxes = tmp_path / "boxes.json"
    code, found, said = call(capsys, TINY, "--frames", points, *QUICK, "--data", world, "--save-boxes", boxes)
    assert code == 0, said.err
    accuracy = found["models"][0]["accuracy"]
    assert 0 <= accuracy["mAP"] <= 1
    assert accuracy["frames"] == len(json.loads(boxes.read_text())["results"])
    assert "accuracy of the same artefacts" in said.out


def test_rate_points_and_streams_become_entries_of_the_model(capsys, points, tmp_path):
    options = ("--iterations", "4", "--warmup", "0", "--warmup-ms", "0", "--rate", "50", "--points-sweep", "500,1000")
    code, found, said = call(capsys, TINY, "--frames", points, *options, "--out", tmp_path / "out")
    assert code == 0, said.err
    model = found["models"][0]
    assert model["streaming"]["in_flight"] == 2
    assert model["periodic"]["arrived"] == 4
    assert [row["points"] for row in model["points_sweep"]] == [500, 1000]
    assert {"bench.json", "frames.jsonl", "periodic.jsonl"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_a_model_slower_than_its_baseline_ends_with_4_after_its_record_was_written(capsys, points, tmp_path):
    stored = tmp_path / "stored"
    assert call(capsys, TINY, "--frames", points, *QUICK, "--out", stored)[0] == 0
    record = json.loads((stored / "bench.json").read_text())
    record["models"][0]["e2e_ms"].update(p50=1e-6, spread=[1e-6, 1e-6])
    (stored / "bench.json").write_text(json.dumps(record))
    out = tmp_path / "now"
    code, found, _ = call(capsys, TINY, "--frames", points, *QUICK, "--baseline", stored, "--out", out)
    assert code == 4
    assert found["gate"] == "baseline"
    assert "slower than the baseline" in found["error"]
    assert json.loads((out / "bench.json").read_text())["baseline"]["ok"] is False
    record["models"][0]["e2e_ms"].update(p50=1e6, spread=[1e6, 1e6])
    (stored / "bench.json").write_text(json.dumps(record))
    code, found, said = call(capsys, TINY, "--frames", points, *QUICK, "--baseline", stored)
    assert code == 0
    assert found["baseline"]["models"][0]["verdict"] == "faster"
    assert "baseline: world-centerpoint-pillar-tiny: faster" in said.out


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--percentiles", "50,p90"), "--percentiles must be numbers"),
        (("--points-sweep", "1e4"), "--points-sweep must be whole numbers"),
        (("--deadline-ms", "20"), "give --rate too"),
        (("--save-boxes", "b.json"), "give --data too"),
        (("--baseline", "nowhere.json"), "no such file"),
        ((TINY, "--data", "d", "--save-boxes", "b.json"), "boxes of one model, not of 2"),
        (("--no-include-transfers",), "cannot time its network without the copies"),
    ],
)
def test_options_that_make_no_sense_end_in_one_line(capsys, points, options, match):
    code, found, _ = call(capsys, TINY, "--frames", points, *QUICK, *options)
    assert code in (2, 5, 7)
    assert match in found["error"]


def test_boxes_of_kitti_have_no_nuscenes_results_file(capsys, points, tmp_path):
    (tmp_path / "training/velodyne").mkdir(parents=True)
    (tmp_path / "training/calib").mkdir()
    code, found, _ = call(capsys, TINY, "--frames", points, *QUICK, "--data", tmp_path, "--save-boxes", "b.json")
    assert code == 2
    assert "this data set is of the kind kitti" in found["error"]
