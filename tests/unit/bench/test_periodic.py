import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.bench.periodic import HostClock, periodic
from kd3d.errors import UsageError

MS = 1_000_000


def test_a_fast_detector_waits_for_each_frame_and_misses_none(fake):
    clock = fake.Clock()
    found = periodic(fake.Model(clock), fake.frames(3), rate_hz=20, deadline_ms=50, count=5, clock=clock)
    record = found.to_json()
    assert [round(one / MS) for one in found.response_ns] == [10] * 5
    assert (record["arrived"], record["late"], record["dropped"], record["miss_rate"]) == (5, 0, 0, 0.0)
    assert [one.frame for one in found.frames] == [0, 1, 2, 0, 1]
    assert clock.now >= 4 * 50 * MS, "frames come at the sensor's pace, however fast the detector is"
    assert max(clock.slept) <= 40 * MS, "it wakes a millisecond early and looks at the clock"


def test_a_slow_detector_drops_outdated_frames_and_is_late_with_the_others(fake):
    clock = fake.Clock()
    pipeline = fake.Model(clock, network_ms=117)  # 120 ms for a frame, one arrives every 50 ms
    found = periodic(pipeline, fake.frames(20), rate_hz=20, deadline_ms=50, count=11, clock=clock)
    assert [one.frame for one in found.frames] == [0, 2, 4, 7, 9, 10], "always the newest that has arrived"
    record = found.to_json()
    assert record["processed"] + record["dropped"] == record["arrived"] == 11
    assert record["late"] == record["processed"]
    assert record["miss_rate"] == 1.0
    assert found.response_ns[1] == 140 * MS, "taken up 20 ms after it arrived"


def test_one_slow_frame_delays_the_next_and_no_other(fake):
    clock = fake.Clock()
    pipeline = fake.Model(clock, network_ms=lambda at: 77 if at == 1 else 7)  # 80 ms once, in a period of 50
    found = periodic(pipeline, fake.frames(6), rate_hz=20, deadline_ms=50, count=6, clock=clock)
    assert [round(one / MS) for one in found.response_ns] == [10, 80, 40, 10, 10, 10]
    assert found.to_json()["late"] == 1
    assert found.dropped == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.1, 200), min_size=1, max_size=30), st.sampled_from([5.0, 10.0, 20.0]))
def test_every_frame_is_processed_or_dropped_and_none_before_it_arrives(times, rate):
    class Clock:
        now = 0

        def __call__(self):
            return self.now

        def sleep(self, duration_ns):
            self.now += max(duration_ns, 1000)

    class Model:
        stages = ("network",)
        at = -1

        def network(self, frame):
            self.at += 1
            clock.now += int(times[self.at % len(times)] * 1e6)
            return []

    class Frame:
        points = ()

    clock = Clock()
    found = periodic(Model(), [Frame()] * 40, rate_hz=rate, deadline_ms=1000 / rate, count=40, clock=clock)
    assert len(found.frames) + found.dropped == 40
    arrivals = [
        one.started_ns + one.e2e_ns - response for one, response in zip(found.frames, found.response_ns, strict=True)
    ]
    assert all(one.started_ns >= arrival for one, arrival in zip(found.frames, arrivals, strict=True))
    assert arrivals == sorted(arrivals)
    assert [one.frame for one in found.frames] == sorted({one.frame for one in found.frames})


@pytest.mark.parametrize(("options", "match"), [({"rate_hz": 0}, "at 0 Hz"), ({"deadline_ms": -1}, "deadline -1 ms")])
def test_a_rate_or_a_deadline_of_nothing_is_refused(fake, options, match):
    asked = {"rate_hz": 10, "deadline_ms": 50, "count": 3, **options}
    with pytest.raises(UsageError, match=match):
        periodic(None, fake.frames(1), **asked)


def test_the_hosts_clock_moves_on_while_it_sleeps():
    clock = HostClock()
    before = clock()
    clock.sleep(2 * MS)
    assert clock() - before >= MS
