import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from search_fakes import STUDENTS, FakeRunner, accuracy, task, trained
from sqlalchemy.exc import IntegrityError

from kd3d.compress.search import worker as worker_module
from kd3d.compress.search.halving import standings
from kd3d.compress.search.owner import Owner
from kd3d.compress.search.record import best_of, trials_of
from kd3d.compress.search.settings import STRATEGIES
from kd3d.compress.search.storage import StudyStorage
from kd3d.compress.search.worker import Worker
from kd3d.errors import BackendError, DataError, OutputError, UsageError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(worker_module, "POLL_S", 0.05)
    monkeypatch.setattr(StudyStorage.__init__, "__kwdefaults__", {"patience_s": 0.5})


def search(work):
    board = work.board()
    Worker(work, board, lambda job, update: None).work()
    return trials_of(standings(board.jobs()), STUDENTS.found, work.settings, ended=True)


def history(trials):
    return [(trial.candidate.spec.name, trial.scores, trial.state) for trial in trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted search of a strategy finds, and what it trains."""

    @cache
    def of(strategy):
        run = tmp_path_factory.mktemp(strategy)
        return history(search(task(run, strategy))), Counter(trained(run))

    return of


@pytest.mark.parametrize(
    ("strategy", "kind"), [*((strategy, "study.journal") for strategy in STRATEGIES), ("tpe", "study.db")]
)
def test_every_student_is_tried_once_and_the_best_go_on(tmp_path, strategy, kind):
    work = task(tmp_path, strategy, storage=str(tmp_path / kind))
    trials = search(work)
    assert len(trials) == 8 == len({trial.candidate.spec.name for trial in trials})
    assert [sum(len(trial.scores) > rung for trial in trials) for rung in range(3)] == [8, 4, 2]
    assert max(Counter(trained(tmp_path)).values()) == 1
    assert len(trained(tmp_path)) == 14
    assert {trial.state for trial in trials} == {"complete", "pruned"}
    assert best_of(trials).steps == 40
    if strategy != "nsga2":  # whose survivors are fronts, cheap students among them
        at_first = sorted((trial.scores[0][1] for trial in trials), reverse=True)
        assert sorted((t.scores[0][1] for t in trials if len(t.scores) > 1), reverse=True) == at_first[:4]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_search_and_another_seed_another(tmp_path, whole, strategy):
    assert history(search(task(tmp_path / "a", strategy))) == whole(strategy)[0]
    if strategy != "grid":
        assert history(search(task(tmp_path / "b", strategy, seed=4))) != whole(strategy)[0]


@pytest.mark.parametrize("strategy", ["tpe", "nsga2"])
def test_a_sampler_that_learns_finds_better_students_than_drawing_evenly(tmp_path, strategy):
    trials = search(task(tmp_path, strategy, trials=24, rungs=(10,)))
    drawn_evenly = sum(map(accuracy, STUDENTS.found)) / len(STUDENTS.found)
    assert len({trial.candidate.spec.name for trial in trials}) == 24
    if strategy == "tpe":
        assert sum(accuracy(trial.candidate) for trial in trials[12:]) / 12 > drawn_evenly
    assert best_of(trials).score >= sorted(map(accuracy, STUDENTS.found))[-6]


def test_more_trials_than_students_try_each_once(tmp_path):
    trials = search(task(tmp_path, "random", trials=10_000, rungs=(10,)))
    assert len(trials) == len(STUDENTS.found)


CUTS = [("grid", 0), ("grid", 13), ("random", 9), ("tpe", 3), ("tpe", 9), ("nsga2", 3), ("nsga2", 13)]


@pytest.mark.parametrize(("strategy", "at"), CUTS)
def test_an_interrupted_search_goes_on_without_losing_or_repeating_anything(tmp_path, whole, strategy, at):
    class Stopping(FakeRunner):
        def __call__(self, candidate, steps, progress=None):
            if len(trained(self.run)) == at and not (self.run / "stopped").exists():
                (self.run / "stopped").touch()
                raise KeyboardInterrupt
            return super().__call__(candidate, steps, progress)

    with pytest.raises(KeyboardInterrupt):
        search(task(tmp_path / "cut", strategy, runner=Stopping(tmp_path / "cut")))
    resumed = search(task(tmp_path / "cut", strategy))
    assert (history(resumed), Counter(trained(tmp_path / "cut"))) == whole(strategy)


def test_a_student_whose_training_diverges_is_failed_and_says_why(tmp_path):
    broken = STUDENTS.found[0].spec.name
    trials = search(task(tmp_path, "grid", runner=FakeRunner(tmp_path, diverges=(broken,))))
    (failed,) = [trial for trial in trials if trial.state == "failed"]
    assert (failed.candidate.spec.name, failed.scores) == (broken, ())
    assert failed.reason == f"the loss of {broken} is nan"
    assert sum(trial.state == "complete" for trial in trials) == 2


KILLED = """
import sys; sys.path.insert(0, {here!r})
from pathlib import Path
from search_fakes import FakeRunner, task
from kd3d.compress.search.worker import Worker
run = Path({run!r})
work = task(run, "grid", storage={storage!r}, runner=FakeRunner(run, slow_s={slow}))
Worker(work, work.board(), lambda job, update: None).work()
"""


def start(run, storage, slow=0.0):
    code = KILLED.format(here=str(HERE), run=str(run), storage=storage, slow=slow)
    return subprocess.Popen([sys.executable, "-c", code])


@pytest.mark.parametrize("kind", ["study.journal", pytest.param("study.db", marks=pytest.mark.slow)])
def test_a_killed_workers_trial_is_picked_up_by_another_process(tmp_path, kind):
    storage = str(tmp_path / kind)
    killed = start(tmp_path, storage, slow=60)
    while not trained(tmp_path):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    trials = search(task(tmp_path, "grid", storage=storage))
    assert [sum(len(trial.scores) > rung for trial in trials) for rung in range(3)] == [8, 4, 2]
    counts = Counter(trained(tmp_path))
    assert sorted(counts.values()) == [1] * 13 + [2]  # only what was killed was begun again
    assert counts[STUDENTS.found[0].spec.name, 10] == 2


def test_two_processes_share_a_study_and_train_nothing_twice(tmp_path, whole):
    storage = str(tmp_path / "study.db")
    others = [start(tmp_path, storage, slow=0.1) for _ in range(2)]
    assert [other.wait(300) for other in others] == [0, 0]
    assert max(Counter(trained(tmp_path)).values()) == 1
    assert len(trained(tmp_path)) == 14
    pids = {json.loads(line)[2] for line in (tmp_path / "trained.jsonl").read_text().splitlines()}
    assert len(pids) == 2
    shared = task(tmp_path, "grid", storage=storage).board()
    together = trials_of(standings(shared.jobs()), STUDENTS.found, task(tmp_path, "grid").settings, ended=True)
    assert {name: rest for name, *rest in history(together)} == {name: rest for name, *rest in whole("grid")[0]}


def test_of_two_who_claim_the_same_work_the_first_gets_it(tmp_path):
    work = task(tmp_path)
    one, other = work.board(), work.board()
    with Owner() as first, Owner() as second:
        assert one.claim(first, "x", 0, params={}, attrs={}) is not None
        assert other.claim(second, "x", 0, params={}, attrs={}) is None
        assert other.claim(second, "x", 1, params={}, attrs={}) is not None
        assert [job.state for job in one.jobs()] == ["running", "withdrawn", "running"]
    assert [job.state for job in one.jobs()] == ["lost", "withdrawn", "lost"]  # both workers have ended


def test_a_claim_that_was_noted_twice_because_an_answer_was_lost_is_one_claim(tmp_path, monkeypatch):
    work = task(tmp_path)
    board = work.board()
    add, lost = board.study.add_trial, []

    def losing_the_answer(trial):
        add(trial)
        if not lost:
            lost.append(trial)
            raise OSError("connection reset")

    monkeypatch.setattr(board.study, "add_trial", losing_the_answer)
    with Owner() as owner:
        job = board.claim(owner, "x", 0, params={}, attrs={})
        assert [one.state for one in board.jobs()] == ["running", "withdrawn"]
        assert board.finish(job, [0.5], {})
    (student,) = standings(board.jobs())
    assert (student.running, student.values) == (False, {0: (0.5,)})


def test_processes_that_make_one_database_at_once_do_not_fail_however_busy_the_machine(tmp_path, monkeypatch):
    storage = StudyStorage(str(tmp_path / "study.db"), patience_s=0)
    answers = iter([sqlite3.IntegrityError("UNIQUE constraint failed: alembic_version.version_num")] * 2)

    def make():
        for error in answers:
            raise IntegrityError("INSERT", {}, error)
        return "made"

    assert storage.steady(make) == "made"


def test_a_silent_worker_on_another_machine_is_lost_after_a_while_and_a_beating_one_is_not(tmp_path, monkeypatch):
    now = [0.0]
    work = task(tmp_path, stale_s=100.0)
    board = work.board()
    board._clock = lambda: now[0]
    with Owner() as owner:
        elsewhere = {"machine": "elsewhere", "pid": 1, "started": ""}
        monkeypatch.setattr(Owner, "to_json", lambda self: {"id": self.id, **elsewhere})
        silent = board.claim(owner, "silent", 0, params={}, attrs={})
        beating = board.claim(owner, "beating", 0, params={}, attrs={})
        for moment in (90.0, 180.0):
            now[0] = moment
            board.beat(beating)
            states = {job.name: job.state for job in board.jobs()}
        assert states == {"silent": "lost", "beating": "running"}
        assert not board.finish(silent, [0.5], {})  # came back too late: the work is another's now
        assert board.finish(beating, [0.5], {})
        assert board.finish(beating, [0.5], {})  # an answer that was lost on the way may be asked for again


def test_a_student_that_kills_its_workers_is_given_up(tmp_path):
    work = task(tmp_path)
    board = work.board()
    name = STUDENTS.found[0].spec.name
    for _ in range(3):
        with Owner() as owner:
            board.claim(owner, name, 0, params={}, attrs={})
    trials = search(work)
    assert trials[0].state == "failed"
    assert trials[0].reason == "its worker died 3 times"
    assert name not in {student for student, _ in trained(tmp_path)}


# bad input


def test_a_study_of_another_request_is_refused_and_says_what_differs(tmp_path):
    search(task(tmp_path, "grid"))
    text = (
        r"the study 'kd3d' in .*study.journal holds a run that was begun differently: search.seed=0 then, 1 now. "
        "Repeat that request to go on with it, or choose another --study"
    )
    with pytest.raises(UsageError, match=text):
        task(tmp_path, "grid", seed=1).board()
    assert len(task(tmp_path, "grid", seed=1, study_name="mine").board().jobs()) == 0


@pytest.mark.parametrize("kind", ["study.journal", "study.db"])
@pytest.mark.parametrize("content", [b"garbage\n" * 400, b"\x00\xff" * 999, b'{"op_code": 99}\n[]\n'])
def test_a_file_that_is_no_study_is_named_and_left_as_it_is(tmp_path, kind, content):
    path = tmp_path / kind
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{kind}: (holds no study|not a journal of a study), or a damaged one \(.+\)"):
        task(tmp_path, storage=str(path)).board()
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["study.journal", "study.db"])
def test_somebody_elses_optuna_study_is_refused(tmp_path, kind):
    import optuna

    storage = StudyStorage(str(tmp_path / kind))
    study = optuna.create_study(storage=storage.storage, study_name="kd3d", direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(DataError, match=r"is not one of kd3d's. Choose another --study or --storage"):
        task(tmp_path, storage=str(tmp_path / kind)).board()
    study.set_user_attr("request", json.loads(json.dumps(task(tmp_path).request)))
    with pytest.raises(DataError, match=r"trial 0 of the study has no 'name': it is not one of kd3d's"):
        task(tmp_path, storage=str(tmp_path / kind)).board().jobs()


@pytest.mark.parametrize("kind", ["study.journal", "study.db"])
def test_a_storage_that_goes_away_keeps_what_was_finished(tmp_path, kind):
    storage = tmp_path / kind

    class Deleting(FakeRunner):
        def __call__(self, candidate, steps, progress=None):
            found = super().__call__(candidate, steps, progress)
            if len(trained(self.run)) == 5:
                storage.rename(storage.with_name("away"))
            return found

    text = rf"the storage .*{kind} does not answer \(.*was deleted or replaced\). Finished trials are kept; .*--resume"
    with pytest.raises(BackendError, match=text):
        search(task(tmp_path, storage=str(storage), runner=Deleting(tmp_path)))
    storage.with_name("away").rename(storage)
    trials = search(task(tmp_path, storage=str(storage)))
    assert sum(len(trial.scores) for trial in trials) == 14
    assert sorted(Counter(trained(tmp_path)).values()) == [1] * 13 + [2]


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path):
    pytest.importorskip("psycopg")
    url = "postgresql://me:secret@127.0.0.1:1/kd3d"
    text = r"the storage postgresql://me@127.0.0.1:1/kd3d does not answer \(.+\)"
    with pytest.raises(BackendError, match=text) as info:
        task(tmp_path, storage=url).board()
    assert "secret" not in str(info.value)


@pytest.mark.parametrize("text", ["mysql://host/x", "study.txt", "redis://x", "", "sqlite://"])
def test_an_unknown_kind_of_storage_is_refused(text):
    with pytest.raises(UsageError, match=r"the storage .* is not understood. Give a journal file"):
        StudyStorage(text)


def test_places_that_cannot_hold_a_study(tmp_path):
    (tmp_path / "x.db").mkdir()
    with pytest.raises(UsageError, match=r"x.db is a folder. Give a journal file"):
        StudyStorage(str(tmp_path / "x.db"))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/y.db: cannot be written"):
        StudyStorage(str(tmp_path / "file" / "y.db"))


def test_sqlite_may_be_written_as_a_url_and_a_busy_one_is_waited_for(tmp_path):
    work = task(tmp_path, storage=f"sqlite:///{tmp_path}/study.db")
    board = work.board()
    lock = sqlite3.connect(tmp_path / "study.db", check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    threading.Timer(0.5, lock.rollback).start()
    with Owner() as owner:
        assert board.claim(owner, "x", 0, params={}, attrs={}) is not None


@pytest.mark.parametrize("change", [{"pid": float("nan")}, {"pid": "7"}, {"started": None}, {"machine": 3}])
def test_a_trial_whose_worker_is_not_described_is_refused(tmp_path, monkeypatch, change):
    board = task(tmp_path).board()
    with Owner() as owner:
        whole = Owner.to_json
        monkeypatch.setattr(Owner, "to_json", lambda self: {**whole(self), **change})
        with pytest.raises(DataError, match=r"trial 0 of the study has no usable \w+ of its owner"):
            board.claim(owner, "x", 0, params={}, attrs={})
