"""Measure and report in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kd3d.bench.protocol import BLOCK, Pipeline, measure
from kd3d.bench.report import BenchReport, make_report
from kd3d.bench.statistics import PERCENTILES
from kd3d.runs import environment


def bench(
    pipelines: Mapping[str, Pipeline],
    frames: Sequence[Any],
    *,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    source: Mapping[str, Any] | None = None,
    warmup: int = 10,
    iterations: int = 200,
    percentiles: Sequence[float] = PERCENTILES,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    progress: Callable[[int, int], None] | None = None,
) -> BenchReport:
    """Time pipelines over frames, interleaved, and summarise.

    Args:
        pipelines: by name; the first is the baseline of the comparison. Already entered (device memory is theirs).
        frames: portable frames.
        models: what each model is; ``device`` defaults to ``cpu``.
        source: where the frames came from.
        warmup: untimed frames per model.
        iterations: timed frames per model.
        percentiles: to report.
        clock_ns: a monotonic clock in nanoseconds.
        progress: called with blocks done and blocks in all.

    Raises:
        UsageError: nothing to time, or counts that make no sense.
    """
    held = [frames[index] for index in range(len(frames))]
    times = measure(pipelines, held, warmup=warmup, iterations=iterations, clock_ns=clock_ns, progress=progress)
    return make_report(
        times,
        models={name: {"device": "cpu", **(models or {}).get(name, {})} for name in pipelines},
        settings={
            "warmup": warmup,
            "iterations": iterations,
            "block": BLOCK,
            "batch": 1,
            "in_flight": 1,
            "method": "host clock at stage borders; every stage returns when its result is ready",
            "excluded": "reading the frame from disk",
        },
        frames={"count": len(held), **(source or {})},
        environment=environment.record(),
        percentiles=percentiles,
    )
