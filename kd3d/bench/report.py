"""The record of a benchmark: ``kd3d.bench/1``, with the raw samples beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kd3d.bench.periodic import PeriodicTimes
from kd3d.bench.protocol import FrameTimes, ModelTimes
from kd3d.bench.statistics import PERCENTILES, drift, speedup, summary
from kd3d.bench.sweep import against, mean_pillars
from kd3d.runs.atomic import write_json, write_text
from kd3d.runtime.inputs import dropped_text

SCHEMA = "kd3d.bench/1"
DRIFT_LIMIT = 0.02
FEW_FRAMES = 200
SYNTHETIC = (
    "The frames are synthetic random points, not sensor data: these latencies do not predict those on real frames."
)


@dataclass(frozen=True)
class Phases:
    """What was measured of each model beside its isolated latency.

    Args:
        streaming, resident, power, sweep: by model; JSON values of the model's entry.
        periodic: by model.
        memory: of the process and the device.
        clocks: ``before`` and ``after``.
        warnings: about the machine and the phases.
    """

    streaming: Mapping[str, Any] = field(default_factory=dict)
    resident: Mapping[str, Any] = field(default_factory=dict)
    power: Mapping[str, Any] = field(default_factory=dict)
    sweep: Mapping[str, Any] = field(default_factory=dict)
    periodic: Mapping[str, PeriodicTimes] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    clocks: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class BenchReport:
    """A finished benchmark.

    Args:
        record: JSON values of the schema ``kd3d.bench/1``.
        times: raw samples per model.
        periodic: raw samples of frames that arrived at a rate, per model.
    """

    record: Mapping[str, Any]
    times: tuple[ModelTimes, ...]
    periodic: Mapping[str, PeriodicTimes] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record, ready for ``json.dumps``."""
        return dict(self.record)

    def with_accuracy(self, accuracy: Mapping[str, Mapping[str, Any]]) -> BenchReport:
        """The report with ``accuracy`` in the entries of the named models."""
        return self._with("accuracy", accuracy)

    def with_profiles(self, profiles: Mapping[str, Mapping[str, Any]]) -> BenchReport:
        """The report with ``profile`` (file, number of layers, the slowest) in the entries of the named models."""
        return self._with("profile", profiles)

    def _with(self, key: str, found: Mapping[str, Mapping[str, Any]]) -> BenchReport:
        models = [
            {**model, key: dict(found[model["name"]])} if model["name"] in found else model
            for model in self.record["models"]
        ]
        return replace(self, record={**self.record, "models": models})

    def with_locked(self, locked: Sequence[Any]) -> BenchReport:
        """The report with what ``locked_clocks`` held."""
        return replace(self, record={**self.record, "clocks": {**self.record["clocks"], "locked": list(locked)}})

    def with_baseline(self, found: Mapping[str, Any]) -> BenchReport:
        """The report with its comparison with a stored one."""
        return replace(self, record={**self.record, "baseline": dict(found)})

    def write(self, out: Path) -> None:
        """Write ``bench.json`` and ``frames.jsonl`` (one line per model and timed frame) into ``out``.

        Frames that arrived at a rate go to ``periodic.jsonl``.
        """
        files = {"frames_file": "frames.jsonl"}
        lines = [json.dumps(line) for times in self.times for line in _raw(times)]
        write_text(Path(out) / "frames.jsonl", "\n".join(lines) + "\n")
        if self.periodic:
            files["periodic_file"] = "periodic.jsonl"
            rows = [json.dumps(row) for name, times in self.periodic.items() for row in _arrivals(name, times)]
            write_text(Path(out) / "periodic.jsonl", "\n".join(rows) + "\n")
        write_json(Path(out) / "bench.json", {**self.record, **files})


def make_report(
    times: Sequence[ModelTimes],
    *,
    models: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    frames: Mapping[str, Any],
    environment: Mapping[str, Any],
    percentiles: Sequence[float] = PERCENTILES,
    phases: Phases | None = None,
) -> BenchReport:
    """Summarise what was measured.

    Args:
        times: raw samples; the first model is the baseline of the comparison.
        models: per name what the model is: ``device``, ``runtime``, artefact, size.
        settings: of the measurement.
        frames: where the frames came from: ``source``, ``count``, ``synthetic``.
        environment: ``kd3d.runs.environment.record()``.
        percentiles: to report.
        phases: what else was measured.
    """
    phases = phases or Phases()
    warnings = [SYNTHETIC] if frames.get("synthetic") else []
    units = {one.name: str(models[one.name].get("unit", "pillar")) for one in times}
    warnings += [text for one in times for text in _warnings(one, units[one.name])] + list(phases.warnings)
    record = {
        "schema": SCHEMA,
        "command": environment.get("command"),
        "env": dict(environment),
        "settings": dict(settings),
        "frames": dict(frames),
        "models": [
            {"name": one.name, **models[one.name], **_numbers(one, percentiles), **_more(one.name, phases, percentiles)}
            for one in times
        ],
        "comparison": [
            {"baseline": times[0].name, "model": other.name, **speedup(times[0].e2e_ms, other.e2e_ms)}
            for other in times[1:]
        ],
        "clocks": dict(phases.clocks),
        "memory": dict(phases.memory),
        "warnings": warnings,
    }
    return BenchReport(record, tuple(times), phases.periodic)


