import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.cli import searching
from kd3d.compress.search.settings import STRATEGIES, SearchSettings, parse_rungs
from kd3d.errors import UsageError

RUNGS = st.sets(st.integers(1, 10_000), min_size=1, max_size=6).map(lambda found: tuple(sorted(found)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_accepted(strategy):
    assert SearchSettings(strategy).strategy == strategy


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"strategy": "bayes"}, r"there is no search strategy 'bayes'. Use grid, random, nsga2, tpe."),
        ({"trials": 0}, "trials must be at least 1, not 0."),
        ({"workers": -2}, "workers must be at least 1, not -2."),
        ({"rungs": ()}, r"rungs must be rising numbers of steps, such as 100,200,400; not nothing."),
        ({"rungs": (0, 5)}, "rungs must be rising .*; not 0,5."),
        ({"rungs": (5, 5)}, "rungs must be rising .*; not 5,5."),
        ({"rungs": (10, 5)}, "rungs must be rising .*; not 10,5."),
        ({"eta": 1.0}, r"eta must be above 1 \(one in eta goes on to the next rung\), not 1."),
        ({"eta": math.inf}, "eta must be above 1 .*, not inf."),
        ({"eta": math.nan}, "eta must be above 1 .*, not nan."),
        ({"stale_s": 0.0}, "stale_s must be positive, not 0."),
        ({"stale_s": math.nan}, "stale_s must be positive, not nan."),
    ],
)
def test_settings_that_make_no_sense_say_which_value_and_what_to_do(values, text):
    with pytest.raises(UsageError, match=text):
        SearchSettings(**values)


def test_rungs_as_they_are_written():
    assert parse_rungs("100") == (100,)
    assert parse_rungs(" 1, 20 ,300") == (1, 20, 300)


@pytest.mark.parametrize("text", ["", "100,", "1.5", "100;200", "many"])
def test_rungs_that_are_not_understood(text):
    with pytest.raises(UsageError, match=r"the rungs '.*' are not understood. Write steps with commas: 100,200,400."):
        parse_rungs(text)


def test_only_what_decides_the_result_must_be_repeated():
    one = SearchSettings("random", trials=5, seed=3, rungs=(1, 2), eta=3.0)
    other = SearchSettings(
        "random", trials=5, seed=3, rungs=(1, 2), eta=3.0, storage="x.db", study_name="y", workers=7, stale_s=9.0
    )
    assert one.identity() == other.identity()
    assert one.identity() == {"strategy": "random", "trials": 5, "seed": 3, "rungs": [1, 2], "eta": 3.0}
    for changed in ({"seed": 4}, {"trials": 6}, {"eta": 2.0}, {"rungs": (1, 3)}):
        asked = {"trials": 5, "seed": 3, "rungs": (1, 2), "eta": 3.0, **changed}
        assert SearchSettings("random", **asked).identity() != one.identity()


def test_the_costs_that_the_documentation_names():
    search = SearchSettings("tpe", trials=24, rungs=(100, 200, 400))
    assert search.survivors(24) == [24, 12, 6]
    assert search.planned_steps(24) == 4800


@settings(max_examples=60, deadline=None)
@given(RUNGS, st.floats(1.01, 50), st.integers(1, 300))
def test_fewer_go_on_at_every_rung_and_always_one(rungs, eta, students):
    search = SearchSettings("grid", trials=students, rungs=rungs, eta=eta)
    counts = search.survivors(students)
    assert len(counts) == len(rungs)
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], min(counts) >= 1) == (students, True)
    assert sum(map(search.steps_to, range(len(rungs)))) == rungs[-1]
    assert rungs[0] * students <= search.planned_steps(students) <= rungs[-1] * students


def test_a_storage_without_a_strategy_is_refused_because_nothing_would_be_kept_there():
    with pytest.raises(UsageError, match=r"--storage keeps the trainings of a search; add --strategy."):
        searching.settings(None, rungs="1", storage="x.db")
    assert searching.settings(None, rungs="nonsense", storage=None) is None
    assert searching.settings("grid", rungs="1,2", trials=3).rungs == (1, 2)
