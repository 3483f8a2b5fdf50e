import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.errors import DataError
from kd3d.report.search_record import Limit, Point, front, read_metrics, read_search

ROW = {"name": "a", "macs": 10, "params": 5, "macs_thop": 12, "acts": 3, "prior": 0.5, "score": None}
WHOLE = {
    "teacher": {"name": "t", "params": 50, "macs": 100, "macs_thop": 120, "acts": 30, "mAP": 0.6, "latency_ms": None},
    "budget": {"flops": {"text": "25%", "limit": 25.0}, "params": None, "convention": "physical"},
    "convention": "physical",
    "chosen": "b",
    "strategy": "tpe",
    "seed": 7,
    "candidates": [
        {**ROW, "spec": "candidates/a.json", "choice": {"cell": 2.0}, "state": "untrained"},
        {**ROW, "name": "b", "score": 0.4, "steps": 100, "state": "complete", "latency_ms": 3.5},
    ],
}


@pytest.fixture
def run(tmp_path):
    def write(value, name="search.json"):
        (tmp_path / name).write_text(value if isinstance(value, str) else json.dumps(value))
        return tmp_path

    return write


def test_a_search_is_read_with_teacher_budget_and_choice(run):
    folder = run(WHOLE)
    (folder / "candidates").mkdir()
    (folder / "candidates" / "a.json").write_text("{}")
    record = read_search(folder)
    assert (record.strategy, record.seed, record.chosen, record.convention) == ("tpe", 7, "b", "physical")
    assert record.teacher == Point("t", 50, 100, 120, 30, score=0.6, state="teacher")
    assert record.limits == (Limit("macs", 25.0, "25%"),)
    first, second = record.candidates
    assert (first.state, first.spec, first.choice) == ("untrained", folder / "candidates" / "a.json", {"cell": 2.0})
    assert (second.state, second.score, second.steps, second.latency_ms) == ("trained", 0.4, 100, 3.5)
    assert second.spec is None


def test_a_thop_budget_is_a_limit_on_thop_macs(run):
    budget = {"flops": {"text": "1G", "limit": 1e9}, "latency": {"text": "9ms", "limit": 9}, "convention": "thop"}
    record = read_search(run({**WHOLE, "budget": budget, "convention": "thop"}))
    assert {limit.axis: limit.value for limit in record.limits} == {"macs_thop": 1e9, "latency_ms": 9}


def test_a_compress_run_is_read_from_its_lines_and_its_metrics(run):
    folder = run(
        "".join(json.dumps(row) + "\n" for row in ({**ROW, "pareto": True}, {**ROW, "name": "b", "score": 0.3})),
        "candidates.jsonl",
    )
    assert read_search(folder).teacher is None
    run({"teacher": WHOLE["teacher"], "student": {"name": "b"}, "budget": WHOLE["budget"]}, "metrics.json")
    record = read_search(folder)
    assert [point.state for point in record.candidates] == ["untrained", "trained"]
    assert (record.chosen, record.teacher.macs, record.limits[0].value) == ("b", 100, 25.0)


def test_a_folder_without_a_search_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"no search is here \(neither search.json nor candidates.jsonl\). Name the folder"
    ):
        read_search(tmp_path)
    assert read_metrics(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"candidates": []}, r"candidates must be a list of at least one candidate, not \[\]"),
        ({"candidates": None}, "candidates must be a list"),
        ({"candidates": [3]}, r"candidates\[0\] must be an object, not 3"),
        ({"candidates": [{**ROW, "name": ""}]}, r"candidates\[0\].name must be a name, not ''"),
        ({"candidates": [{**ROW, "name": None}]}, "must be a name, not None"),
        ({"candidates": [ROW, ROW]}, "candidates must be named once each, not 'a'"),
        ({"candidates": [{**ROW, "macs": None}]}, r"candidates\[0\].macs must be a number, not None"),
        ({"candidates": [{**ROW, "macs": "many"}]}, "macs must be a finite number of at least 0, not 'many'"),
        ({"candidates": [{**ROW, "params": -1}]}, "params must be a finite number of at least 0, not -1"),
        ({"candidates": [{**ROW, "macs": True}]}, "macs must be a finite number"),
        ({"candidates": [{**ROW, "prior": None}]}, "prior must be a number where there is no score"),
        ({"candidates": [{**ROW, "prior": float("inf")}]}, "prior must be a finite number, not inf"),
        ({"candidates": [{**ROW, "score": 41.0}]}, "score must be mAP between 0 and 1, not 41.0"),
        ({"candidates": [{**ROW, "steps": 1.5}]}, "steps must be a whole number, not 1.5"),
        ({"candidates": [{**ROW, "state": "lovely"}]}, "state must be one of complete, trained, pruned"),
        ({"candidates": [{**ROW, "choice": [1]}]}, "choice must be an object"),
        ({"candidates": [{**ROW, "spec": 1}]}, "spec must be text, not 1"),
        ({"teacher": "t"}, "teacher must be an object, not 't'"),
        ({"convention": "horse power"}, "convention must be physical or thop, not 'horse power'"),
        ({"budget": {"flops": 3}}, "budget.flops must be an object, not 3"),
        ({"budget": {"flops": {"text": "3"}}}, "budget.flops.limit must be a number, not None"),
        ({"chosen": 1}, "chosen must be text"),
        ({"seed": "x"}, "seed must be a whole number, not 'x'"),
    ],
)
def test_a_damaged_field_is_named(run, change, text):
    with pytest.raises(DataError, match=f"search.json: .*{text}.*Restore the file or search again"):
        read_search(run({**WHOLE, **change}))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("search.json", "{", "not readable as JSON"),
        ("search.json", "[]", r"the file must be an object, not \[\]"),
        ("candidates.jsonl", "{}\n{", "not readable as JSON lines"),
        ("candidates.jsonl", "", "a list of at least one candidate"),
    ],
)
def test_a_damaged_file_is_named(run, name, content, text):
    with pytest.raises(DataError, match=text):
        read_search(run(content, name))


def test_damaged_metrics_are_refused(run):
    with pytest.raises(DataError, match=r"metrics.json: the file must be an object"):
        read_metrics(run("[]", "metrics.json"))


def test_a_long_value_is_cut_in_the_error(run):
    with pytest.raises(DataError) as refused:
        read_search(run({**WHOLE, "convention": "x" * 500}))
    assert len(str(refused.value)) < 300


values = st.one_of(st.none(), st.integers(0, 9).map(float))
points = st.lists(st.tuples(values, values, st.sampled_from(["trained", "pruned", "untrained"])), max_size=12).map(
    lambda rows: tuple(
        Point(str(index), 1, x, None, None, score=y, state=state) for index, (x, y, state) in enumerate(rows)
    )
)


@settings(deadline=None, max_examples=200)
@given(points)
def test_the_front_is_what_no_other_beats(found):
    best = front(found, "macs", "score")
    rivals = [point for point in found if point.macs is not None and point.score is not None]
    if any(point.state == "trained" for point in rivals):
        rivals = [point for point in rivals if point.state == "trained"]
    for one in best:
        assert not [
            other
            for other in rivals
            if other.macs <= one.macs
            and other.score >= one.score
            and (other.macs, other.score) != (one.macs, one.score)
        ]
    for one in rivals:
        assert any(other.macs <= one.macs and other.score >= one.score for other in best)
    assert [point.macs for point in best] == sorted({point.macs for point in best})
