"""How models are timed: one frame in flight, stage by stage, several models in turns over the same frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kd3d.errors import UsageError

STAGES = ("pre", "network", "decode", "nms")
BLOCK = 10


class Pipeline(Protocol):
    """A detector as four host-visible stages; each returns only when its result is ready."""

    def pre(self, frame: Any) -> Any:
        """Points to network inputs."""

    def network(self, feeds: Any) -> Any:
        """Network inputs to head maps."""

    def decode(self, outputs: Any) -> Any:
        """Head maps to box candidates."""

    def nms(self, candidates: Any) -> Any:
        """Candidates to boxes."""


@dataclass(frozen=True)
class FrameTimes:
    """Durations of one frame in nanoseconds; ``e2e_ns`` spans all stages, the gaps between them included."""

    frame: int
    stages_ns: tuple[int, int, int, int]
    e2e_ns: int
    points: int
    boxes: int


@dataclass
class ModelTimes:
    """All timed frames of one model, and the wall time of its blocks, from which throughput is measured."""

    name: str
    frames: list[FrameTimes] = field(default_factory=list)
    wall_ns: int = 0

    def stage_ms(self, stage: str) -> list[float]:
        """Durations of one stage in milliseconds, in the order they were taken."""
        at = STAGES.index(stage)
        return [times.stages_ns[at] / 1e6 for times in self.frames]

    @property
    def e2e_ms(self) -> list[float]:
        """End-to-end durations in milliseconds."""
        return [times.e2e_ns / 1e6 for times in self.frames]

    @property
    def fps(self) -> float:
        """Frames per second with one frame in flight: frames over wall time, not 1 / latency."""
        return len(self.frames) / (self.wall_ns / 1e9) if self.wall_ns else 0.0


def measure(
    pipelines: Mapping[str, Pipeline],
    frames: Sequence[Any],
    *,
    warmup: int = 10,
    iterations: int = 200,
    block: int = BLOCK,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    progress: Callable[[int, int], None] | None = None,
) -> list[ModelTimes]:
    """Time every pipeline over the same frames in the same order.

    Models take turns in blocks of ``block`` frames (A B, B A, A B ...), so that a machine that slows down or is
    disturbed does so for all of them. Frames are repeated in order until ``iterations`` frames were timed per model.

    Args:
        pipelines: by name.
        frames: held in memory; each has ``points``, ``[N, F]``.
        warmup: untimed frames per model, on the real shapes.
        iterations: timed frames per model.
        block: frames per turn.
        clock_ns: a monotonic clock; tests inject their own.
        progress: called with blocks done and blocks in all.

    Raises:
        UsageError: no model, no frame, or counts that make no sense.
    """
    if not pipelines or not frames:
        raise UsageError(f"there is nothing to time: {len(pipelines)} model(s), {len(frames)} frame(s).")
    if iterations < 1 or warmup < 0 or block < 1:
        raise UsageError(
            f"iterations ({iterations}) and block ({block}) must be at least 1, and warmup ({warmup}) 0 or more."
        )
    for pipeline in pipelines.values():
        for index in range(warmup):
            time_frame(pipeline, frames[index % len(frames)], index=index, clock_ns=clock_ns)
    results = {name: ModelTimes(name) for name in pipelines}
    starts = range(0, iterations, block)
    for turn, start in enumerate(starts):
        order = list(pipelines) if turn % 2 == 0 else list(pipelines)[::-1]
        span = range(start, min(start + block, iterations))
        for name in order:
            began = clock_ns()
            timed = [
                time_frame(pipelines[name], frames[at % len(frames)], index=at % len(frames), clock_ns=clock_ns)
                for at in span
            ]
            results[name].wall_ns += clock_ns() - began
            results[name].frames.extend(timed)
        if progress is not None:
            progress(turn + 1, len(starts))
    return list(results.values())


def time_frame(pipeline: Pipeline, frame: Any, *, index: int, clock_ns: Callable[[], int]) -> FrameTimes:
    """Run one frame and take the time at each border between stages."""
    t0 = clock_ns()
    feeds = pipeline.pre(frame)
    t1 = clock_ns()
    outputs = pipeline.network(feeds)
    t2 = clock_ns()
    candidates = pipeline.decode(outputs)
    t3 = clock_ns()
    boxes = pipeline.nms(candidates)
    t4 = clock_ns()
    return FrameTimes(index, (t1 - t0, t2 - t1, t3 - t2, t4 - t3), t4 - t0, len(frame.points), len(boxes))
