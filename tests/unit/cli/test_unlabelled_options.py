"""Frames without labels on the command line: what cannot be is refused in one line, and nothing is written."""

import json

import numpy as np
import pytest

from kd3d.cli.main import run

TINY = "world-centerpoint-pillar-tiny"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    from kd3d.detectors.build import build
    from kd3d.detectors.checkpoint import save_model
    from kd3d.detectors.presets import preset

    folder = tmp_path_factory.mktemp("teacher") / "model"
    save_model(folder, build(preset(TINY)), {})
    return folder


def command(teacher, data, out, *more):
    given = ("--teacher", teacher, "--student", TINY, "--data", data, "--out", out, "--steps", 1, "--workers", 0)
    return [str(word) for word in ("distill", *given, *more, "--json")]


def write_kitti(root):
    (root / "training" / "velodyne").mkdir(parents=True)
    np.ones((4, 4), np.float32).tofile(root / "training" / "velodyne" / "000000.bin")
    return root


@pytest.mark.parametrize(
    ("code", "text", "options"),
    [
        (7, "all 3 frames of the split train are training or validation frames already", ["--unlabelled", "ROOT"]),
        (
            7,
            "all 3 frames of the split val are training or validation",
            ["--unlabelled", "ROOT", "--unlabelled-split", "val"],
        ),
        (7, "kitti frames, while the labelled ones are nuscenes: other sensors", ["--unlabelled", "KITTI"]),
        (7, "neither nuScenes (a v1.0-* folder) nor KITTI", ["--unlabelled", "EMPTY"]),
        (
            2,
            "--unlabelled-split says which frames of --unlabelled: give that folder too",
            ["--unlabelled-split", "val"],
        ),
        (2, "--pseudo-labels are labels of the frames of --unlabelled", ["--pseudo-labels", "0.3"]),
        (2, "threshold (pseudo) must be in 0..1, not 3", ["--unlabelled", "ROOT", "--pseudo-labels", "3"]),
        (2, "labelled share must be above 0% and at most 100%, not 0%", ["--labelled", "0%"]),
    ],
)
def test_frames_that_cannot_be_learnt_from_are_refused(code, text, options, teacher, tiny_root, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    places = {"ROOT": tiny_root, "KITTI": write_kitti(tmp_path / "kitti"), "EMPTY": tmp_path / "empty"}
    more = ["--recipe", "ssad", *(str(places.get(word, word)) for word in options)]
    assert run(command(teacher, tiny_root, tmp_path / "run", *more)) == code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err + printed.out
    found = json.loads(printed.out.splitlines()[-1])
    assert (found["exit_code"], text in found["error"]) == (code, True), found["error"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("asked", [["--pseudo-labels", "0.2"], ["--recipe", "auto"], []])
def test_the_teachers_boxes_stand_in_for_missing_labels(teacher, tiny_root, tmp_path, asked):
    more = str(tmp_path / "more")
    assert run(["data", "synth", "--out", more, "--scenes", "2", "--samples", "2", "--seed", "8", "--no-cameras"]) == 0
    given = ["--unlabelled", more, *asked, "--batch-size", "2", "--inherit", "l1", "--no-augment"]
    assert run(command(teacher, tiny_root, tmp_path / "run", *given)) == 0
    terms = json.loads((tmp_path / "run" / "distil" / "metrics.jsonl").read_text().splitlines()[-1])["terms"]
    assert "kd.logits" in terms
    assert not [name for name in terms if name.endswith(".unlabelled")]