def frames_digest(frames: Sequence[Any]) -> str:
    """Of the frames' tokens and numbers of points: whether two benchmarks used the same ones."""
    said = "\n".join(f"{frame.token} {len(frame.points)}" for frame in frames)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _numbers(times: ModelTimes, percentiles: Sequence[float]) -> dict[str, Any]:
    points = [one.points for one in times.frames]
    return {
        "stages": {stage: _stage(times, stage, percentiles) for stage in times.stages},
        "e2e_ms": summary(times.e2e_ms, percentiles),
        "fps": times.fps,
        "drift": drift(times.e2e_ms),
        "points_mean": sum(points) / len(points),
        "points_min": min(points),
        "points_max": max(points),
        "pillars_mean": mean_pillars(times),
        "boxes_mean": sum(one.boxes for one in times.frames) / len(times.frames),
        "dropped": {key: _total(times, key) for key in ("dropped_points", "dropped_pillars")},
        "latency_against": against(times),
    }


def _stage(times: ModelTimes, stage: str, percentiles: Sequence[float]) -> dict[str, Any]:
    """Host time of a stage, and ``gpu_ms`` where its pipeline measures on the device."""
    on_device = times.device_ms(stage)
    host = summary(times.stage_ms(stage), percentiles)
    return {**host, "gpu_ms": summary(on_device, percentiles)} if on_device else host


def _more(name: str, phases: Phases, percentiles: Sequence[float]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, values in (
        ("streaming", phases.streaming),
        ("network_resident_ms", phases.resident),
        ("power", phases.power),
        ("points_sweep", phases.sweep),
    ):
        if name in values:
            found[key] = values[name]
    if name in phases.periodic:
        found["periodic"] = phases.periodic[name].to_json(percentiles)
    return found


def _total(times: ModelTimes, key: str) -> int | None:
    known = [getattr(one, key) for one in times.frames if getattr(one, key) is not None]
    return sum(known) if known else None


def _warnings(times: ModelTimes, unit: str) -> list[str]:
    found = []
    change = drift(times.e2e_ms)
    if abs(change) > DRIFT_LIMIT:
        found.append(
            f"{times.name}: latency drifted by {change:+.1%} during the run (limit {DRIFT_LIMIT:.0%}); "
            "let the machine settle, close other programs, or raise --warmup."
        )
    if len(times.frames) < FEW_FRAMES:
        found.append(
            f"{times.name}: {len(times.frames)} timed frames are few for a p99; use --iterations {FEW_FRAMES} or more."
        )
    lost = _total(times, "dropped_pillars")
    if lost:
        told = dropped_text(dropped_points=_total(times, "dropped_points") or 0, dropped_pillars=lost, unit=unit)
        found.append(f"{times.name}: in {len(times.frames)} timed frames {told}")
    return found


def _raw(times: ModelTimes) -> list[dict[str, Any]]:
    first = min((one.started_ns for one in times.frames), default=0)
    return [
        {"model": times.name, "start_ms": (one.started_ns - first) / 1e6, **_frame(times.stages, one)}
        for one in times.frames
    ]


def _frame(stages: Sequence[str], one: FrameTimes) -> dict[str, Any]:
    known = {key: getattr(one, key) for key in ("pillars", "dropped_points", "dropped_pillars")}
    return {
        "frame": one.frame,
        **{f"{stage}_ms": ns / 1e6 for stage, ns in zip(stages, one.stages_ns, strict=True)},
        **{f"{stage}_gpu_ms": value for stage, value in one.device_ms.items()},
        "e2e_ms": one.e2e_ns / 1e6,
        "points": one.points,
        "boxes": one.boxes,
        **{key: value for key, value in known.items() if value is not None},
    }


def _arrivals(name: str, times: PeriodicTimes) -> list[dict[str, Any]]:
    return [
        {"model": name, "frame": one.frame, "response_ms": response / 1e6, "e2e_ms": one.e2e_ns / 1e6}
        for one, response in zip(times.frames, times.response_ns, strict=True)
    ]
