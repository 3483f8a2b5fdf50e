"""Measure and report in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from kd3d.bench import clocks
from kd3d.bench.energy import PowerSource, Sampler, peak_memory_mb, power_of
from kd3d.bench.memory import peak_rss_mb
from kd3d.bench.periodic import Clock, HostClock, PeriodicTimes, periodic
from kd3d.bench.protocol import BLOCK, Pipeline, measure, warm_up
from kd3d.bench.report import BenchReport, Phases, frames_digest, make_report
from kd3d.bench.resident import resident_ms
from kd3d.bench.settings import BenchSettings
from kd3d.bench.statistics import PERCENTILES, summary
from kd3d.bench.streaming import StreamTimes, stream
from kd3d.bench.sweep import sweep, sweep_json
from kd3d.runs import environment
from kd3d.runtime.inputs import unit_of

Progress = Callable[[str], Callable[[int, int], None]]


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
    """Time pipelines over frames, interleaved, and summarise: isolated latency alone, see ``full_bench`` for the rest.

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
    return full_bench(
        pipelines,
        frames,
        settings=BenchSettings(warmup, iterations=iterations, percentiles=tuple(percentiles)),
        models=models,
        source=source,
        clock=_Ticking(clock_ns),
        progress=None if progress is None else lambda label: progress,
    )


