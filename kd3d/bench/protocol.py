"""How models are timed: one frame in flight, stage by stage, several models in turns over the same frames."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from kd3d.errors import UsageError

STAGES = ("pre", "network", "decode", "nms")
BLOCK = 10


class Pipeline(Protocol):
    """A detector as host-visible stages; each returns only when its result is ready.

    A pipeline with other stages names them in ``stages``, each a method that takes what the one before returned. One
    that can measure on its device (CUDA events) leaves those times in ``device_ms``, by stage, after each frame.
    """

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
    """Durations of one frame in nanoseconds; ``e2e_ns`` spans all stages, the gaps between them included.

    Args:
        frame: its index.
        stages_ns: host time of each stage.
        e2e_ns: first to last reading of the clock.
        points: of the frame.
        boxes: found.
        started_ns: reading of the clock at its start.
        pillars: or voxels that the network got, where its inputs say so.
        dropped_points, dropped_pillars: that found no room, where the pipeline counts them.
        device_ms: time on the device by stage, where the pipeline measures it.
    """

    frame: int
    stages_ns: tuple[int, ...]
    e2e_ns: int
    points: int
    boxes: int
    started_ns: int = 0
    pillars: int | None = None
    dropped_points: int | None = None
    dropped_pillars: int | None = None
    device_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass
class ModelTimes:
    """All timed frames of one model, and the wall time of its blocks, from which throughput is measured.

    Args:
        name: of the model.
        frames: in the order they were timed.
        wall_ns: of its blocks.
        stages: names, in order.
    """

    name: str
    frames: list[FrameTimes] = field(default_factory=list)
    wall_ns: int = 0
    stages: tuple[str, ...] = STAGES

    def stage_ms(self, stage: str) -> list[float]:
        """Durations of one stage in milliseconds, in the order they were taken."""
        at = self.stages.index(stage)
        return [times.stages_ns[at] / 1e6 for times in self.frames]

    def device_ms(self, stage: str) -> list[float]:
        """Durations of one stage on the device in milliseconds, of the frames where it was measured."""
        return [times.device_ms[stage] for times in self.frames if stage in times.device_ms]

    @property
    def e2e_ms(self) -> list[float]:
        """End-to-end durations in milliseconds."""
        return [times.e2e_ns / 1e6 for times in self.frames]

    @property
    def fps(self) -> float:
        """Frames per second with one frame in flight: frames over wall time, not 1 / latency."""
        return len(self.frames) / (self.wall_ns / 1e9) if self.wall_ns else 0.0


def stages_of(pipeline: Any) -> tuple[str, ...]:
    """Names of a pipeline's stages."""
    return tuple(getattr(pipeline, "stages", STAGES))


def measure(
    pipelines: Mapping[str, Pipeline],
    frames: Sequence[Any],
    *,
    warmup: int = 10,
    iterations: int = 200,
    block: int = BLOCK,
    warmup_ns: int = 0,
    duration_ns: int = 0,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    progress: Callable[[int, int], None] | None = None,
) -> list[ModelTimes]:
    """Time every pipeline over the same frames in the same order.

    Models take turns in blocks of ``block`` frames (A B, B A, A B ...), so that a machine that slows down or is
    disturbed does so for all of them. Frames are repeated in order until ``iterations`` frames were timed per model,
    and ``duration_ns`` have passed in each.

    Args:
        pipelines: by name.
        frames: held in memory; each has ``points``, ``[N, F]``.
        warmup: untimed frames per model, on the real shapes.
        iterations: timed frames per model.
        block: frames per turn.
        warmup_ns: untimed frames go on for at least this long.
        duration_ns: timed frames go on for at least this long.
        clock_ns: a monotonic clock; tests inject their own.
        progress: called with blocks done and blocks in all, as far as they are known.

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
        warm_up(pipeline, frames, count=warmup, lasting_ns=warmup_ns, clock_ns=clock_ns)
    results = {name: ModelTimes(name, stages=stages_of(pipeline)) for name, pipeline in pipelines.items()}
    turn = start = 0
    while start < iterations or any(one.wall_ns < duration_ns for one in results.values()):
        stop = min(start + block, iterations) if start < iterations else start + block
        for name in list(pipelines) if turn % 2 == 0 else list(pipelines)[::-1]:
            began = clock_ns()
            timed = [
                time_frame(pipelines[name], frames[at % len(frames)], index=at % len(frames), clock_ns=clock_ns)
                for at in range(start, stop)
            ]
            results[name].wall_ns += clock_ns() - began
            results[name].frames.extend(timed)
        turn, start = turn + 1, stop
        if progress is not None:
            least = min(one.wall_ns for one in results.values())
            total = max(-(-iterations // block), turn, round(turn * duration_ns / least) if least else 0)
            progress(turn, total)
    return list(results.values())


def warm_up(
    pipeline: Pipeline, frames: Sequence[Any], *, count: int, lasting_ns: int, clock_ns: Callable[[], int]
) -> int:
    """Run frames that are not timed, at least ``count`` of them and for ``lasting_ns``; returns how many."""
    began, done = clock_ns(), 0
    while done < count or clock_ns() - began < lasting_ns:
        time_frame(pipeline, frames[done % len(frames)], index=done, clock_ns=clock_ns)
        done += 1
    return done


def time_frame(pipeline: Pipeline, frame: Any, *, index: int, clock_ns: Callable[[], int]) -> FrameTimes:
    """Run one frame and take the time at each border between stages."""
    stages = [getattr(pipeline, name) for name in stages_of(pipeline)]
    value, first, feeds = frame, True, None
    readings = [clock_ns()]
    for stage in stages:
        value = stage(value)
        readings.append(clock_ns())
        if first:
            feeds, first = value, False
    return FrameTimes(
        index,
        tuple(after - before for before, after in itertools.pairwise(readings)),
        readings[-1] - readings[0],
        len(frame.points),
        len(value),
        readings[0],
        _pillars(feeds),
        getattr(pipeline, "dropped_points", None),
        getattr(pipeline, "dropped_pillars", None),
        dict(getattr(pipeline, "device_ms", {})),
    )


def _pillars(feeds: Any) -> int | None:
    """Rows that hold points, where the inputs have ``counts`` in host memory; of voxels all rows of ``features``."""
    found = feeds if isinstance(feeds, Mapping) else {}
    if "counts" not in found:  # voxels are not padded
        return len(found["features"]) if isinstance(found.get("features"), np.ndarray) else None
    return int(np.count_nonzero(found["counts"])) if isinstance(found["counts"], np.ndarray) else None
