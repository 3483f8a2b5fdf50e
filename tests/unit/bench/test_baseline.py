import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.bench.baseline import check_comparable, judge, read_baseline, verdict_line
from kd3d.bench.statistics import summary
from kd3d.errors import DataError, UsageError

MACHINE = {"cpu": "C", "gpus": []}


def record(**samples):
    models = [
        {"name": name, "device": "cpu", "runtime": "onnxruntime", "threads": 1, "e2e_ms": summary(values)}
        for name, values in samples.items()
    ]
    about = {"schema": "kd3d.bench/1", "env": {"date": "2026-11-21", "machine": MACHINE}, "frames": {"digest": "d"}}
    return {**about, "models": models}


def about(**changes):
    return {"device": "cpu", "runtime": "onnxruntime", "threads": 1, **changes}


def test_a_run_outside_the_spread_is_slower_and_one_that_overlaps_is_not():
    steady = [10.0 + (index % 5) / 10 for index in range(200)]
    baseline = record(a=steady)
    assert judge(baseline, record(a=[value + 0.2 for value in steady]))["models"][0]["verdict"] == "same"
    slower = judge(baseline, record(a=[value + 1 for value in steady]))
    assert slower["ok"] is False
    assert slower["models"][0]["change"] == pytest.approx(0.098, abs=0.001)
    assert judge(baseline, record(a=[value - 1 for value in steady]))["models"][0]["verdict"] == "faster"
    assert "slower, median 11.20 ms against 10.20 ms (+9.8%)" in verdict_line(slower["models"][0])


def test_a_baseline_that_was_disturbed_forgives_more():
    disturbed = [10.0] * 180 + [14.0] * 20
    assert judge(record(a=disturbed), record(a=[13.0] * 200))["ok"]
    assert not judge(record(a=[10.0] * 200), record(a=[13.0] * 200))["ok"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1, 100), min_size=1, max_size=60), st.floats(1.0, 50))
def test_a_run_is_never_slower_than_itself_and_what_is_slower_one_way_is_faster_the_other(samples, factor):
    now, then = record(a=[value * factor for value in samples]), record(a=samples)
    assert judge(then, then)["models"][0]["verdict"] == "same"
    words = judge(then, now)["models"][0]["verdict"], judge(now, then)["models"][0]["verdict"]
    assert words in {("slower", "faster"), ("same", "same")}


def test_one_model_is_compared_with_one_whatever_they_are_called_and_several_by_name():
    assert judge(record(old=[10.0]), record(new=[10.0]))["models"][0]["name"] == "new"
    both = judge(record(a=[10.0], b=[5.0]), record(b=[5.0], a=[10.0]))
    assert {row["name"]: row["baseline_p50_ms"] for row in both["models"]} == {"a": 10.0, "b": 5.0}


@pytest.mark.parametrize(
    ("models", "machine", "digest", "match"),
    [
        ({"a": about()}, {"cpu": "D", "gpus": []}, "d", "cpu: C then, D now"),
        ({"a": about()}, MACHINE, "e", "the frames"),
        ({"a": about(threads=2)}, MACHINE, "d", "a threads: 1 then, 2 now"),
        ({"a": about(), "z": about()}, MACHINE, "d", r"no model z \(it has a\)"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(models, machine, digest, match):
    with pytest.raises(UsageError, match=match):
        check_comparable(record(a=[1.0]), models, machine=machine, digest=digest)


def test_the_same_machine_frames_and_runtime_can_be_compared():
    check_comparable(record(a=[1.0]), {"a": about()}, machine=MACHINE, digest="d")


def test_a_baseline_is_read_from_its_file_or_its_folder(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps(record(a=[1.0])))
    assert read_baseline(tmp_path) == read_baseline(tmp_path / "bench.json")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"schema": "other/1"}', "not a benchmark of schema kd3d.bench/1"),
        (
            '{"schema": "kd3d.bench/1", "models": [{"name": "a", "e2e_ms": {"p50": 1}}]}',
            "lacks its name or e2e_ms.spread",
        ),
        ('{"schema": "kd3d.bench/1", "models": [3]}', "lacks its name or e2e_ms.spread"),
        ("{", "not readable as JSON"),
        ('{"schema": "kd3d.bench/1", "models": [], "env": 3}', "env, machine or frames are no objects"),
        ('{"schema": "kd3d.bench/1", "models": [], "env": {"machine": 1}}', "env, machine or frames are no objects"),
        ('{"schema": "kd3d.bench/1", "models": [], "frames": "x"}', "env, machine or frames are no objects"),
        ("[" * 5000, "not readable as JSON"),
    ],
)
def test_a_damaged_baseline_is_refused(tmp_path, content, match):
    (tmp_path / "bench.json").write_text(content)
    with pytest.raises(DataError, match=match):
        read_baseline(tmp_path)
