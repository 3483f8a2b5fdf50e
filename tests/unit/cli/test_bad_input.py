"""Every kind of bad input through the real command line: one line, the right exit code, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kd3d.cli.main import run

TINY = "world-centerpoint-pillar-tiny"


@pytest.fixture(scope="session")
def root(tiny_root):
    """A whole database of two scenes; not to be changed."""
    return tiny_root


@pytest.fixture
def broken(broken_root):
    """A copy to damage."""
    return broken_root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder; not to be changed."""
    from kd3d.detectors.build import build
    from kd3d.detectors.checkpoint import save_model
    from kd3d.detectors.presets import preset

    folder = tmp_path_factory.mktemp("model") / "teacher"
    save_model(folder, build(preset(TINY)), {})
    return folder


@pytest.fixture
def refused(capsys):
    """Run a command line that must fail with a code and a line of text; no traceback, and one JSON line."""

    def check(code, text, *arguments):
        capsys.readouterr()
        assert run([*map(str, arguments), "--json"]) == code
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + printed.out
        errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert printed.err.splitlines()[-1:] == errors
        assert re.search(text, errors[0]), errors[0]
        last = json.loads(printed.out.splitlines()[-1])
        assert (last["exit_code"], f"error: {last['error']}") == (code, errors[0])

    return check


def train_on(data, out, *more):
    return (
        "train",
        "--preset",
        TINY,
        "--data",
        data,
        "--out",
        out,
        "--steps",
        1,
        "--batch-size",
        1,
        "--workers",
        0,
        *more,
    )


def cloud(path):
    return np.fromfile(path, np.float32).reshape(-1, 5)


def key_frame(root):
    return sorted((root / "samples" / "LIDAR_TOP").glob("scene-0061*.bin"))[0]


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


# points


def damage_points(path, how):
    points = cloud(path)
    if how == "truncated":
        path.write_bytes(points.tobytes()[:-40] + b"xyz")
        return r"\d+ bytes are not a whole number of points of 20 bytes .* truncated or has other columns"
    points[7, 2] = {"nan": np.nan, "infinite": -np.inf}[how]
    points.tofile(path)
    return r"1 of \d+ points have NaN or infinite values, the first in row 7. Remove these points"


@pytest.mark.parametrize("how", ["truncated", "nan", "infinite"])
def test_damaged_points_are_refused_by_name(broken, model, refused, tmp_path, how):
    path = key_frame(broken)
    text = re.escape(str(path)) + ": " + damage_points(path, how)
    raw = tmp_path / "raw.npz"
    raw.write_bytes(b"earlier result")
    refused(7, text, "infer", "--model", model, "--points", path, "--raw", raw)
    assert raw.read_bytes() == b"earlier result"
    refused(7, text, *train_on(broken, tmp_path / "run", "--eval-split", "train"))
    assert not (tmp_path / "run" / "model").exists()
    refused(7, text, "eval", "--model", model, "--data", broken, "--split", "train", "--out", tmp_path / "scores")
    assert not (tmp_path / "scores" / "metrics.json").exists()
    refused(7, text, "data", "frames", "--data", broken, "--split", "train", "--out", tmp_path / "frames")
    assert not (tmp_path / "frames").exists()


def test_a_point_file_that_is_absent_or_of_another_kind_is_refused(model, refused, tmp_path):
    refused(7, r"none\.bin: no such file", "infer", "--model", model, "--points", tmp_path / "none.bin")
    (tmp_path / "cloud.pcd").write_text("x")
    refused(2, r"\.pcd: points are read from \.bin", "infer", "--model", model, "--points", tmp_path / "cloud.pcd")
    (tmp_path / "cloud.npz").write_bytes(b"PK\x03\x04 half a file")
    refused(
        7, r"cloud\.npz: not readable as a numpy file", "infer", "--model", model, "--points", tmp_path / "cloud.npz"
    )


def test_an_empty_cloud_is_refused(model, refused, tmp_path):
    (tmp_path / "empty.bin").write_bytes(b"")
    refused(7, r"empty\.bin: has no points. Record", "infer", "--model", model, "--points", tmp_path / "empty.bin")


