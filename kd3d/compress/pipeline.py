"""The verbs: ``distill`` teaches one given student; ``compress`` finds, fills, teaches and scores one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kd3d.compress.data import CompressData, score
from kd3d.compress.distilling import DistillResult, DistillSettings, distill, fingerprint, plain
from kd3d.compress.recipe import Recipe
from kd3d.compress.search.budget import Budgets
from kd3d.compress.search.cost import Cost, StatsTable, cost
from kd3d.compress.search.grid import Candidate, grid_search, pareto, shortlist
from kd3d.compress.search.space import Space
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
    "StageUpdate",
    "candidate_rows",
    "compress",
    "distill",
    "search",
]
LISTED = 200  # candidates kept in candidates.jsonl, best first


@dataclass(frozen=True)
class CompressSettings:
    """How a student is found and made.

    Args:
        distill: how the final student is taught.
        space: where it is looked for.
        candidates: students that get a short training before one is chosen; 1 takes the best by prior without.
        short_steps: optimiser steps of that training.
        stats_frames: frames on which pillars are counted.
    """

    distill: DistillSettings
    space: Space = field(default_factory=Space)
    candidates: int = 3
    short_steps: int = 200
    stats_frames: int = 20

    def __post_init__(self) -> None:
        for name in ("candidates", "short_steps", "stats_frames"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}.")


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
    progress: Progress = silent,
) -> CompressResult:
    """Find a student within ``budgets``, give it the teacher's weights, teach it, and score both.

    Resumes like ``distill``.

    Args:
        teacher: left unchanged.
        data: frames; ``val`` is needed where several candidates are compared.
        budgets: limits on the student.
        settings: how.
        run: receives ``candidates.jsonl``, ``search/`` (short trainings), ``distill/``, ``student/``, ``metrics.json``.
        device: such as ``cpu`` or ``cuda``.
        progress: told how far it is.

    Raises:
        BudgetError: no student fits; says what the smallest costs.
        UsageError: several candidates without validation frames, or ``run`` holds a run with another request.
    """
    if settings.candidates > 1 and data.val is None:
        raise UsageError(
            f"{settings.candidates} candidates can be compared only on validation frames. Give them, or ask for 1."
        )
    stats = StatsTable(data.train, settings.stats_frames)
    asked = {**plain(settings), "distill": settings.distill.identity()}
    request = {"teacher": fingerprint(teacher), "budgets": plain(budgets), "settings": asked, "data": data.identity()}
    found, limits = search(teacher.spec, budgets, settings.space, stats=stats)
    begin(run, request)
    progress(StageUpdate("search", 1, 1, note=f"{len(found)} students fit the budget"))
    work = _Compression(teacher, data, settings, run, device, progress)
    chosen, scores = work.choose(found)
    _write_candidates(run / "candidates.jsonl", found, scores)
    taught = work.teach(chosen)
    teacher_metrics = work.score_teacher()
    price = cost(teacher.spec, stats(teacher.spec))
    metrics = {
        "student": {"name": chosen.spec.name, **taught.metrics, **_cost_json(chosen.cost)},
        "teacher": {"name": teacher.spec.name, **teacher_metrics, **_cost_json(price)},
        "control": taught.control,
        "budget": limits,
    }
    model = run / "student"
    if not model.exists():
        meta = {**taught.student.meta, "made_by": "compress", "pillar_stats": to_json(stats(chosen.spec))}
        save_model(model, taught.student.module, {**meta, "choice": to_json(chosen.choice), "budget": limits})
    once(run / "metrics.json", lambda: metrics)
    return CompressResult(load_model(model), model, metrics, found)


def search(
    teacher: DetectorSpec, budgets: Budgets, space: Space, *, stats: StatsTable
) -> tuple[list[Candidate], dict[str, object]]:
    """All students within the budgets, best prior first, and the limits as JSON values.

    Raises:
        BudgetError: there is none.
    """
    found = grid_search(teacher, space, budgets, stats=stats)
    return found, budgets.limits(cost(teacher, stats(teacher))).to_json()


@dataclass(frozen=True)
class _Compression:
    """The long steps of one ``compress``."""

    teacher: Model
    data: CompressData
    settings: CompressSettings
    run: Path
    device: str
    progress: Progress

    def choose(self, found: list[Candidate]) -> tuple[Candidate, dict[str, float]]:
        """The candidate that is best after a short training, and the scores by name."""
        tried = shortlist(found, self.settings.candidates)
        if len(tried) == 1:
            return tried[0], {}
        scores = {}
        for index, candidate in enumerate(tried):
            scores[candidate.spec.name] = self._try(candidate, f"candidate {index + 1}/{len(tried)}")
        return max(tried, key=lambda candidate: scores[candidate.spec.name]), scores

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
        return once(self.run / "teacher.json", lambda: score(module, val, self.run / "teacher_evaluation", scored))

    def _try(self, candidate: Candidate, label: str) -> float:
        full = self.settings.distill
        brief = replace(full.train, steps=self.settings.short_steps, epochs=None, eval_every=0)

        def relabel(update: StageUpdate) -> None:
            self.progress(replace(update, stage=f"{label}: {update.stage}"))

        result = distill(
            self.teacher,
            candidate.spec,
            self.data,
            settings=replace(full, train=brief, control=False),
            run=self.run / "search" / candidate.spec.name,
            device=self.device,
            progress=relabel,
        )
        value = float(result.metrics["mAP"] or 0.0)
        self.progress(
            StageUpdate(label, 1, 1, note=f"{candidate.spec.name}: mAP {value:.4f} after {brief.steps} steps")
        )
        return value


def candidate_rows(found: list[Candidate], scores: dict[str, float] | None = None) -> list[dict[str, Any]]:
    """One JSON object per candidate: how it differs, what it costs, its prior, its score if it was tried."""
    front = {candidate.spec.name for candidate in pareto(found, lambda candidate: candidate.prior)}
    return [
        {
            "name": candidate.spec.name,
            "choice": to_json(candidate.choice),
            **_cost_json(candidate.cost),
            "prior": round(candidate.prior, 6),
            "score": (scores or {}).get(candidate.spec.name),
            "pareto": candidate.spec.name in front,
        }
        for candidate in found
    ]


def _write_candidates(path: Path, found: list[Candidate], scores: dict[str, float]) -> None:
    listed = [item for place, item in enumerate(found) if place < LISTED or item.spec.name in scores]
    write_text(path, "".join(json.dumps(row) + "\n" for row in candidate_rows(listed, scores)))


def _cost_json(price: Cost) -> dict[str, int]:
    return {"params": price.params, "macs": price.macs, "macs_thop": price.macs_thop, "acts": price.acts}
