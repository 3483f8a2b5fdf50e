"""Throughput with several frames in flight: one is decoded while the next is in the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

from kd3d.bench.protocol import stages_of
from kd3d.errors import UsageError


@dataclass(frozen=True)
class StreamTimes:
    """A run with several frames in flight.

    Args:
        in_flight: frames at a time.
        wall_ns: from the first frame's start to the last one's end.
        boxes: found in each frame, in order.
        began_ns: reading of the clock at the start.
    """

    in_flight: int
    wall_ns: int
    boxes: tuple[int, ...]
    began_ns: int

    @property
    def fps(self) -> float:
        """Frames over wall time."""
        return len(self.boxes) / (self.wall_ns / 1e9) if self.wall_ns else 0.0

    def differing(self, expected: Mapping[int, int], frames: int) -> int:
        """Frames whose number of boxes differs from that with one frame in flight.

        A pipeline that hands out buffers it writes again is not fit for several frames in flight; this shows it.

        Args:
            expected: boxes by index of the frame.
            frames: that were repeated.
        """
        return sum(count != expected.get(at % frames, count) for at, count in enumerate(self.boxes))


def stream(
    pipeline: Any,
    frames: Sequence[Any],
    *,
    count: int,
    in_flight: int = 2,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> StreamTimes:
    """Run ``count`` frames with ``in_flight`` of them at a time.

    Each frame runs in a thread of its own; a stage takes one frame at a time, so that what is inside it (a TensorRT
    context, a set of device buffers) is used by one thread at once. A pipeline whose ``holds_frame`` is true keeps a
    frame in memory of its own from the first stage to the last, so it takes whole frames.

    Raises:
        UsageError: nothing to run.
    """
    if count < 1 or in_flight < 1 or not frames:
        raise UsageError(f"there is nothing to stream: {count} of {len(frames)} frame(s), {in_flight} in flight.")
    whole = getattr(pipeline, "holds_frame", False)
    calls = [pipeline] if whole else [getattr(pipeline, name) for name in stages_of(pipeline)]
    stages = [(Lock(), call) for call in calls]

    def run(at: int) -> int:
        value = frames[at % len(frames)]
        for lock, stage in stages:
            with lock:
                value = stage(value)
        return len(value)

    with ThreadPoolExecutor(in_flight, thread_name_prefix="kd3d-stream") as pool:
        began = clock_ns()
        found = tuple(pool.map(run, range(count)))
        ended = clock_ns()
    return StreamTimes(in_flight, ended - began, found, began)
