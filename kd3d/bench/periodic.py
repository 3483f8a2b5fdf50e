"""Frames that arrive at a sensor's rate: what a vehicle sees, clocks that sink between frames included."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kd3d.bench.protocol import FrameTimes, time_frame
from kd3d.bench.statistics import PERCENTILES, share_interval, summary
from kd3d.errors import UsageError

SPIN_NS = 1_000_000  # a sleep may end this much late


class Clock(Protocol):
    """A clock that can wait."""

    def __call__(self) -> int:
        """Nanoseconds."""

    def sleep(self, duration_ns: int) -> None:
        """Let others run for about that long."""


class HostClock:
    """The machine's own."""

    def __call__(self) -> int:
        """Nanoseconds."""
        return time.perf_counter_ns()

    def sleep(self, duration_ns: int) -> None:
        """Let others run for about that long."""
        time.sleep(duration_ns / 1e9)


@dataclass(frozen=True)
class PeriodicTimes:
    """Frames that arrived at a rate.

    Args:
        rate_hz: of arrival.
        deadline_ms: from arrival to boxes.
        frames: that were processed.
        response_ns: of each of them, from its arrival to its boxes.
        dropped: frames that were outdated by a newer one before their turn came.
        began_ns, ended_ns: readings of the clock at the first arrival and at the end.
    """

    rate_hz: float
    deadline_ms: float
    frames: tuple[FrameTimes, ...]
    response_ns: tuple[int, ...]
    dropped: int
    began_ns: int
    ended_ns: int

    def to_json(self, percentiles: Sequence[float] = PERCENTILES) -> dict[str, Any]:
        """``miss_rate`` counts late and dropped frames among all that arrived."""
        late = sum(response / 1e6 > self.deadline_ms for response in self.response_ns)
        arrived = len(self.frames) + self.dropped
        return {
            "rate_hz": self.rate_hz,
            "deadline_ms": self.deadline_ms,
            "arrived": arrived,
            "processed": len(self.frames),
            "late": late,
            "dropped": self.dropped,
            "miss_rate": (late + self.dropped) / arrived,
            "miss_rate_ci95": list(share_interval(late + self.dropped, arrived)),
            "response_ms": summary([response / 1e6 for response in self.response_ns], percentiles),
            "e2e_ms": summary([times.e2e_ns / 1e6 for times in self.frames], percentiles),
        }


def periodic(
    pipeline: Any, frames: Sequence[Any], *, rate_hz: float, deadline_ms: float, count: int, clock: Clock | None = None
) -> PeriodicTimes:
    """Let ``count`` frames arrive at ``rate_hz`` and process the newest one whenever the detector is free.

    A frame that waits while a newer one arrives is dropped, as in a driver's queue of length one; it counts as missed.

    Raises:
        UsageError: no frames, or a rate or deadline that is not above 0.
    """
    if count < 1 or not frames or not rate_hz > 0 or not deadline_ms > 0:
        raise UsageError(
            f"nothing can arrive: {count} of {len(frames)} frame(s) at {rate_hz:g} Hz, deadline {deadline_ms:g} ms."
        )
    clock = HostClock() if clock is None else clock
    period, start = 1e9 / rate_hz, clock()
    done: list[FrameTimes] = []
    responses: list[int] = []
    at = dropped = 0
    while at < count:
        arrival = start + round(at * period)
        _wait(clock, arrival)
        done.append(time_frame(pipeline, frames[at % len(frames)], index=at % len(frames), clock_ns=clock))
        now = clock()
        responses.append(now - arrival)
        newest = min(int((now - start) / period), count - 1)
        dropped += max(newest - at - 1, 0)
        at = max(at + 1, newest)
    return PeriodicTimes(rate_hz, deadline_ms, tuple(done), tuple(responses), dropped, start, clock())


def _wait(clock: Clock, until_ns: int) -> None:
    """Sleep to a millisecond before, then look at the clock: a sleep alone would add its own delay."""
    left = until_ns - clock()
    if left > SPIN_NS:
        clock.sleep(left - SPIN_NS)
    while clock() < until_ns:
        clock.sleep(0)