def full_bench(
    pipelines: Mapping[str, Pipeline],
    frames: Sequence[Any],
    *,
    settings: BenchSettings,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    source: Mapping[str, Any] | None = None,
    power: PowerSource | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """The whole protocol: isolated latency, then streaming, periodic and swept measurements as ``settings`` ask for.

    Args:
        pipelines: by name; the first is the baseline of the comparison. Already entered.
        frames: portable frames.
        settings: what is measured, and for how long.
        models: what each model is; ``device`` defaults to ``cpu``.
        source: where the frames came from.
        power: read during the measurements; closed at their end.
        clock: in nanoseconds, and how to wait on it.
        progress: makes, of a phase's name, what is called with units done and units in all.

    Raises:
        UsageError: nothing to time, or counts that make no sense.
    """
    held = [frames[index] for index in range(len(frames))]
    about = {name: _about(pipeline, (models or {}).get(name, {})) for name, pipeline in pipelines.items()}
    run = _Run(pipelines, held, settings, clock or HostClock(), progress or _silent)
    device = str(next(iter(about.values()))["device"]) if about else "cpu"
    before = clocks.state(device)
    with ExitStack() as stack:
        if power is not None:
            run.sampler = stack.enter_context(Sampler(power, settings.telemetry_ms / 1e3, run.clock))
        times = run.isolated()
        found = run.phases()
    after = clocks.state(device)
    phases = replace(
        found,
        power=run.powers(),
        memory=_memory(run.sampler),
        clocks={"before": before, "after": after},
        warnings=(*found.warnings, *clocks.concerns(before, after)),
    )
    return make_report(
        times,
        models=about,
        settings=_settings(settings, power),
        frames={"count": len(held), "digest": frames_digest(held), **(source or {})},
        environment=environment.record(),
        percentiles=settings.percentiles,
        phases=phases,
    )


@dataclass
class _Span:
    """A time in which one model ran alone."""

    model: str
    phase: str
    began_ns: int
    ended_ns: int
    frames: int


@dataclass
class _Run:
    """The phases of one benchmark."""

    pipelines: Mapping[str, Pipeline]
    frames: Sequence[Any]
    settings: BenchSettings
    clock: Clock
    progress: Progress
    sampler: Sampler | None = None
    spans: list[_Span] = field(default_factory=list)
    boxes: dict[str, dict[int, int]] = field(default_factory=dict)

    def isolated(self) -> list[Any]:
        """One frame in flight, models in turns."""
        settings = self.settings
        began = self.clock()
        times = measure(
            self.pipelines,
            self.frames,
            warmup=settings.warmup,
            iterations=settings.iterations,
            warmup_ns=round(settings.warmup_ms * 1e6),
            duration_ns=round(settings.duration_s * 1e9),
            clock_ns=self.clock,
            progress=self.progress("bench"),
        )
        self.boxes = {one.name: {frame.frame: frame.boxes for frame in one.frames} for one in times}
        if len(times) == 1:  # in turns, no reading belongs to one model
            started = times[0].frames[0].started_ns
            self.spans.append(_Span(times[0].name, "isolated", max(started, began), self.clock(), len(times[0].frames)))
        return times

    def phases(self) -> Phases:
        """What ``settings`` ask for beside the isolated latency, one model after the other."""
        streaming: dict[str, Any] = {}
        resident: dict[str, Any] = {}
        arrived: dict[str, PeriodicTimes] = {}
        warnings: list[str] = []
        for name, pipeline in self.pipelines.items():
            if not self.settings.include_transfers:
                resident[name] = self._resident(pipeline)
            if self.settings.in_flight > 1:
                streaming[name] = self._stream(name, pipeline, warnings)
            if self.settings.rate_hz is not None:
                arrived[name] = self._arrive(name, pipeline, self.settings.rate_hz)
        swept = sweep_json(self._sweep(), self.settings.percentiles) if self.settings.points_sweep else {}
        return Phases(streaming=streaming, resident=resident, periodic=arrived, sweep=swept, warnings=tuple(warnings))

    def powers(self) -> dict[str, dict[str, Any]]:
        """Power of each phase in which a model ran alone, by model."""
        found: dict[str, dict[str, Any]] = {}
        for span in self.spans if self.sampler is not None else []:
            assert self.sampler is not None
            values = power_of(self.sampler.samples, span.began_ns, span.ended_ns, span.frames)
            found.setdefault(span.model, {})[span.phase] = values
        return found

    def _resident(self, pipeline: Pipeline) -> dict[str, Any]:
        taken = resident_ms(pipeline, self.frames, count=self.settings.iterations, clock_ns=self.clock)
        return summary(taken, self.settings.percentiles)

    def _stream(self, name: str, pipeline: Pipeline, warnings: list[str]) -> dict[str, Any]:
        settings = self.settings
        self._warm(pipeline)
        times = stream(
            pipeline, self.frames, count=settings.iterations, in_flight=settings.in_flight, clock_ns=self.clock
        )
        self.spans.append(_Span(name, "streaming", times.began_ns, times.began_ns + times.wall_ns, len(times.boxes)))
        return _streamed(name, times, times.differing(self.boxes[name], len(self.frames)), warnings)

    def _arrive(self, name: str, pipeline: Pipeline, rate_hz: float) -> PeriodicTimes:
        self._warm(pipeline)
        times = periodic(
            pipeline,
            self.frames,
            rate_hz=rate_hz,
            deadline_ms=self.settings.deadline,
            count=self.settings.iterations,
            clock=self.clock,
        )
        self.spans.append(_Span(name, "periodic", times.began_ns, times.ended_ns, len(times.frames)))
        return times

    def _sweep(self) -> dict[int, list[Any]]:
        settings = self.settings
        return sweep(
            self.pipelines,
            self.frames,
            counts=settings.points_sweep,
            clock_ns=self.clock,
            warmup=settings.warmup,
            iterations=settings.iterations,
            progress=self.progress("points"),
        )

    def _warm(self, pipeline: Pipeline) -> None:
        warm_up(pipeline, self.frames, count=min(self.settings.warmup, 3), lasting_ns=0, clock_ns=self.clock)


class _Ticking(HostClock):
    """A given clock; waiting is the machine's."""

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns

    def __call__(self) -> int:
        return self._clock_ns()


def _about(pipeline: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    return {"device": "cpu", "unit": unit_of(getattr(pipeline, "spec", None)), **told}


def _streamed(name: str, times: StreamTimes, differing: int, warnings: list[str]) -> dict[str, Any]:
    if differing:
        warnings.append(
            f"{name}: with {times.in_flight} frames in flight, {differing} of {len(times.boxes)} frames had another "
            "number of boxes than alone, so its streaming throughput does not count."
        )
    return {
        "in_flight": times.in_flight,
        "frames": len(times.boxes),
        "fps": None if differing else times.fps,
        "wall_s": times.wall_ns / 1e9,
        "differing_frames": differing,
    }


def _memory(sampler: Sampler | None) -> dict[str, Any]:
    return {
        "process_peak_rss_mb": peak_rss_mb(),
        "device_peak_mb": None if sampler is None else peak_memory_mb(sampler.samples),
    }


def _settings(settings: BenchSettings, power: PowerSource | None) -> dict[str, Any]:
    values = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    return {
        **values,
        "percentiles": list(settings.percentiles),
        "points_sweep": list(settings.points_sweep),
        "block": BLOCK,
        "batch": 1,
        "isolated_in_flight": 1,
        "power_source": None if power is None else power.name,
        "power_scope": None if power is None else power.scope,
        "method": "host clock at stage borders; every stage returns when its result is ready",
        "excluded": "reading the frame from disk",
    }


def _silent(label: str) -> Callable[[int, int], None]:
    return lambda done, total: None