def test_a_cloud_that_is_all_out_of_range_is_refused_with_the_range(model, refused, tmp_path):
    np.full((9, 5), 40_000, np.float32).tofile(tmp_path / "millimetres.bin")
    text = r"none of its 9 points is in the detector's range, \(-51.2, -51.2, .*Give metres in the LiDAR frame"
    refused(7, text, "infer", "--model", model, "--points", tmp_path / "millimetres.bin")


def test_training_and_scoring_go_on_over_a_frame_without_a_usable_point(broken, tmp_path, capsys):
    first, second, *_ = sorted((broken / "samples" / "LIDAR_TOP").glob("scene-0061*.bin"))
    first.write_bytes(b"")
    np.full((9, 5), 40_000, np.float32).tofile(second)
    assert run([str(word) for word in train_on(broken, tmp_path / "run", "--steps", 3, "--eval-split", "train")]) == 0
    capsys.readouterr()
    assert (tmp_path / "run" / "model" / "weights.safetensors").is_file()


# data sets


@pytest.mark.parametrize("table", ["sample", "ego_pose", "sample_annotation"])
def test_a_missing_table_is_named(broken, refused, tmp_path, table):
    path = broken / "v1.0-mini" / f"{table}.json"
    path.unlink()
    refused(7, rf"{re.escape(str(path))}: the table is missing. Restore it", *train_on(broken, tmp_path / "run"))
    path.write_text("[{")
    refused(7, rf"{re.escape(str(path))}: the table is not valid JSON", *train_on(broken, tmp_path / "other"))


def test_a_missing_image_is_named(broken, capsys):
    image = sorted((broken / "samples" / "CAM_FRONT").iterdir())[0]
    image.unlink()
    assert run(["data", "check", "--data", str(broken), "--json"]) == 7
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["problems"] == [f"{image}: the file is missing. Restore it."]
    assert "Traceback" not in printed.err


def test_an_unknown_category_of_nuscenes_is_named(broken, refused, tmp_path):
    table = broken / "v1.0-mini" / "category.json"
    table.write_text(table.read_text().replace('"name": "vehicle.car"', '"name": "vehicle.ufo"'))
    refused(
        7, "unknown category 'vehicle.ufo'. Use the category names of nuScenes", *train_on(broken, tmp_path / "run")
    )


def test_an_unknown_class_of_kitti_is_named_with_its_line(refused, tmp_path):
    for folder in ("velodyne", "calib", "label_2"):
        (tmp_path / "kitti" / "training" / folder).mkdir(parents=True)
    training = tmp_path / "kitti" / "training"
    for index in range(5):
        np.ones((20, 4), np.float32).tofile(training / "velodyne" / f"{index:06d}.bin")
        (training / "calib" / f"{index:06d}.txt").write_text(
            "P2: 700 0 600 0 0 700 180 0 0 0 1 0\n"
            "R0_rect: 1 0 0 0 1 0 0 0 1\n"
            "Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
        )
        label = "Car" if index else "Spaceship"
        (training / "label_2" / f"{index:06d}.txt").write_text(f"{label} 0 0 0 1 1 9 9 1.5 1.6 4 0 1.6 20 0\n")
    arguments = ["--preset", "kitti-centerpoint-pillar-small", "--data", tmp_path / "kitti", "--out", tmp_path / "run"]
    text = r"label_2/000000\.txt line 1: unknown class 'Spaceship'. Use one of Car, .* or remove the line"
    refused(7, text, "train", *arguments, "--steps", 4, "--batch-size", 1, "--workers", 0)


@pytest.mark.parametrize("what", ["absent", "a folder of holidays"])
def test_a_folder_without_data_is_refused(refused, tmp_path, what):
    if what != "absent":
        (tmp_path / "data" / "holidays").mkdir(parents=True)
    refused(7, r"/data: (no such folder|neither nuScenes)", *train_on(tmp_path / "data", tmp_path / "run"))


# checkpoints


