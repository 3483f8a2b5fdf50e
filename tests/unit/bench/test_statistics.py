import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.bench.statistics import (
    drift,
    median_interval,
    percentile,
    percentile_interval,
    share_interval,
    slope,
    speedup,
    spread,
    summary,
)
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


SAMPLES = st.lists(st.floats(0.001, 1e4), min_size=1, max_size=80)


def test_the_interval_of_a_median_of_ten_is_the_textbooks_second_to_ninth():
    # P(2 <= Binomial(10, 1/2) <= 8) = 0.9785; the third to the eighth would have only 0.89
    assert percentile_interval(range(1, 11), 50) == (2.0, 9.0)


def test_a_p99_has_no_upper_bound_below_368_samples():
    assert percentile_interval(range(367), 99)[1] is None
    assert percentile_interval(range(368), 99)[1] == 367.0


@settings(max_examples=60, deadline=None)
@given(SAMPLES, st.sampled_from([0.0, 5.0, 50.0, 90.0, 99.0, 100.0]))
def test_an_interval_of_a_percentile_is_made_of_samples_and_widens_with_confidence(samples, percent):
    low, high = percentile_interval(samples, percent)
    wide_low, wide_high = percentile_interval(samples, percent, confidence=0.999)
    assert {low, high} <= {*samples, None}
    assert low is None or high is None or low <= high
    assert wide_low is None or wide_low <= low
    assert wide_high is None or wide_high >= high


@pytest.mark.parametrize("percent", [50, 90, 99])
def test_intervals_enclose_the_true_percentile_in_95_of_100_experiments(percent):
    rng = np.random.default_rng(5)
    held = 0
    for samples in rng.uniform(0, 100, (600, 400)):
        low, high = percentile_interval(samples, percent)
        held += (low is None or low <= percent) and (high is None or high >= percent)
    assert held / 600 >= 0.94


@settings(max_examples=60, deadline=None)
@given(SAMPLES)
def test_the_spread_encloses_the_interval_of_the_median_and_stays_within_the_samples(samples):
    low, high = spread(samples)
    inner = median_interval(samples)
    assert min(samples) * 0.999999 <= low <= inner[0] <= inner[1] <= high <= max(samples) * 1.000001


def test_a_disturbance_of_a_tenth_of_the_run_widens_the_spread_and_not_the_interval():
    samples = np.full(200, 10.0)
    samples[60:80] = 30.0
    assert median_interval(samples) == (10.0, 10.0)
    assert spread(samples) == (10.0, 30.0)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_holds_the_share_and_stays_within_0_and_1(counted):
    hits, count = counted
    low, high = share_interval(hits, count)
    assert 0 <= low <= hits / count + 1e-12
    assert hits / count - 1e-12 <= high <= 1
    mirrored = share_interval(count - hits, count)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))


def test_no_deadline_missed_in_200_frames_still_leaves_up_to_two_per_cent():
    assert share_interval(0, 200) == pytest.approx((0.0, 0.0188), abs=1e-4)


def test_a_share_of_nothing_is_refused():
    with pytest.raises(UsageError, match="a share needs trials: 1 of 0"):
        share_interval(1, 0)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 5), st.floats(-3, 3), st.integers(3, 30))
def test_the_slope_of_a_line_is_its_slope(rise, start, count):
    x = np.arange(count, dtype=float)
    found = slope(x, start + rise * x)
    assert found == pytest.approx((rise, 1.0))


def test_there_is_no_slope_where_nothing_varies():
    assert slope([1, 1, 1], [1, 2, 3]) is None
    assert slope([1, 2, 3], [4, 4, 4]) is None


def test_a_percentile_outside_its_range_has_no_interval():
    with pytest.raises(UsageError, match=r"0\.\.100, not -1"):
        percentile_interval([1.0], -1)
