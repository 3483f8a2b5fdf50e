import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killed_run import STEPS, validate, whole_run

from kd3d.detectors.checkpoint import weights_hash
from kd3d.errors import CheckpointError, UsageError
from kd3d.training.step import Stepper


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    whole_run(run)
    return run


def assert_same_end(run: Path, whole: Path) -> None:
    assert weights_hash(run / "model") == weights_hash(whole / "model")
    one, other = (torch.load(path / "checkpoints" / "last.pt", weights_only=True) for path in (run, whole))
    assert one["step"] == other["step"] == STEPS
    for part in ("module", "ema"):
        assert all(torch.equal(one[part][name], value) for name, value in other[part].items())
    for index, moments in other["optimiser"]["state"].items():
        assert all(torch.equal(one["optimiser"]["state"][index][name], value) for name, value in moments.items())
    assert [strip(line) for line in lines(run)] == [strip(line) for line in lines(whole)]


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def strip(line: dict) -> dict:
    return {name: value for name, value in line.items() if not name.endswith("_s")}


class StopError(Exception):
    pass


@pytest.mark.parametrize("at", [1, 5, 8, 23])
def test_a_run_that_stopped_at_any_step_ends_as_if_it_had_not(tmp_path, uninterrupted, at):
    def stop(update):
        if update.step == at:
            raise StopError

    with pytest.raises(StopError):
        whole_run(tmp_path / "run", progress=stop)
    whole_run(tmp_path / "run")
    assert_same_end(tmp_path / "run", uninterrupted)


def test_a_run_killed_by_sigkill_ends_with_the_same_weights_bit_for_bit(tmp_path, uninterrupted):
    run, script = tmp_path / "run", Path(__file__).with_name("killed_run.py")
    log = run / "metrics.jsonl"
    process = subprocess.Popen([sys.executable, str(script), str(run)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 9):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] < STEPS
    leftover = run / "checkpoints" / ".last.pt.abc.tmp"
    leftover.write_bytes(b"half a checkpoint")
    whole_run(run)
    assert_same_end(run, uninterrupted)
    assert not leftover.exists()


def test_resuming_a_finished_run_changes_nothing(tmp_path, uninterrupted):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    result = whole_run(run)
    assert_same_end(run, uninterrupted)
    assert result.metrics == lines(uninterrupted)[-1]["val"]


def test_ctrl_c_saves_the_last_step_and_the_run_goes_on_from_it(tmp_path, uninterrupted):
    def press(update):
        if update.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        whole_run(tmp_path / "run", progress=press)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert saved["step"] == 8  # not 5, the last regular one
    whole_run(tmp_path / "run")
    assert_same_end(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("at", [7, STEPS])
def test_a_validation_that_ctrl_c_cut_short_is_made_up_for(tmp_path, uninterrupted, at):
    def interrupted(module, step):
        if step == at:
            raise KeyboardInterrupt
        return validate(module, step)

    with pytest.raises(KeyboardInterrupt):
        whole_run(tmp_path / "run", validate=interrupted)
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["step"] == at
    result = whole_run(tmp_path / "run")
    assert_same_end(tmp_path / "run", uninterrupted)
    assert result.metrics == lines(uninterrupted)[-1]["val"]


@pytest.mark.usefixtures("listens_to_ctrl_c")
@pytest.mark.parametrize("at", [6, 7, STEPS])
def test_a_step_during_which_ctrl_c_is_pressed_is_logged(tmp_path, uninterrupted, monkeypatch, at):
    whole_step = Stepper.step

    def pressed(self, micro_batches):
        report = whole_step(self, micro_batches)
        if self._state.step == at:
            os.kill(os.getpid(), signal.SIGINT)
        return report

    monkeypatch.setattr(Stepper, "step", pressed)
    with pytest.raises(KeyboardInterrupt):
        whole_run(tmp_path / "run")
    monkeypatch.undo()
    assert lines(tmp_path / "run")[-1]["step"] == at
    whole_run(tmp_path / "run")
    assert_same_end(tmp_path / "run", uninterrupted)


def test_settings_that_differ_are_named(tmp_path, uninterrupted):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    with pytest.raises(
        UsageError, match=r"settings.batch_size=2 then, 4 now; settings.lr=0.003 then, 0.001 now\. Repeat"
    ):
        whole_run(run, lr=1e-3, batch_size=4)
    assert_same_end(run, uninterrupted)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "pickle", "foreign"])
def test_a_damaged_checkpoint_is_refused_with_what_to_do(tmp_path, uninterrupted, damage):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    path = run / "checkpoints" / "last.pt"
    content = path.read_bytes()
    marker = tmp_path / "code-ran"
    if damage == "pickle":
        torch.save({"format": 1, "evil": Evil(str(marker))}, path)
    elif damage == "foreign":
        torch.save({"model_state": {}}, path)
    else:
        cut = {"truncated": content[: len(content) // 2], "garbage": b"\x00" * 100, "empty": b""}
        path.write_bytes(cut[damage])
    with pytest.raises(CheckpointError, match=r"last\.pt: .*Delete it to begin the run again") as caught:
        whole_run(run)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def test_a_changed_weight_in_a_checkpoint_is_found_by_its_check_sum(tmp_path, uninterrupted):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    path = run / "checkpoints" / "last.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt: corrupt .*(check sum|CRC)"):
        whole_run(run)


def test_a_checkpoint_with_a_weight_that_is_not_finite_is_refused(tmp_path, uninterrupted):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    path = run / "checkpoints" / "last.pt"
    content = torch.load(path, weights_only=True)
    next(iter(content["module"].values()))[0] = float("nan")
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"does not fit this run \(.* is not finite\). Delete it to begin again"):
        whole_run(run)


def test_a_checkpoint_of_another_network_is_refused(tmp_path, uninterrupted):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    path = run / "checkpoints" / "last.pt"
    content = torch.load(path, weights_only=True)
    content["module"] = {f"old.{name}": value for name, value in content["module"].items()}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"does not fit this run .* Delete it to begin again"):
        whole_run(run)
