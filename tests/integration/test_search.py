"""`kd3d search --strategy`, and what is made of it, as a user does it: a tiny world, a few steps."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from kd3d.cli import main as program
from kd3d.compress.search.trial import TrialRunner

SHORT = ("--batch-size", 1, "--cells", "1")
SEARCH = ("--strategy", "random", "--rungs", "1,2", "--data-workers", 0, *SHORT)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A world of five scenes of two frames, and an untrained teacher."""
    from kd3d.detectors.build import build
    from kd3d.detectors.checkpoint import save_model
    from kd3d.detectors.presets import preset

    folder = tmp_path_factory.mktemp("search")
    world = ["data", "synth", "--out", f"{folder}/world", "--scenes", "5", "--samples", "2", "--no-cameras"]
    assert program.run([*world, "--workers", "1"]) == 0
    save_model(folder / "teacher", build(preset("world-centerpoint-pillar-tiny")).eval(), {})
    return folder


@pytest.fixture
def request_of(made):
    return ("--teacher", made / "teacher", "--data", made / "world", "--budget-flops", "50%")


def words(*arguments):
    return [str(argument) for argument in arguments]


def trials(run):
    return [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]


def test_a_search_is_interrupted_resumed_and_any_of_its_students_is_taught(request_of, kd3d, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    asked = (*request_of, *SEARCH, "--trials", 3, "--out")
    found = kd3d("search", *asked, whole)
    assert found["best"]["score"] is not None and found["best"]["steps"] == 2
    assert found["steps_spent"] == 3 * 1 + 1 * 1
    assert Counter(trial["state"] for trial in trials(whole)) == {"complete": 1, "pruned": 2}

    train, calls = TrialRunner.__call__, []

    def press(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(TrialRunner, "__call__", press)
        assert program.run(words("search", *asked, cut)) == 130
    assert sum(len(trial["scores"]) for trial in trials(cut)) == 2
    with monkeypatch.context() as patched:
        patched.setattr(TrialRunner, "__call__", lambda self, *rest: calls.append(rest) or train(self, *rest))
        resumed = kd3d("search", *asked, cut, "--resume")
    assert len(calls) == 3 + 2  # the third again, and the second rung
    assert (resumed["best"], trials(cut)) == (found["best"], trials(whole))

    other = next(row for row in found["candidates"] if row["state"] == "pruned")
    teach = ("distill", *request_of[:4], "--student", whole / other["spec"], "--steps", 1, "--batch-size", 1)
    model = kd3d(*teach, "--workers", 0, "--out", tmp_path / "student")["model"]
    assert json.loads((Path(model) / "spec.json").read_text()) == json.loads((whole / other["spec"]).read_text())


@pytest.mark.slow
def test_compress_searches_by_training_and_teaches_the_winner(request_of, kd3d, tmp_path):
    run = tmp_path / "small"
    asked = ("--strategy", "random", "--trials", 2, "--rungs", "1", "--steps", 1, "--workers", 0, *SHORT)
    made = kd3d("compress", *request_of, *asked, "--out", run)
    record = json.loads((run / "search.json").read_text())
    assert made["student"]["name"] == record["chosen"] == record["best"]["name"]
    assert json.loads((run / "student" / "spec.json").read_text())["name"] == record["chosen"]
    assert (record["strategy"], record["scored_on"]) == ("random", "held-out training frames")
    assert len(trials(run)) == 2
    assert kd3d("compress", *request_of, *asked, "--out", run, "--resume")["student"] == made["student"]


@pytest.mark.slow
def test_two_workers_one_killed_then_ctrl_c_then_resumed(request_of, tmp_path):
    run = tmp_path / "run"
    command = words(sys.executable, "-m", "kd3d.cli", "search", *request_of, *SEARCH, "--trials", 6, "--workers", 2)
    command += words("--out", run, "--json")
    with (tmp_path / "log").open("w") as log:
        search = subprocess.Popen(command, stderr=log, stdout=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for(search, lambda: len(running(run)) == 2)
    victim = running(run)[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(search, lambda: len(ended(run)) >= 3)
    search.send_signal(signal.SIGINT)
    assert search.wait(120) == 130
    before = ended(run)
    assert f"worker {victim} died (killed by SIGKILL)" in (tmp_path / "log").read_text()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True, timeout=300)
    assert {name: when for name, when in ended(run).items() if name in before} == before
    assert Counter(trial["state"] for trial in trials(run)) == {"complete": 3, "pruned": 3}
    assert json.loads(done.stdout.splitlines()[-1])["steps_spent"] == 6 * 1 + 3 * 1


def wait_for(process, condition):
    until = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "the search ended too early"
        assert time.monotonic() < until
        time.sleep(0.02)


def ended(run):
    """When each training ended, by student and rung."""
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for path in run.glob("trials/*/rung-*.json")}


def running(run):
    """Processes that have a training."""
    from kd3d.compress.search.storage import StudyStorage

    if not (run / "study.journal").exists():
        return []
    found = StudyStorage(str(run / "study.journal")).storage
    (study,) = found.get_all_studies() or [None]
    now = [] if study is None else found.get_all_trials(study._study_id)
    return [trial.user_attrs["owner"]["pid"] for trial in now if trial.state.name == "RUNNING"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--strategy", "bayes"), 2, "there is no search strategy 'bayes'. Use grid, random, nsga2, tpe."),
        (("--strategy", "tpe"), 2, "--strategy trains students and keeps them; add --out RUN."),
        (("--strategy", "tpe", "--rungs", "9,3", "--out", "run"), 2, "rungs must be rising numbers of steps"),
        (("--strategy", "tpe", "--out", "run", "--storage", "a.txt"), 2, "the storage 'a.txt' is not understood"),
        (("--storage", "a.db"), 2, "--storage keeps the trainings of a search; add --strategy."),
        (("--widths", "tail=1"), 2, "there is no axis 'tail' in --widths tail=1"),
        (("--widths", ","), 2, "--widths ',' leaves the search space empty"),
        (("--cells", "7"), 2, "the search space is empty: cells of 7 times 1.6 m do not tile the range"),
    ],
)
def test_searches_that_make_no_sense(request_of, arguments, code, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert program.run(words("search", *request_of, *arguments)) == code
    assert text in capsys.readouterr().err.strip().splitlines()[-1]
