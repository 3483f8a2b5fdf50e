"""What a search left in its folder, read into one shape: ``search.json``, or ``candidates.jsonl`` of older runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.errors import DataError
from kd3d.runs.atomic import parse_json, read_json

STATES = {
    "complete": "trained",
    "trained": "trained",
    "pruned": "pruned",
    "failed": "failed",
    "running": "running",
    "untrained": "untrained",
}
BUDGETED = {"flops": "macs", "params": "params", "latency": "latency_ms", "latency_ms": "latency_ms"}


@dataclass(frozen=True)
class Point:
    """One candidate, or the teacher.

    Args:
        name: of the specification.
        params, macs, macs_thop, acts: as in ``kd3d.compress.search.cost.Cost``; ``None`` where not recorded.
        latency_ms: predicted or measured, or ``None``.
        score: mAP in 0..1 after ``steps`` optimiser steps, ``None`` where nothing was trained.
        prior: what it was ordered by untrained; ``None`` for the teacher.
        state: ``trained``, ``running``, ``pruned``, ``failed``, ``untrained``; ``teacher`` for the teacher.
        choice: how it differs from the teacher.
        spec: path of its specification, ``None`` where no such file is.
    """

    name: str
    params: float | None
    macs: float | None
    macs_thop: float | None
    acts: float | None
    latency_ms: float | None = None
    score: float | None = None
    steps: float | None = None
    prior: float | None = None
    state: str = "untrained"
    choice: Mapping[str, Any] | None = None
    spec: Path | None = None


@dataclass(frozen=True)
class Limit:
    """A budget on one axis (a field of ``Point``), and how it was written."""

    axis: str
    value: float
    text: str


@dataclass(frozen=True)
class SearchRecord:
    """A whole search.

    Args:
        candidates: every one that was kept, in the file's order.
        teacher: its cost, or ``None`` where it was not recorded.
        limits: budgets.
        convention: ``physical`` or ``thop``: the MACs that a budget binds and that the page shows first.
        chosen: name of the student that was taken.
        strategy, seed: of the search.
        count: students that fit the budgets; only the best of them are kept.
    """

    candidates: tuple[Point, ...]
    teacher: Point | None
    limits: tuple[Limit, ...]
    convention: str
    chosen: str | None = None
    strategy: str | None = None
    seed: int | None = None
    count: int | None = None


def read_search(run: Path) -> SearchRecord:
    """The search in the folder of a ``kd3d search --out`` or ``kd3d compress``.

    Raises:
        DataError: there is none, or it is damaged; names the file and the field.
    """
    run = Path(run)
    if (run / "search.json").exists():
        return _from_json(run / "search.json", read_json(run / "search.json"))
    if (run / "candidates.jsonl").exists():
        return _from_lines(run)
    raise DataError(
        f"{run}: no search is here (neither search.json nor candidates.jsonl). "
        "Name the folder that was given to kd3d search --out or kd3d compress --out."
    )


def _from_json(path: Path, value: Any) -> SearchRecord:
    read = _Reader(path)
    whole = read.mapping(value, "the file")
    rows = read.rows(whole.get("candidates"))
    teacher = whole.get("teacher")
    limits = read.mapping(whole.get("budget") or {}, "budget")
    convention = read.convention(whole.get("convention") or limits.get("convention"))
    return SearchRecord(
        candidates=rows,
        teacher=None if teacher is None else read.teacher(teacher),
        limits=read.limits(limits, convention),
        convention=convention,
        chosen=read.text(whole.get("chosen"), "chosen"),
        strategy=read.text(whole.get("strategy"), "strategy"),
        seed=read.integer(whole.get("seed"), "seed"),
        count=read.integer(whole.get("count"), "count"),
    )


def _from_lines(run: Path) -> SearchRecord:
    path = run / "candidates.jsonl"
    read = _Reader(path)
    try:
        rows = read.rows([parse_json(line) for line in path.read_text().splitlines() if line.strip()])
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON lines ({error}). Restore the file or search again.") from error
    metrics = read_metrics(run) or {}
    about = _Reader(run / "metrics.json")
    limits = about.mapping(metrics.get("budget") or {}, "budget")
    convention = about.convention(limits.get("convention"))
    teacher, student = metrics.get("teacher"), about.mapping(metrics.get("student") or {}, "student")
    return SearchRecord(
        candidates=rows,
        teacher=None if teacher is None else about.teacher(teacher),
        limits=about.limits(limits, convention),
        convention=convention,
        chosen=about.text(student.get("name"), "student.name"),
    )


def read_metrics(run: Path) -> Mapping[str, Any] | None:
    """``metrics.json`` of a compress run, or ``None`` where the folder has none.

    Raises:
        DataError: it is damaged.
    """
    path = Path(run) / "metrics.json"
    return _Reader(path).mapping(read_json(path), "the file") if path.exists() else None


@dataclass(frozen=True)
class _Reader:
    """Checked access; every refusal names the file and the place in it."""

    path: Path

    def refuse(self, place: str, wanted: str, value: Any) -> DataError:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return DataError(f"{self.path}: {place} must be {wanted}, not {shown}. Restore the file or search again.")

    def mapping(self, value: Any, place: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self.refuse(place, "an object", value)
        return value

    def text(self, value: Any, place: str) -> str | None:
        if value is not None and not isinstance(value, str):
            raise self.refuse(place, "text", value)
        return value

    def number(self, value: Any, place: str, *, low: float = 0.0) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < low:
            raise self.refuse(place, "a finite number" + (f" of at least {low:g}" if low > -math.inf else ""), value)
        return value

    def integer(self, value: Any, place: str) -> int | None:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self.refuse(place, "a whole number", value)
        return value

    def convention(self, value: Any) -> str:
        if value not in (None, "physical", "thop"):
            raise self.refuse("convention", "physical or thop", value)
        return value or "physical"

    def teacher(self, value: Any) -> Point:
        row = self.mapping(value, "teacher")
        score = self.number(row.get("mAP"), "teacher.mAP")
        name = self.text(row.get("name"), "teacher.name") or "teacher"
        return Point(name, **self.costs(row, "teacher"), score=score, state="teacher")

    def costs(self, row: Mapping[str, Any], place: str) -> dict[str, Any]:
        names = ("params", "macs", "macs_thop", "acts", "latency_ms")
        return {name: self.number(row.get(name), f"{place}.{name}") for name in names}

    def rows(self, value: Any) -> tuple[Point, ...]:
        if not isinstance(value, list) or not value:
            raise self.refuse("candidates", "a list of at least one candidate", value)
        points = tuple(self.candidate(row, f"candidates[{index}]") for index, row in enumerate(value))
        if len({point.name for point in points}) < len(points):
            names = [point.name for point in points]
            twice = next(name for name in names if names.count(name) > 1)
            raise self.refuse("candidates", "named once each", twice)
        return points

    def candidate(self, value: Any, place: str) -> Point:
        row = self.mapping(value, place)
        name = row.get("name")
        if not isinstance(name, str) or not name:
            raise self.refuse(f"{place}.name", "a name", name)
        for needed in ("macs", "params"):
            if row.get(needed) is None:
                raise self.refuse(f"{place}.{needed}", "a number", None)
        score, prior = self.number(row.get("score"), f"{place}.score"), row.get("prior")
        if score is not None and score > 1:
            raise self.refuse(f"{place}.score", "mAP between 0 and 1", score)
        if prior is None and score is None:
            raise self.refuse(f"{place}.prior", "a number where there is no score", None)
        state = row.get("state") or ("untrained" if score is None else "trained")
        if state not in STATES:
            raise self.refuse(f"{place}.state", f"one of {', '.join(STATES)}", state)
        return Point(
            name,
            **self.costs(row, place),
            score=score,
            steps=self.integer(row.get("steps"), f"{place}.steps"),
            prior=self.number(prior, f"{place}.prior", low=-math.inf),
            state=STATES[state],
            choice=self.mapping(row.get("choice") or {}, f"{place}.choice"),
            spec=self.spec(row.get("spec"), f"{place}.spec"),
        )

    def spec(self, value: Any, place: str) -> Path | None:
        named = self.text(value, place)
        found = self.path.parent / named if named else None
        return found if found is not None and found.is_file() else None

    def limits(self, budget: Mapping[str, Any], convention: str) -> tuple[Limit, ...]:
        found = []
        for key, axis in BUDGETED.items():
            if budget.get(key) is None:
                continue
            entry = self.mapping(budget[key], f"budget.{key}")
            value = self.number(entry.get("limit"), f"budget.{key}.limit")
            if value is None:
                raise self.refuse(f"budget.{key}.limit", "a number", None)
            shown = "macs_thop" if axis == "macs" and convention == "thop" else axis
            found.append(Limit(shown, value, self.text(entry.get("text"), f"budget.{key}.text") or f"{value:g}"))
        return tuple(found)


def front(points: tuple[Point, ...], x: str, y: str) -> list[Point]:
    """Points that no other beats in both ``x`` (less is better) and ``y`` (more), cheapest first.

    A pruned student's score is that of fewer steps and so no rival of a trained one: on ``score``, only trained
    students are on the front where there are any.
    """
    held = [point for point in points if getattr(point, x) is not None and getattr(point, y) is not None]
    if y == "score" and any(point.state == "trained" for point in held):
        held = [point for point in held if point.state == "trained"]
    best: list[Point] = []
    for point in sorted(held, key=lambda item: (getattr(item, x), -getattr(item, y), item.name)):
        if not best or getattr(point, y) > getattr(best[-1], y):
            best.append(point)
    return best
