import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.bench.energy import Reading, Sampler, energy_j, peak_memory_mb, power_of

S = 1_000_000_000
WATTS = st.lists(st.floats(0, 500), min_size=3, max_size=30)


def series(watts, every_ns=S // 10):
    return [(index * every_ns, Reading(value)) for index, value in enumerate(watts)]


def test_a_constant_power_is_power_times_time():
    joules, method = energy_j(series([20.0] * 11), S // 4, 3 * S // 4)
    assert joules == pytest.approx(10.0)
    assert method == "power readings"


def test_a_ramp_is_its_mean():
    joules, _ = energy_j(series(list(range(11))), 0, S)
    assert joules == pytest.approx(5.0)


def test_an_energy_counter_is_preferred_and_interpolated():
    samples = [(index * S, Reading(watts=999.0, joules=100.0 + 30 * index)) for index in range(4)]
    assert energy_j(samples, S // 2, 5 * S // 2) == (pytest.approx(60.0), "energy counter")


@settings(max_examples=60, deadline=None)
@given(WATTS, st.floats(0.05, 0.95))
def test_energy_of_two_parts_is_that_of_the_whole_and_lies_between_least_and_most_power(watts, cut):
    samples = series(watts)
    end = samples[-1][0]
    middle = int(end * cut)
    whole, _ = energy_j(samples, 0, end)
    first, _ = energy_j(samples, 0, middle)
    second, _ = energy_j(samples, middle, end)
    assert first + second == pytest.approx(whole, rel=1e-6, abs=1e-6)
    seconds = end / S
    assert min(watts) * seconds - 1e-6 <= whole <= max(watts) * seconds + 1e-6


def test_a_span_that_the_readings_do_not_cover_has_no_energy():
    samples = series([5.0] * 5)
    assert energy_j(samples, 0, S) is None
    assert energy_j(samples, S // 10, S // 10) is None
    assert energy_j([], 0, 1) is None
    assert energy_j([(0, Reading()), (S, Reading())], 0, S) is None, "neither watts nor joules"


def test_power_of_a_span_is_per_frame_and_per_rail():
    readings = [
        (
            index * S // 10,
            Reading(
                10.0,
                rails={"GPU": 7.0, "CPU": 3.0},
                gpu_mhz=900.0 + index,
                memory_mb=50.0 * index,
                celsius=40.0 + index,
            ),
        )
        for index in range(21)
    ]
    found = power_of(readings, 0, 2 * S, frames=40)
    assert found["mean_w"] == pytest.approx(10.0)
    assert found["j_per_frame"] == pytest.approx(0.5)
    assert found["fps_per_w"] == pytest.approx(2.0)
    assert found["rails_w"] == {"CPU": 3.0, "GPU": 7.0}
    assert (found["gpu_mhz_min"], found["celsius_max"]) == (900.0, 60.0)
    assert peak_memory_mb(readings) == 1000.0


def test_too_few_readings_make_no_mean():
    assert power_of(series([5.0] * 4), 0, 3 * S // 10, frames=3) is None
    assert peak_memory_mb(series([1.0])) is None


class Source:
    name, scope = "test", "all"

    def __init__(self, wanted):
        self.left, self.enough, self.closed = wanted, threading.Event(), False

    def read(self):
        self.left -= 1
        if self.left <= 0:
            self.enough.set()
        return Reading(5.0) if self.left % 2 == 0 else None

    def close(self):
        self.closed = True


def test_a_sampler_keeps_what_the_source_says_with_its_time_and_closes_it():
    source = Source(9)
    ticks = iter(range(10_000))
    with Sampler(source, interval_s=0.0, clock_ns=lambda: next(ticks)) as sampler:
        assert source.enough.wait(10)
    assert source.closed
    assert len(sampler.samples) >= 4
    times = [at for at, _ in sampler.samples]
    assert times == sorted(times)
    assert all(reading.watts == 5.0 for _, reading in sampler.samples)