class Bomb:
    """A pickle that runs code when it is opened."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_checkpoint_of_another_architecture_lists_the_tensors(model, root, refused, tmp_path):
    from kd3d.detectors.presets import preset
    from kd3d.spec import to_json

    other = Path(shutil.copytree(model, tmp_path / "other"))
    (other / "spec.json").write_text(json.dumps(to_json(preset("world-centerpoint-pillar-small"))))
    text = r"weights\.safetensors: \d+ tensor\(s\) do not fit world-centerpoint-pillar-small: .*encoder.* Use the spec"
    refused(7, text, "infer", "--model", other, "--points", key_frame(root))
    refused(7, text, "distill", "--teacher", other, "--student", TINY, "--data", root, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["weights.safetensors", "model.pth"])
def test_a_pickle_that_would_run_code_is_not_opened(model, root, refused, tmp_path, place):
    folder = Path(shutil.copytree(model, tmp_path / "trap"))
    (folder / place).write_bytes(pickle.dumps(Bomb(tmp_path / "hacked")))
    argument = folder if place == "weights.safetensors" else folder / place
    said = {
        "weights.safetensors": "is a pickle, which could run code, so it is not opened. Give a kd3d model",
        "model.pth": f"the pickle names {os.mkdir.__module__}.mkdir, which could run code, so it is not opened",
    }
    text = rf"{re.escape(str(folder / place))}: {re.escape(said[place])}"
    refused(7, text, "infer", "--model", argument, "--points", key_frame(root))
    refused(7, text, "export", "onnx", "--model", argument, "--out", tmp_path / "export")
    assert not (tmp_path / "hacked").exists()
    assert not (tmp_path / "export").exists()


def test_a_training_checkpoint_that_would_run_code_is_not_opened(root, refused, tmp_path, capsys):
    arguments = train_on(root, tmp_path / "run")
    assert run([str(word) for word in arguments]) == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    checkpoint.write_bytes(pickle.dumps(Bomb(tmp_path / "hacked")))
    before = contents(tmp_path / "run" / "model")
    refused(7, r"last\.pt: .*corrupt or (unsafe|not readable).*Delete it to begin", *arguments, "--resume")
    assert not (tmp_path / "hacked").exists()
    assert contents(tmp_path / "run" / "model") == before


def test_a_truncated_checkpoint_is_refused(model, root, refused, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "cut"))
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(7, r"weights\.safetensors: damaged .*Restore the file", "eval", "--model", folder, "--data", root)
    (folder / "spec.json").write_text("{")
    refused(7, r"spec\.json: not readable as JSON", "eval", "--model", folder, "--data", root)


# budgets


def test_a_budget_that_no_student_meets_says_what_the_smallest_costs(model, root, refused, tmp_path, capsys):
    teacher = ("--teacher", model, "--data", root)
    text = r"no student meets the budget of 1K of MACs .* the cheapest has .* Raise the budget"
    refused(3, text, "search", *teacher, "--budget-flops", "1K")
    compress = ("compress", *teacher, "--out", tmp_path / "run", "--steps", 1, "--batch-size", 1, "--workers", 0)
    refused(3, text, *compress, "--budget-flops", "1K")
    refused(2, "no budget is given", *compress)
    assert run([str(word) for word in (*compress, "--budget-flops", "25%")]) == 0  # the failed start is not in the way
    assert (tmp_path / "run" / "student" / "weights.safetensors").is_file()


# output


def writing_commands(root, model, out, frames):
    """Every command that writes, with the place it is told to write to."""
    steps = ("--steps", 1, "--batch-size", 1, "--workers", 0)
    teacher = ("--teacher", model, "--data", root, "--out", out)
    return {
        "train": train_on(root, out),
        "distill": ("distill", *teacher, "--student", TINY, *steps),
        "compress": ("compress", *teacher, "--budget-flops", "25%", *steps),
        "search": ("search", *teacher, "--budget-flops", "25%"),
        "eval": ("eval", "--model", model, "--data", root, "--out", out),
        "export": ("export", "onnx", "--model", model, "--out", out),
        "synth": ("data", "synth", "--out", out, "--scenes", 2, "--samples", 2, "--no-cameras", "--workers", 1),
        "frames": ("data", "frames", "--data", root, "--out", out),
        "raw": ("infer", "--model", model, "--points", key_frame(root), "--raw", out),
        "bench": ("bench", model, "--frames", frames, "--iterations", 1, "--warmup", 0, "--out", out),
    }


COMMANDS = ["train", "distill", "compress", "search", "eval", "export", "synth", "frames", "raw", "bench"]


@pytest.fixture(scope="module")
def frames(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("frames") / "frames"
    assert run(["data", "frames", "--data", str(root), "--out", str(out), "-n", "1"]) == 0
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_is_named(root, model, frames, refused, tmp_path, command):
    """Below a regular file: that is refused to the superuser too."""
    (tmp_path / "file").write_text("precious")
    arguments = writing_commands(root, model, tmp_path / "file" / "out", frames)[command]
    refused(9, r"/file/out.*: cannot be written \(.*\). Choose another folder", *arguments)
    assert contents(tmp_path) == {tmp_path / "file": b"precious"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_named_and_leaves_nothing_half_written(
    root, model, frames, refused, tmp_path, monkeypatch, command
):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    arguments = writing_commands(root, model, tmp_path / "out", frames)[command]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(Path, "write_bytes", full)
        refused(9, r"/out(/[\w./-]+)?: the disk is full. Free some space or choose another folder", *arguments)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("command", ["train", "distill", "compress", "export", "synth", "frames"])
def test_a_folder_that_holds_something_else_is_left_alone(root, model, frames, refused, tmp_path, command):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    arguments = writing_commands(root, model, tmp_path / "out", frames)[command]
    refused(9, r"/out: (the folder is not empty|holds something else than).* Choose another", *arguments)
    assert contents(tmp_path) == {tmp_path / "out" / "thesis.txt": b"precious"}


def test_a_disk_that_fills_up_during_training_keeps_the_last_checkpoint(root, refused, tmp_path, monkeypatch, capsys):
    from kd3d.training import session

    save, saved = session.save_state, []

    def filling(path, state, identity):
        if saved:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(path, state, identity)
        saved.append(path.read_bytes())

    arguments = train_on(root, tmp_path / "run", "--steps", 3, "--checkpoint-every", 1)
    with monkeypatch.context() as patch:
        patch.setattr(session, "save_state", filling)
        refused(9, r"last\.pt: the disk is full", *arguments)
    assert (tmp_path / "run" / "checkpoints" / "last.pt").read_bytes() == saved[0]
    assert run([str(word) for word in (*arguments, "--resume")]) == 0
    assert (tmp_path / "run" / "model").is_dir()


# --debug and Ctrl-C


def test_debug_adds_the_traceback_and_keeps_the_line_and_the_code(model, tmp_path, capsys):
    arguments = ["infer", "--model", str(model), "--points", str(tmp_path / "none.bin")]
    assert run([*arguments, "--debug"]) == 7
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == f"error: {tmp_path / 'none.bin'}: no such file."


def interrupted(arguments, ready, folder):
    """Start the program, press Ctrl-C when ``ready()``, and return its code and what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "kd3d.cli", *map(str, arguments)],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A suite that runs in the background has inherited an ignored SIGINT, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, *said


