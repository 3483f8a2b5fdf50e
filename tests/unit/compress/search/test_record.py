import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fakes import STUDENTS, TEACHER, FakeRunner, task

from kd3d.compress.search.halving import standings
from kd3d.compress.search.record import (
    LISTED,
    Trial,
    best_of,
    candidate_rows,
    front_of,
    listed,
    search_record,
    trials_of,
    write_search,
)
from kd3d.compress.search.worker import Worker
from kd3d.report.search_record import read_search
from kd3d.spec import DetectorSpec, from_json

FOUND = sorted(STUDENTS.found, key=lambda candidate: candidate.cost.macs)
RUNGS = (10, 20, 40)
ABOUT = STUDENTS.about(TEACHER.name)


def tried(place, *scores, state="complete", number=0):
    """A trial of the student with the ``place``-th fewest MACs."""
    return Trial(number, FOUND[place], tuple(zip(RUNGS, scores, strict=False)), state)


def names(trials):
    return [trial.candidate.spec.name for trial in trials]


def test_the_best_is_the_most_accurate_of_those_trained_longest_and_of_equals_the_cheapest():
    early, late, equal = tried(0, 0.9, state="pruned"), tried(2, 0.1, 0.5, 0.6), tried(1, 0.1, 0.5, 0.6)
    assert best_of([early, late]) is late
    assert best_of([early, late, equal]) is equal
    assert best_of([tried(0, state="failed")]) is None
    assert best_of([]) is None


def test_the_front_is_of_accuracy_and_macs_cheapest_first():
    cheap, beaten, good = tried(0, 0.3), tried(1, 0.2), tried(2, 0.5)
    assert front_of([good, beaten, cheap]) == [cheap, good]
    assert front_of([tried(0, state="failed")]) == []


def test_trials_are_compared_at_the_last_rung_that_both_reached():
    stopped, went_on = tried(2, 0.5, state="pruned"), tried(1, 0.6, 0.4)
    assert front_of([stopped, went_on]) == [went_on]  # 0.6 against 0.5 after as many steps, though it fell later
    cheaper = tried(0, 0.7, state="pruned")
    assert front_of([cheaper, went_on]) == [cheaper, went_on]  # the one that stopped never beats the one that went on


def test_latency_is_an_objective_where_it_is_predicted():
    one, other = tried(0, 0.5), tried(1, 0.5)
    assert front_of([one, other]) == [one]
    slow, fast = (replace(t, candidate=replace(t.candidate, latency_ms=ms)) for t, ms in ((one, 9.0), (other, 5.0)))
    assert front_of([slow, fast]) == [slow, fast]


SCORES = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=0, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(FOUND) - 1), SCORES), max_size=12, unique_by=lambda made: made[0]))
def test_every_front_holds_the_best_and_whoever_is_beaten_by_nobody(made):
    trials = [tried(place, *scores, number=number) for number, (place, scores) in enumerate(made)]
    front = front_of(trials)
    scored = [trial for trial in trials if trial.scores]
    assert bool(front) == bool(scored)
    assert best_of(trials) in front or not scored
    assert front == sorted(front, key=lambda trial: trial.candidate.cost.macs)
    assert front_of(front) == front
    for trial in scored:
        assert (trial in front) != any(front_of([trial, one]) == [one] for one in scored if one is not trial)


def test_before_anything_is_trained_the_front_is_that_of_the_prior():
    rows = candidate_rows(STUDENTS.found)
    assert {row["state"] for row in rows} == {"untrained"}
    on = sorted((row["macs"], row["prior"]) for row in rows if row["pareto"])
    assert [prior for _, prior in on] == sorted({prior for _, prior in on})
    assert next(row for row in rows if row["prior"] == max(r["prior"] for r in rows))["pareto"]


def test_rows_have_the_keys_that_others_rely_on():
    failed = replace(tried(3, state="failed"), reason="nan")
    rows = {row["name"]: row for row in candidate_rows(FOUND, [tried(1, 0.25, 0.5, state="pruned"), failed])}
    row = rows[FOUND[1].spec.name]
    assert row == {
        "name": FOUND[1].spec.name,
        "spec": f"candidates/{FOUND[1].spec.name}.json",
        "choice": row["choice"],
        "params": FOUND[1].cost.params,
        "macs": FOUND[1].cost.macs,
        "macs_thop": FOUND[1].cost.macs_thop,
        "acts": FOUND[1].cost.acts,
        "latency_ms": None,
        "prior": round(FOUND[1].prior, 6),
        "score": 0.5,
        "steps": 20,
        "state": "pruned",
        "pareto": True,
    }
    assert set(row["choice"]) == {"encoder", "backbone", "neck", "head", "layers", "cell", "blocks"}
    assert [rows[FOUND[3].spec.name][key] for key in ("score", "steps", "state")] == [None, None, "failed"]
    assert [rows[FOUND[0].spec.name][key] for key in ("score", "steps", "state")] == [None, None, "untrained"]
    timed = candidate_rows([replace(FOUND[0], latency_ms=3.25)])
    assert timed[0]["latency_ms"] == 3.25


