"""`--workers N`: real worker processes, whose trainings are made up."""

import json
import os
import signal
from collections import Counter

import pytest
from search_fakes import STUDENTS, FakeRunner, task, trained

from kd3d.compress.search import processes
from kd3d.compress.search.halving import next_todo, standings
from kd3d.compress.search.processes import run_workers
from kd3d.compress.search.record import trials_of
from kd3d.errors import BackendError, DataError

FIRST = STUDENTS.found[0].spec.name


@pytest.fixture(autouse=True)
def attentive(monkeypatch):
    monkeypatch.setattr(processes, "POLL_S", 0.1)


def watcher(work, then=lambda: None):
    """Whether the search is done, as the command that began the workers looks at it."""
    board = work.board()

    def watch():
        then()
        return next_todo(standings(board.jobs()), work.settings.trials, work.settings, work.ranking).kind == "done"

    return board, watch


def test_two_workers_share_the_search_and_the_work_of_a_killed_one_is_taken_up(tmp_path):
    work = task(tmp_path, "grid", runner=FakeRunner(tmp_path, slow_s=0.05, hangs=FIRST), trials=12, workers=2)
    hanging, notes, killed = tmp_path / "hanging", [], []

    def kill_the_hanging_one():
        others = {json.loads(line)[2] for line in lines() if json.loads(line)[2] != pid()}
        if pid() and others and not killed:
            killed.append(pid())
            os.kill(pid(), signal.SIGKILL)

    def lines():
        path = tmp_path / "trained.jsonl"
        return path.read_text().splitlines() if path.exists() else []

    def pid():
        text = hanging.read_text() if hanging.exists() else ""
        return int(text) if text else None

    board, watch = watcher(work, kill_the_hanging_one)
    run_workers(work, 2, watch=watch, note=notes.append)
    assert notes == [f"worker {killed[0]} died (killed by SIGKILL); the others take up its trial"]
    assert len({json.loads(line)[2] for line in lines()}) == 2
    counts = Counter(trained(tmp_path))
    assert {job: count for job, count in counts.items() if count > 1} == {(FIRST, 10): 2}  # begun twice, ended once
    trials = trials_of(standings(board.jobs()), STUDENTS.found, work.settings, ended=True)
    assert [sum(len(trial.scores) > rung for trial in trials) for rung in range(3)] == [12, 6, 3]
    assert len(counts) == 12 + 6 + 3
    assert Counter(job.state for job in board.jobs() if job.state != "withdrawn") == {"complete": 21, "lost": 1}


def test_an_error_in_a_worker_is_the_error_of_the_search(tmp_path):
    work = task(tmp_path, "grid", runner=FakeRunner(tmp_path, breaks=FIRST), workers=1)
    board, watch = watcher(work)
    with pytest.raises(DataError, match=rf"frame 7 of {FIRST} is damaged. Restore it."):
        run_workers(work, 1, watch=watch, note=lambda line: None)
    assert [(job.state, job.reason) for job in board.jobs()] == [("lost", "stopped by DataError")]


def test_a_search_whose_workers_all_died_says_what_to_do(tmp_path):
    work = task(tmp_path, "grid", runner=FakeRunner(tmp_path, kills=FIRST), workers=1)
    notes = []
    _, watch = watcher(work)
    text = r"all workers of the search died before it was done. They may have run out of memory: use fewer --workers"
    with pytest.raises(BackendError, match=text):
        run_workers(work, 1, watch=watch, note=notes.append)
    assert len(notes) == 1 and "killed by SIGKILL" in notes[0]


def test_ctrl_c_ends_the_workers_in_order_and_their_work_is_free(tmp_path):
    work = task(tmp_path, "grid", runner=FakeRunner(tmp_path, hangs=FIRST), workers=1)

    def press():
        if (tmp_path / "hanging").exists() and (tmp_path / "hanging").read_text():
            raise KeyboardInterrupt

    board, watch = watcher(work, press)
    with pytest.raises(KeyboardInterrupt):
        run_workers(work, 1, watch=watch, note=lambda line: None)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "hanging").read_text()), 0)
    assert [(job.state, job.reason) for job in board.jobs()] == [("lost", "interrupted")]
