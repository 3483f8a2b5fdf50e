import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.bench.statistics import drift, median_interval, percentile, speedup, summary
from kd3d.errors import UsageError


@pytest.mark.parametrize(("percent", "expected"), [(50, 5), (90, 9), (95, 10), (99, 10), (100, 10), (0, 1)])
def test_percentiles_of_one_to_ten_follow_trtexecs_rule(percent, expected):
    # sorted[max(N - 1 - int((1 - p / 100) * N), 0)]; trtexec's own rule gives index 4 for the median of ten
    n = 10
    index = max(n - 1 - int((1 - percent / 100) * n), 0)
    assert percentile(range(1, 11), percent) == index + 1
    if percent in (50, 0, 95, 99, 100):
        assert percentile(range(1, 11), percent) == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=60))
def test_percentiles_are_samples_and_grow(samples):
    found = [percentile(samples, percent) for percent in (0, 50, 90, 95, 99, 100)]
    assert set(found) <= set(samples)
    assert found == sorted(found)
    assert found[-1] == max(samples)


def test_summary_has_the_values_of_a_hand_worked_example():
    found = summary([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found["n"], found["mean"], found["min"], found["max"]) == (5, 22.0, 1.0, 100.0)
    assert found["std"] == pytest.approx(np.std([1, 2, 3, 4, 100], ddof=1))
    assert found["cov"] == pytest.approx(found["std"] / 22)
    assert found["p50"] == 3.0
    assert found["p99"] == 100.0, "the tail is never clipped"
    low, high = found["p50_ci95"]
    assert low <= 3.0 <= high


def test_p99_9_appears_only_where_there_are_enough_samples():
    assert "p99.9" not in summary(np.arange(1999) + 1.0)
    assert summary(np.arange(2000) + 1.0)["p99.9"] == 1999.0


def test_one_sample_has_no_spread():
    found = summary([7.0])
    assert (found["std"], found["p50"], found["p99"]) == (0.0, 7.0, 7.0)


def test_the_interval_of_the_median_is_the_same_every_time_and_narrows_with_more_samples():
    rng = np.random.default_rng(0)
    few, many = rng.normal(10, 1, 30), rng.normal(10, 1, 3000)
    assert median_interval(few) == median_interval(few)
    assert np.diff(median_interval(many)) < np.diff(median_interval(few)) / 3


def test_drift_of_a_machine_that_slows_down_by_a_tenth_is_about_a_tenth():
    assert drift(np.linspace(1.0, 1.1, 200)) == pytest.approx(0.1 / 1.05 * 0.95, rel=0.06)
    assert drift(np.full(200, 3.0)) == pytest.approx(0, abs=1e-12)
    assert drift(np.linspace(1.1, 1.0, 200)) < -0.05


def test_drift_of_a_short_run_is_not_claimed():
    assert drift([1.0, 2.0, 3.0]) == 0.0


def test_speedup_pairs_frames():
    slow = np.array([10.0, 20.0, 30.0, 40.0])
    found = speedup(slow, slow / 4)
    assert found["ratio"] == found["paired"] == 4.0
    assert found["paired_ci95"] == [4.0, 4.0]


def test_speedup_refuses_lists_that_are_not_pairs():
    with pytest.raises(UsageError, match="equally many, not 2 and 3"):
        speedup([1, 2], [1, 2, 3])


def test_no_samples_is_an_error():
    with pytest.raises(UsageError, match="no samples"):
        summary([])


def test_a_percentile_outside_its_range_is_an_error():
    with pytest.raises(UsageError, match=r"0\.\.100, not 101"):
        percentile([1.0], 101)
