import errno
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fakes import task, trained

from kd3d.compress.search.halving import standings
from kd3d.compress.search.journal import cut_torn_line
from kd3d.compress.search.storage import StudyStorage
from kd3d.compress.search.worker import Worker
from kd3d.errors import DataError, OutputError


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(StudyStorage.__init__, "__kwdefaults__", {"patience_s": 0.5})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("finished")
    work = task(run, trials=4, rungs=(10, 20))
    Worker(work, work.board(), lambda job, update: None).work()
    return (run / "study.journal").read_bytes(), run


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_a_study_cut_at_any_byte_goes_on_and_repeats_only_what_was_cut(finished, tmp_path_factory, data):
    content, whole = finished
    run = tmp_path_factory.mktemp("cut")
    header = content.index(b"\n") + 1
    kept = data.draw(st.integers(header, len(content)))
    (run / "study.journal").write_bytes(content[:kept])
    work = task(run, trials=4, rungs=(10, 20), request=task(whole, trials=4, rungs=(10, 20)).request)
    before = sum(job.state == "complete" for job in _jobs_of(content[:kept], tmp_path_factory))
    Worker(work, work.board(), lambda job, update: None).work()
    jobs = [job for job in work.board().jobs() if job.state == "complete"]
    assert len(jobs) == 6
    assert len(trained(run)) == 6 - before
    assert {job.name for job in jobs} == {student.name for student in standings(jobs)}
    for line in (run / "study.journal").read_bytes().splitlines():
        json.loads(line)


def _jobs_of(content, tmp_path_factory):
    """What a study that ends at the last whole line knows."""
    run = tmp_path_factory.mktemp("known")
    (run / "study.journal").write_bytes(content[: content.rfind(b"\n") + 1])
    return task(run, trials=4, rungs=(10, 20)).board().jobs()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"\n", b" ")), max_size=5), st.binary(max_size=9))
def test_only_what_stands_behind_the_last_line_end_is_cut(tmp_path_factory, lines, tail):
    tail = tail.replace(b"\n", b" ")
    path = tmp_path_factory.mktemp("torn") / "study.journal"
    whole = b"".join(line + b"\n" for line in lines)
    path.write_bytes(whole + tail)
    assert cut_torn_line(path) == len(tail)
    assert path.read_bytes() == whole


def test_a_long_torn_line_is_cut_too(tmp_path):
    path = tmp_path / "study.journal"
    path.write_bytes(b"{}\n" + b"x" * 200_000)
    assert cut_torn_line(path) == 200_000
    assert cut_torn_line(tmp_path / "absent.journal") == 0


def test_a_full_disk_is_named_and_the_study_goes_on_when_there_is_room(tmp_path, monkeypatch):
    work = task(tmp_path, trials=4, rungs=(10, 20))
    sync, synced = os.fsync, []

    def full(file):
        synced.append(file)
        if len(synced) > 9:
            os.ftruncate(file, os.fstat(file).st_size - 20)  # the last entry got only as far as there was room
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"study.journal: the disk is full. Finished trials are kept; make room"):
        Worker(work, work.board(), lambda job, update: None).work()
    monkeypatch.setattr(os, "fsync", sync)
    assert not list(tmp_path.glob("*.lock")), "the next process would wait until it takes the lock's owner for dead"
    done = len(trained(tmp_path))
    Worker(work, work.board(), lambda job, update: None).work()
    complete = [job for job in work.board().jobs() if job.state == "complete"]
    assert len(complete) == 6
    assert len(trained(tmp_path)) <= 7 and done >= 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"params":{', b'"params":{"x":' + b"[" * 5000),
        (b'"params":{"backbone":', b'"params":{"backbone":Infinity,"x":'),
    ],
    ids=["lists in lists", "an infinite choice"],
)
def test_a_journal_with_values_that_optuna_stumbles_over_is_refused(finished, tmp_path, old, new):
    content, whole = finished
    content = content.replace(b": ", b":")
    assert old in content
    (tmp_path / "study.journal").write_bytes(content.replace(old, new, 1))
    work = task(tmp_path, trials=4, rungs=(10, 20), request=task(whole, trials=4, rungs=(10, 20)).request)
    with pytest.raises(DataError, match=r"study.journal: not a journal of a study, or a damaged one"):
        work.board().jobs()


def test_a_finished_trial_without_its_score_is_refused(finished, tmp_path):
    content, whole = finished
    old, new = b'"state":0,"value":null', b'"state":1,"value":null'
    assert old in content
    (tmp_path / "study.journal").write_bytes(content.replace(old, new, 1))
    work = task(tmp_path, trials=4, rungs=(10, 20), request=task(whole, trials=4, rungs=(10, 20)).request)
    with pytest.raises(DataError, match=r"trial 0 of the study has no .*Choose another --study"):
        work.board().jobs()


def test_a_database_with_other_things_in_its_columns_is_refused(tmp_path):
    import sqlite3

    work = task(tmp_path, trials=4, rungs=(10, 20), storage=str(tmp_path / "a.db"))
    Worker(work, work.board(), lambda job, update: None).work()
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("update trial_params set distribution_json = '{'")
    with pytest.raises(DataError, match=r"a.db: not a database of a study, or a damaged one"):
        work.board().jobs()


def test_a_score_that_is_not_finite_is_refused(finished, tmp_path):
    content, whole = finished
    line = next(line for line in content.splitlines() if b'"values":[' in line)
    changed = line[: line.index(b'"values":[')] + b'"values":[Infinity]' + line[line.index(b"]") + 1 :]
    (tmp_path / "study.journal").write_bytes(content.replace(line, changed, 1))
    work = task(tmp_path, trials=4, rungs=(10, 20), request=task(whole, trials=4, rungs=(10, 20)).request)
    with pytest.raises(DataError, match=r"has no finite score, but \(inf,\)"):
        work.board().jobs()
