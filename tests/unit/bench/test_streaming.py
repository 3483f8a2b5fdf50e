import threading

import pytest

from kd3d.bench.streaming import StreamTimes, stream
from kd3d.errors import UsageError


class Watched:
    """Counts how many threads are in each stage, and how many frames are under way."""

    stages = ("first", "second")

    def __init__(self, meet=0):
        self.lock = threading.Lock()
        self.inside = {"first": 0, "second": 0}
        self.most = {"first": 0, "second": 0}
        self.under_way, self.most_under_way = 0, 0
        self.meeting = threading.Barrier(2, timeout=10) if meet else None
        self.meet = meet

    def _enter(self, stage):
        with self.lock:
            self.inside[stage] += 1
            self.most[stage] = max(self.most[stage], self.inside[stage])

    def _leave(self, stage):
        with self.lock:
            self.inside[stage] -= 1

    def first(self, frame):
        self._enter("first")
        with self.lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        if self.meeting is not None and frame == 1:
            self.meeting.wait()  # frame 1 is in the first stage while frame 0 is in the second
        self._leave("first")
        return frame

    def second(self, frame):
        self._enter("second")
        if self.meeting is not None and frame == 0:
            self.meeting.wait()
        self._leave("second")
        with self.lock:
            self.under_way -= 1
        return [0] * (frame + 1)


def test_two_frames_overlap_but_never_share_a_stage():
    pipeline = Watched(meet=2)
    found = stream(pipeline, list(range(8)), count=8, in_flight=2)
    assert pipeline.most == {"first": 1, "second": 1}
    assert pipeline.most_under_way == 2
    assert found.boxes == tuple(range(1, 9)), "in the order of the frames"


def test_a_pipeline_that_holds_its_frame_in_its_own_memory_takes_whole_frames():
    class Holding(Watched):
        holds_frame = True

        def __call__(self, frame):
            return self.second(self.first(frame))

    pipeline = Holding()
    found = stream(pipeline, list(range(8)), count=8, in_flight=3)
    assert pipeline.most_under_way == 1
    assert found.boxes == tuple(range(1, 9))


def test_one_in_flight_means_one():
    pipeline = Watched()
    stream(pipeline, [0, 1, 2], count=9, in_flight=1)
    assert pipeline.most_under_way == 1


def test_throughput_is_frames_over_wall_time():
    ticks = iter([1_000, 1_000 + 2 * 10**9])
    found = stream(Watched(), [0], count=10, in_flight=2, clock_ns=lambda: next(ticks))
    assert found.fps == 5.0
    assert found.began_ns == 1_000


def test_frames_with_other_boxes_than_alone_are_counted():
    found = StreamTimes(2, 1, (3, 4, 3, 5), 0)
    assert found.differing({0: 3, 1: 4}, frames=2) == 1
    assert found.differing({0: 3}, frames=2) == 0, "a frame that was not timed alone cannot differ"


def test_an_error_in_a_frame_ends_the_stream():
    class Broken(Watched):
        def second(self, frame):
            raise ValueError("no such head")

    with pytest.raises(ValueError, match="no such head"):
        stream(Broken(), [0, 1], count=5)


def test_nothing_to_stream_is_refused():
    with pytest.raises(UsageError, match=r"0 of 1 frame\(s\), 2 in flight"):
        stream(Watched(), [0], count=0)
