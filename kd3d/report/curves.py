"""Training curves of a run, from ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd3d.report import svg

MOST = 400  # points of a line; a long run is thinned to that many


def curves(trainings: Mapping[str, Path]) -> list[str]:
    """Charts: the loss of every training in one, then the terms of each, then other measured scores."""
    from kd3d.training.log import read_metrics

    read = {name: read_metrics(path) for name, path in trainings.items()}
    held = {name: rows for name, rows in read.items() if rows}
    charts = [svg.lines({name: _series(rows, "loss") for name, rows in held.items()}, x="step", y="loss", label="Loss")]
    scores = {f"{name}, {key}": _series(rows, key) for name, rows in held.items() for key in ("mAP", "NDS")}
    charts.append(svg.lines(scores, x="step", y="score", label="Scores during training"))
    for name, rows in held.items():
        keys = list(dict.fromkeys(key for row in rows for key in _terms(row)))
        terms = {key: _series([_terms(row) | {"step": row.get("step")} for row in rows], key) for key in keys[:6]}
        charts.append(svg.lines(terms, x="step", y="loss", label=f"Terms of the loss: {name}"))
    return [chart for chart in charts if chart]


def _terms(row: Mapping[str, Any]) -> dict[str, Any]:
    found = row.get("terms")
    return dict(found) if isinstance(found, dict) else {}


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    found = [(row["step"], row[key]) for row in rows if _number(row.get("step")) and _number(row.get(key))]
    every = -(-len(found) // MOST) or 1
    return [*found[:-1:every], found[-1]] if found else []


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30
