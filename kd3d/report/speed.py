"""The speed part of a run's page: a table, stage bars, latency histograms, from ``bench.json`` and ``frames.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd3d.errors import DataError
from kd3d.report import svg
from kd3d.report.bench_tables import conditions, more_tables
from kd3d.report.parts import read_object
from kd3d.report.table import Table, bench_table
from kd3d.runs.atomic import parse_json

_LONGEST_MS = 1e9


def speed(folder: Path) -> tuple[list[Table], list[str], list[str]]:
    """Tables, charts, and sentences (machine, warnings) of one benchmark.

    Raises:
        DataError: ``bench.json`` or ``frames.jsonl`` is damaged; names the file.
    """
    file = folder / "bench.json"
    record = read_object(file) or {}
    try:
        tables = [bench_table(record), *more_tables(record)]
        bars = {
            model["name"]: {stage: float(found["p50"]) for stage, found in model["stages"].items() if "p50" in found}
            for model in record["models"]
        }
        said = [conditions(record), *(f"Warning: {text}" for text in record.get("warnings", ()))]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"{file}: not a benchmark that can be drawn ({type(error).__name__}: {error}). Run kd3d bench again."
        ) from error
    charts = [svg.stacked(bars, unit="ms", label="Median time of each stage"), _histograms(folder, record)]
    return tables, [chart for chart in charts if chart], said


def _histograms(folder: Path, record: Mapping[str, Any]) -> str:
    path = folder / "frames.jsonl"
    if not path.is_file():
        return ""
    samples: dict[str, list[float]] = {model["name"]: [] for model in record["models"]}
    try:
        for line in path.read_text().splitlines():
            row = parse_json(line)
            time_ms = float(row["e2e_ms"])
            if not 0 <= time_ms < _LONGEST_MS:
                raise ValueError(f"{row['e2e_ms']} ms is no time")
            samples.setdefault(str(row["model"]), []).append(time_ms)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not readable as timed frames ({error}). Run kd3d bench again.") from error
    return svg.histograms(samples, x="end to end, ms", label="Every timed frame; none is left out")
