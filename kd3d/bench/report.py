"""The record of a benchmark: ``kd3d.bench/1``, with the raw samples beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.bench.protocol import STAGES, ModelTimes
from kd3d.bench.statistics import PERCENTILES, drift, speedup, summary
from kd3d.runs.atomic import write_json, write_text

SCHEMA = "kd3d.bench/1"
DRIFT_LIMIT = 0.02
FEW_FRAMES = 200
SYNTHETIC = (
    "The frames are synthetic random points, not sensor data: these latencies do not predict those on real frames."
)


@dataclass(frozen=True)
class BenchReport:
    """A finished benchmark.

    Args:
        record: JSON values of the schema ``kd3d.bench/1``.
        times: raw samples per model.
    """

    record: Mapping[str, Any]
    times: tuple[ModelTimes, ...]

    def to_json(self) -> dict[str, Any]:
        """The record, ready for ``json.dumps``."""
        return dict(self.record)

    def write(self, out: Path) -> None:
        """Write ``bench.json`` and ``frames.jsonl`` (one line per model and timed frame) into ``out``."""
        lines = [json.dumps(line) for times in self.times for line in _raw(times)]
        write_text(Path(out) / "frames.jsonl", "\n".join(lines) + "\n")
        write_json(Path(out) / "bench.json", {**self.record, "frames_file": "frames.jsonl"})


def make_report(
    times: Sequence[ModelTimes],
    *,
    models: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    frames: Mapping[str, Any],
    environment: Mapping[str, Any],
    percentiles: Sequence[float] = PERCENTILES,
) -> BenchReport:
    """Summarise what was measured.

    Args:
        times: raw samples; the first model is the baseline of the comparison.
        models: per name what the model is: ``device``, ``runtime``, artefact, size.
        settings: of the measurement.
        frames: where the frames came from: ``source``, ``count``, ``synthetic``.
        environment: ``kd3d.runs.environment.record()``.
        percentiles: to report.
    """
    entries = [{"name": one.name, **models[one.name], **_numbers(one, percentiles)} for one in times]
    warnings = [text for one in times for text in _warnings(one)]
    if frames.get("synthetic"):
        warnings.insert(0, SYNTHETIC)
    record = {
        "schema": SCHEMA,
        "command": environment.get("command"),
        "env": dict(environment),
        "settings": dict(settings),
        "frames": dict(frames),
        "models": entries,
        "comparison": [
            {"baseline": times[0].name, "model": other.name, **speedup(times[0].e2e_ms, other.e2e_ms)}
            for other in times[1:]
        ],
        "warnings": warnings,
    }
    return BenchReport(record, tuple(times))


def _numbers(times: ModelTimes, percentiles: Sequence[float]) -> dict[str, Any]:
    points = [one.points for one in times.frames]
    return {
        "stages": {stage: summary(times.stage_ms(stage), percentiles) for stage in STAGES},
        "e2e_ms": summary(times.e2e_ms, percentiles),
        "fps": times.fps,
        "drift": drift(times.e2e_ms),
        "points_mean": sum(points) / len(points),
        "boxes_mean": sum(one.boxes for one in times.frames) / len(times.frames),
    }


def _warnings(times: ModelTimes) -> list[str]:
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
    return found


def _raw(times: ModelTimes) -> list[dict[str, Any]]:
    return [
        {
            "model": times.name,
            "frame": one.frame,
            **{f"{stage}_ms": ns / 1e6 for stage, ns in zip(STAGES, one.stages_ns, strict=True)},
            "e2e_ms": one.e2e_ns / 1e6,
            "points": one.points,
            "boxes": one.boxes,
        }
        for one in times.frames
    ]