def test_ctrl_c_during_training_leaves_a_checkpoint_from_which_it_resumes(root, tmp_path, capsys):
    arguments = train_on(root, tmp_path / "run", "--steps", 5000, "--checkpoint-every", 1, "--workers", 1)
    import torch

    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    code, out, said = interrupted(arguments, checkpoint.is_file, tmp_path)
    assert code == 130, said
    assert said.splitlines()[-1].startswith("error: interrupted.")
    assert "Traceback" not in said + out
    assert not list(tmp_path.rglob("*.tmp"))
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < step < 5000
    written = checkpoint.stat().st_mtime_ns
    again = (*arguments, "--resume")
    code, _, said = interrupted(again, lambda: checkpoint.stat().st_mtime_ns > written, tmp_path)
    assert code == 130, said
    assert torch.load(checkpoint, weights_only=True)["step"] > step


def test_ctrl_c_while_a_world_is_written_leaves_nothing(tmp_path):
    arguments = ("data", "synth", "--out", tmp_path / "world", "--scenes", 10, "--no-cameras", "--workers", 2)
    code, out, said = interrupted(arguments, lambda: any(tmp_path.rglob("*.bin")), tmp_path)
    assert code == 130, said
    assert said.splitlines()[-1].startswith("error: interrupted.")
    assert "Traceback" not in said + out
    assert list(tmp_path.iterdir()) == []
