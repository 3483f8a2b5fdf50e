"""The verbs: ``distill`` teaches one given student; ``compress`` finds, fills, teaches and scores one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd3d.compress.data import CompressData, score
from kd3d.compress.distilling import DistillResult, DistillSettings, distill, fingerprint, plain
from kd3d.compress.recipe import Recipe
from kd3d.compress.search.budget import Budgets
from kd3d.compress.search.cost import PillarStats, StatsTable
from kd3d.compress.search.grid import Candidate
from kd3d.compress.search.latency import LatencyModel
from kd3d.compress.search.optimise import SearchResult, optimise
from kd3d.compress.search.record import Trial, candidate_rows, cost_json, listed, write_search
from kd3d.compress.search.settings import SearchSettings
from kd3d.compress.search.space import Space
from kd3d.compress.search.students import Students, find_students
from kd3d.compress.stages import Progress, StageUpdate, begin, once, silent
from kd3d.detectors.checkpoint import Model, load_model, save_model
from kd3d.errors import UsageError
from kd3d.runs.atomic import write_text
from kd3d.spec import DetectorSpec, to_json

__all__ = [
    "CompressData",
    "CompressResult",
    "CompressSettings",
    "DistillResult",
    "DistillSettings",
    "Recipe",
    "SearchResult",
    "SearchSettings",
    "StageUpdate",
    "candidate_rows",
    "compress",
    "distill",
    "optimise",
    "search",
]


@dataclass(frozen=True)
class CompressSettings:
    """How a student is found and made.

    Args:
        distill: how the final student is taught.
        space: where it is looked for.
        candidates: students that get a short training before one is chosen; 1 takes the best by prior without.
        short_steps: optimiser steps of that training.
        stats_frames: frames on which pillars are counted.
        search: how the student is searched for; ``None`` tries the first ``candidates`` by prior for ``short_steps``.
    """

    distill: DistillSettings
    space: Space = field(default_factory=Space)
    candidates: int = 3
    short_steps: int = 200
    stats_frames: int = 20
    search: SearchSettings | None = None

    def __post_init__(self) -> None:
        for name in ("candidates", "short_steps", "stats_frames"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}.")

    def trials(self) -> SearchSettings | None:
        """The search by training, or ``None`` where the prior alone decides."""
        if self.search is not None or self.candidates == 1:
            return self.search
        seed, rungs = self.distill.train.seed, (self.short_steps,)
        return SearchSettings("grid", trials=self.candidates, seed=seed, rungs=rungs)

    def identity(self) -> dict[str, Any]:
        """The settings that decide the result, as JSON values; a resumed run must repeat them."""
        search = None if self.search is None else self.search.identity()
        return {**plain(self), "distill": self.distill.identity(), "search": search}


@dataclass(frozen=True)
class CompressResult:
    """A compressed detector.

    Args:
        student: the network.
        model: its model folder.
        metrics: ``student``, ``teacher`` (metrics and cost of each), ``control``, ``budget``; as in ``metrics.json``.
        candidates: every student within the budgets, best prior first.
    """

    student: Model
    model: Path
    metrics: dict[str, Any]
    candidates: list[Candidate]


def compress(
    teacher: Model,
    data: CompressData,
    *,
    budgets: Budgets,
    settings: CompressSettings,
    run: Path,
    device: str = "cpu",
    latency: LatencyModel | None = None,
    progress: Progress = silent,
) -> CompressResult:
    """Find a student within ``budgets``, give it the teacher's weights, teach it, and score both.

    Resumes like ``distill``.

    Args:
        teacher: left unchanged.
        data: frames; ``val`` is what the result is scored on, and nothing is chosen by it.
        budgets: limits on the student.
        settings: how.
        run: receives ``candidates.jsonl``, what ``optimise`` writes, ``distill/``, ``student/``, ``metrics.json``.
        device: such as ``cpu`` or ``cuda``.
        latency: predicts a student's latency; needed where that is a budget.
        progress: told how far it is.

    Raises:
        BudgetError: no student fits; says what the smallest costs.
        UsageError: ``run`` holds a run with another request.
    """
    stats = StatsTable(data.train, settings.stats_frames)
    asked = {"budgets": plain(budgets), "settings": settings.identity(), "data": data.identity()}
    predictor = None if latency is None else latency.identity
    request = {"teacher": fingerprint(teacher), **asked, "latency": predictor}
    students = find_students(teacher.spec, budgets, settings.space, stats=stats, latency=latency)
    found = students.found
    begin(run, request)
    progress(StageUpdate("search", 1, 1, note=f"{len(found)} students fit the budget"))
    work = _Compression(teacher, data, settings, run, device, progress)
    chosen, trials = work.choose(students)
    _write_candidates(run / "candidates.jsonl", found, trials)
    taught = work.teach(chosen)
    teacher_metrics = work.score_teacher()
    metrics = {
        "student": {"name": chosen.spec.name, **taught.metrics, **cost_json(chosen.cost)},
        "teacher": {"name": teacher.spec.name, **teacher_metrics, **cost_json(students.teacher)},
        "control": taught.control,
        "budget": students.limits,
    }
    if taught.cache is not None:
        metrics["teacher_cache"] = taught.cache
    model = run / "student"
    if not model.exists():
        counted = stats(chosen.spec)
        kind = "pillar_stats" if isinstance(counted, PillarStats) else "sparse_stats"
        meta = {**taught.student.meta, "made_by": "compress", kind: to_json(counted)}
        save_model(model, taught.student.module, {**meta, "choice": to_json(chosen.choice), "budget": students.limits})
    once(run / "metrics.json", lambda: metrics)
    return CompressResult(load_model(model), model, metrics, found)


def search(
    teacher: DetectorSpec, budgets: Budgets, space: Space, *, stats: StatsTable
) -> tuple[list[Candidate], dict[str, object]]:
    """All students within the budgets, best prior first, and the limits as JSON values.

    Raises:
        BudgetError: there is none.
    """
    students = find_students(teacher, budgets, space, stats=stats)
    return students.found, students.limits


@dataclass(frozen=True)
class _Compression:
    """The long steps of one ``compress``."""

    teacher: Model
    data: CompressData
    settings: CompressSettings
    run: Path
    device: str
    progress: Progress

    def choose(self, students: Students) -> tuple[Candidate, list[Trial]]:
        """The student to teach, and what was tried to find it."""
        settings = self.settings.trials()
        if settings is None:
            chosen = students.found[0]
            about = {**students.about(self.teacher.spec.name), "chosen": chosen.spec.name}
            write_search(self.run, students.found, [], about=about)
            return chosen, []
        result = optimise(
            self.teacher,
            self.data,
            students,
            settings=settings,
            distill=self.settings.distill,
            run=self.run,
            device=self.device,
            progress=self.progress,
        )
        return result.best.candidate, result.trials

    def teach(self, chosen: Candidate) -> DistillResult:
        """The full training of the chosen student."""
        return distill(
            self.teacher,
            chosen.spec,
            self.data,
            settings=self.settings.distill,
            run=self.run / "distill",
            device=self.device,
            progress=self.progress,
        )

    def score_teacher(self) -> dict[str, Any]:
        """The teacher's metrics on the same frames."""
        val = self.data.val
        if val is None:
            return {}

        def scored(done: int, total: int) -> None:
            self.progress(StageUpdate("evaluate teacher", done, total))

        module = self.teacher.module.to(self.device)
        where, limit = self.run / "teacher_evaluation", self.data.max_range_m
        return once(self.run / "teacher.json", lambda: score(module, val, where, scored, max_range_m=limit))


def _write_candidates(path: Path, found: list[Candidate], trials: list[Trial]) -> None:
    rows = candidate_rows(listed(found, trials), trials)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
