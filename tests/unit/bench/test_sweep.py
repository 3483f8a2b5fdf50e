import numpy as np
import pytest

from kd3d.bench.protocol import FrameTimes, ModelTimes
from kd3d.bench.sweep import against, sweep, sweep_json, thinned
from kd3d.errors import UsageError


def test_thinned_frames_keep_points_of_the_frame_in_their_order_and_the_same_ones_each_time(fake):
    held = fake.frames(3, points=50)
    found = thinned(held, 20)
    assert [frame.points.shape for frame in found] == [(20, 4)] * 3
    for thin, whole in zip(found, held, strict=True):
        rows = [whole.points.tolist().index(row) for row in thin.points.tolist()]
        assert rows == sorted(set(rows))
    assert all(np.array_equal(one.points, two.points) for one, two in zip(found, thinned(held, 20), strict=True))


def test_frames_with_fewer_points_are_left_out(fake):
    assert [frame.token for frame in thinned(fake.frames(3, points=50), 51)] == ["f1", "f2"]


def test_latency_is_measured_at_each_number_of_points(fake):
    clock = fake.Clock()

    class Slower(fake.Model):
        def pre(self, frame):
            self.clock.now += len(frame.points) * 10_000
            return frame

    found = sweep(
        {"a": Slower(clock, network_ms=0)},
        fake.frames(4, 300),
        counts=[100, 200],
        clock_ns=clock,
        warmup=1,
        iterations=6,
    )
    rows = sweep_json(found)["a"]
    assert [row["points"] for row in rows] == [100, 200]
    assert [row["e2e_ms"]["p50"] for row in rows] == [3.0, 4.0]
    assert [row["stages"]["pre"]["n"] for row in rows] == [6, 6]


def test_more_points_than_any_frame_has_are_refused_before_anything_is_timed(fake):
    class Never:
        def pre(self, frame):
            raise AssertionError

    with pytest.raises(UsageError, match=r"no frame has 5,000 points; the densest has 103"):
        sweep({"a": Never()}, fake.frames(4), counts=[50, 5000], clock_ns=fake.Clock(), warmup=1, iterations=1)


def test_how_latency_follows_points_and_pillars_is_fitted_over_the_medians_of_frames():
    rows = [(0, 10_000, 9.0), (0, 10_000, 11.0), (0, 10_000, 10.0), (1, 30_000, 14.0), (2, 20_000, 12.0)]
    frames = [
        FrameTimes(frame, (0, 0, 0, 0), int(ms * 1e6), points, 0, pillars=points // 10) for frame, points, ms in rows
    ]
    found = against(ModelTimes("a", frames))
    assert found["frames"] == 3
    assert found["points"] == {"per": 10_000, "ms": pytest.approx(2.0), "correlation": pytest.approx(1.0)}
    assert found["pillars"] == {"per": 1000, "ms": pytest.approx(2.0), "correlation": pytest.approx(1.0)}
    unknown = [FrameTimes(0, (0, 0, 0, 0), 1, 5, 0)]
    assert against(ModelTimes("a", unknown)) == {"frames": 1, "points": None, "pillars": None}