def test_tried_students_are_listed_first_best_first_then_the_others_by_prior():
    trials = [tried(0, 0.9, number=0, state="pruned"), tried(1, 0.1, 0.2, number=1), tried(2, 0.1, 0.3, number=2)]
    order = listed(STUDENTS.found, trials)
    assert order[:3] == [FOUND[2], FOUND[1], FOUND[0]]
    assert order[3:] == [one for one in STUDENTS.found if one not in order[:3]][:LISTED]
    assert len({one.spec.name for one in order}) == len(order)
    many = [replace(FOUND[0], spec=replace(FOUND[0].spec, name=f"s{number}")) for number in range(LISTED + 9)]
    assert len(listed(many)) == LISTED
    assert len(listed(many, [Trial(0, many[-1], ((10, 0.1),), "complete")])) == LISTED + 1


def test_the_record_of_an_untrained_search():
    record = search_record(STUDENTS.found, [], about={**ABOUT, "chosen": None})
    assert record["count"] == len(STUDENTS.found)
    assert record["best"]["name"] == STUDENTS.found[0].spec.name
    assert (record["strategy"], record["seed"], record["chosen"], record["steps_spent"]) == (None, None, None, 0)
    assert record["convention"] == record["budget"]["convention"] == "physical"
    assert set(record["teacher"]) == {"name", "params", "macs", "macs_thop", "acts", "mAP", "latency_ms"}
    assert record["teacher"]["macs"] >= record["budget"]["flops"]["limit"] / 0.7 * 0.999
    assert record["pareto"] == [row for row in record["candidates"] if row["pareto"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a search with one student that diverges, and its trials."""
    folder = tmp_path_factory.mktemp("run")
    work = task(folder, "random", runner=FakeRunner(folder, diverges=(FOUND[0].spec.name,)), trials=len(FOUND))
    board = work.board()
    Worker(work, board, lambda job, update: None).work()
    trials = trials_of(standings(board.jobs()), STUDENTS.found, work.settings, ended=True)
    chosen = best_of(trials).candidate.spec.name
    write_search(folder, STUDENTS.found, trials, about={**ABOUT, "chosen": chosen, "strategy": "random", "seed": 0})
    return folder, trials


def test_the_files_of_a_run_are_those_of_its_trials_and_every_point_can_be_taught(run):
    folder, trials = run
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == names(trials)
    assert [line["number"] for line in lines] == list(range(len(trials)))
    (failed,) = [line for line in lines if line["state"] == "failed"]
    assert (failed["reason"], failed["scores"]) == (f"the loss of {FOUND[0].spec.name} is nan", [])
    assert all("reason" not in line for line in lines if line["state"] != "failed")
    done = next(line for line in lines if line["state"] == "complete")
    assert [score["steps"] for score in done["scores"]] == list(RUNGS)
    record = json.loads((folder / "search.json").read_text())
    for row in record["candidates"]:
        spec = from_json(DetectorSpec, json.loads((folder / row["spec"]).read_text()), where=row["spec"])
        assert spec.name == row["name"]
    assert record["best"]["name"] == record["chosen"] == names([best_of(trials)])[0]
    assert {row["name"] for row in record["pareto"]} == set(names(front_of(trials))) != set()


def test_the_page_of_a_search_reads_what_was_written(run):
    folder, trials = run
    read = read_search(folder)
    assert (read.strategy, read.seed, read.count) == ("random", 0, len(STUDENTS.found))
    assert read.teacher.macs == STUDENTS.teacher.macs
    states = {point.name: point.state for point in read.candidates}
    said = {"complete": "trained", "pruned": "pruned", "failed": "failed"}
    assert {trial.candidate.spec.name: said[trial.state] for trial in trials}.items() <= states.items()
    assert all(point.spec is not None for point in read.candidates)
    assert [(limit.axis, limit.text) for limit in read.limits] == [("macs", "70%")]


def test_writing_again_changes_nothing(run):
    folder, trials = run
    before = {path.name: path.read_text() for path in folder.glob("*.json*")}
    about = {key: json.loads(before["search.json"])[key] for key in (*ABOUT, "chosen", "strategy", "seed")}
    write_search(folder, STUDENTS.found, trials, about=about)
    assert {path.name: path.read_text() for path in folder.glob("*.json*")} == before
