"""Teach one given student: inherit, train with the teacher, score; and, if asked, its control."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from kd3d.compress.data import CompressData, score
from kd3d.compress.distill.cache import CacheSettings, TeacherCache
from kd3d.compress.distill.objective import DistillationObjective, Semi
from kd3d.compress.distill.teacher import TeacherSettings
from kd3d.compress.inherit.apply import apply_plan
from kd3d.compress.inherit.dataflow import plan
from kd3d.compress.inherit.plan import InheritPlan
from kd3d.compress.inherit.rules import AUTO, TAYLOR
from kd3d.compress.inherit.scored import Dice, Taylor, taylor
from kd3d.compress.recipe import Recipe
from kd3d.compress.recorded import CachedTeacher, draws_of
from kd3d.compress.stages import Progress, StageUpdate, begin, once, silent
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model, load_model, save_model
from kd3d.detectors.model import CenterPoint
from kd3d.errors import DataError
from kd3d.runs.atomic import read_json, write_json
from kd3d.spec import DetectorSpec, to_json
from kd3d.training.loader import Draws
from kd3d.training.loop import train
from kd3d.training.objective import DetectionObjective, Objective
from kd3d.training.result import TrainUpdate
from kd3d.training.settings import TrainSettings


@dataclass(frozen=True)
class DistillSettings:
    """How one student is made.

    Args:
        train: the training run.
        recipe: what the teacher teaches.
        inherit: rule by which teacher weights are taken over (``kd3d.compress.inherit.rules.NAMES``), or ``None`` for a
            fresh start. ``auto`` is ``taylor``, or ``l1`` where the recipe reads no labels.
        control: also train the same student, as long, without teacher: no distillation and no inheritance.
        cache: keeps the teacher's answers, so that it runs once per frame and recorded augmentation; ``None`` runs it
            at every step. The control then sees the same recorded augmentations.
        running: how the teacher is run.
    """

    train: TrainSettings
    recipe: Recipe = field(default_factory=Recipe)
    inherit: str | None = AUTO
    control: bool = False
    cache: CacheSettings | None = None
    running: TeacherSettings = field(default_factory=TeacherSettings)

    @property
    def rule(self) -> str | None:
        """The rule of inheritance that ``inherit`` stands for."""
        if self.inherit != AUTO:
            return self.inherit
        return "l1" if self.recipe.supervised is False else TAYLOR

    def identity(self) -> dict[str, Any]:
        """The settings that decide the result, as JSON values; a resumed run must repeat them."""
        found = {**plain(replace(self, cache=None)), "train": plain(self.train.identity())}
        del found["cache"], found["running"]
        if self.recipe.blend is not None:
            found["recipe"]["blend"] = plain(self.recipe.blend.identity())
        if self.running != TeacherSettings():  # else as runs from before the setting existed
            found["running"] = plain(self.running)
        return found if self.cache is None else {**found, "recorded_augmentations": self.cache.augmentations}


@dataclass(frozen=True)
class DistillResult:
    """A taught student.

    Args:
        student: the network, in evaluation mode.
        model: its model folder.
        metrics: on the validation frames; empty without them.
        control: metrics of the control, ``None`` if it was not asked for.
        inheritance: summary of the inheritance plan, ``None`` without one.
        cache: what the teacher cache cost and how often it answered, ``None`` without one.
    """

    student: Model
    model: Path
    metrics: dict[str, Any]
    control: dict[str, Any] | None
    inheritance: dict[str, Any] | None
    cache: dict[str, Any] | None = None


def distill(
    teacher: Model,
    student_spec: DetectorSpec,
    data: CompressData,
    *,
    settings: DistillSettings,
    run: Path,
    device: str = "cpu",
    progress: Progress = silent,
) -> DistillResult:
    """Teach one student.

    A killed run continues when it is called again with the same arguments: training from its last checkpoint, finished
    parts from their result files.

    Args:
        teacher: left unchanged.
        student_spec: of the student; may differ in width, depth, cell, range and task grouping.
        data: frames.
        settings: how.
        run: receives ``student/`` (the model), ``importance.json``, ``inherit.json``, ``metrics.json``, trainings
            ``distil/``, ``control/``.
        device: such as ``cpu`` or ``cuda``.
        progress: told how far it is.

    Raises:
        UsageError: models that cannot be joined, or ``run`` holds a run with another request.
        DataError, OutputError, NonFiniteError: as ``kd3d.training.loop.train``.
    """
    data.beside(settings.train.batch_size)
    asked = {"teacher": fingerprint(teacher), "student": to_json(student_spec), "settings": settings.identity()}
    _check_direction(settings)
    begin(run, {**asked, "data": data.identity()})
    settings = _directed(teacher, student_spec, settings, data=data, run=run, device=device, progress=progress)
    inheritance = None
    known = measured(teacher, settings, data=data, device=device, run=run)
    module, made = untaught(teacher, student_spec, settings, data=data, device=device, known=known)
    if made is not None:
        inheritance = once(run / "inherit.json", made.to_json)
    semi = _semi(data, settings.train)
    objective = settings.recipe.objective(teacher.module, student_spec, running=settings.running, semi=semi)
    fit = _Fit(data, settings, progress)
    metrics = once(run / "distil" / "result.json", lambda: fit.taught(module, run, objective, teacher))
    control = None
    if settings.control:
        fresh = _student(student_spec, settings.train.seed, device)
        alone = DetectionObjective(student_spec)
        control = once(run / "control" / "result.json", lambda: fit(fresh, run / "control", alone, stage="control"))
    model = run / "student"
    if not model.exists():
        meta = {"parent": teacher.spec.name, "made_by": "distill", "metrics": metrics, "settings": plain(settings)}
        save_model(model, load_model(run / "distil" / "model").module, meta)
    once(run / "metrics.json", lambda: {"student": metrics, "control": control})
    kept = run / "teacher_cache.json"
    return DistillResult(
        load_model(model), model, metrics, control, inheritance, read_json(kept) if kept.exists() else None
    )


def _check_direction(settings: DistillSettings) -> None:
    from kd3d.compress.direction import check_searchable  # which trains by what is here

    if settings.recipe.blend is not None:
        check_searchable(settings.recipe.blend, supervised=settings.recipe.supervised is not False)


def _directed(
    teacher: Model,
    spec: DetectorSpec,
    settings: DistillSettings,
    *,
    data: CompressData,
    run: Path,
    device: str,
    progress: Progress,
) -> DistillSettings:
    """The settings, with the blend's direction searched if they ask for that."""
    if settings.recipe.blend is None or settings.recipe.blend.direction == "fixed":
        return settings
    from kd3d.compress.direction import settled, trials_of

    trials = trials_of(teacher, spec, data=data, run=run, device=device, progress=progress)
    return settled(settings, len(data.train), trials)


@dataclass(frozen=True)
class _Fit:
    """Train a network and score it; returns the metrics."""

    data: CompressData
    settings: DistillSettings
    progress: Progress

    def taught(
        self, module: CenterPoint, run: Path, objective: DistillationObjective, teacher: Model
    ) -> dict[str, Any]:
        """With the teacher, from its cache if there is to be one."""
        settings = self.settings
        if settings.cache is None:
            return self(module, run / "distil", objective, stage="distil")
        cached = CachedTeacher(teacher, objective, self.data, settings.train, settings.cache)
        cache, filled = cached.fill(run, next(module.parameters()).device, self.progress)
        metrics = self(module, run / "distil", objective, stage="distil", recordings=cache)
        cached.report(run, cache, filled)
        return metrics

    def __call__(
        self,
        module: CenterPoint,
        run: Path,
        objective: Objective,
        *,
        stage: str,
        recordings: TeacherCache | None = None,
    ) -> dict[str, Any]:
        cache = self.settings.cache
        draws = None if cache is None else Draws(draws_of(self.data, cache), recordings)

        def report(update: TrainUpdate) -> None:
            self.progress(StageUpdate(stage, update.step, update.steps, update.eta_s))

        result = train(
            module,
            self.data.train,
            settings=self.settings.train,
            run=run,
            objective=objective,
            augmentation=self.data.augmentation,
            database=self.data.database,
            draws=draws,
            unlabelled=self.data.beside(self.settings.train.batch_size) if stage == "distil" else None,
            progress=report,
        )
        if self.data.val is None:
            return {}

        def scored(done: int, total: int) -> None:
            self.progress(StageUpdate(f"evaluate {stage}", done, total))

        return score(result.module, self.data.val, run / "evaluation", scored, max_range_m=self.data.max_range_m)


def measured(
    teacher: Model, settings: DistillSettings, *, data: CompressData, device: str, run: Path | None = None
) -> Taylor | None:
    """The importance of the teacher's channels, if ``settings`` inherits by it: a pass over some training frames.

    Args:
        teacher: whose channels.
        settings: with the rule.
        data: its training frames.
        device: where the pass is made.
        run: keeps it in ``importance.json``, so that a run that goes on does not measure it again.

    Raises:
        DataError, NonFiniteError: as ``taylor``.
    """
    if settings.rule != TAYLOR:
        return None
    about = {"teacher": fingerprint(teacher), "data": plain(data.identity())}
    path = None if run is None else run / "importance.json"
    found = None if path is None else _kept_importance(path, about)
    if found is None:
        found = taylor(teacher.module.to(device), data.train)
        if path is not None:
            values = {name: scores.tolist() for name, scores in found.importance.items()}
            write_json(path, {**about, "importance": values})
    return found


def _kept_importance(path: Path, about: dict[str, Any]) -> Taylor | None:
    """What an earlier run measured of this teacher on these frames; ``None`` if it did not, or the file is damaged."""
    try:
        kept = read_json(path)
        values = kept.pop("importance")
        if kept != about:
            return None
        return Taylor({name: torch.tensor(scores, dtype=torch.float64) for name, scores in values.items()})
    except (DataError, AttributeError, LookupError, TypeError, ValueError):
        return None


def untaught(
    teacher: Model,
    spec: DetectorSpec,
    settings: DistillSettings,
    *,
    data: CompressData,
    device: str,
    known: Taylor | None = None,
) -> tuple[CenterPoint, InheritPlan | None]:
    """The student before its first step, with what it inherits, and the plan of that.

    Args:
        teacher: left unchanged.
        spec: of the student.
        settings: its seed and rule.
        data: frames for a rule that needs them.
        device: of the student.
        known: what ``measured`` returns, where that is known already.
    """
    module = _student(spec, settings.train.seed, device)
    if settings.rule is None:
        return module, None
    rule: Any = settings.rule
    if rule == TAYLOR:
        rule = known or measured(teacher, settings, data=data, device=device)
    elif rule == Dice().__name__:
        rule = Dice(settings.train.seed)
    made = plan(teacher.spec, spec, rule, teacher.module.state_dict())
    module.load_state_dict(apply_plan(made, module.state_dict(), teacher.module.state_dict()))
    return module, made


def _semi(data: CompressData, train: TrainSettings) -> Semi:
    """What the objective must know of the frames without labels."""
    beside = data.beside(train.batch_size)
    if beside is None:
        return Semi(passes=train.total_steps(len(data.train)) * train.accumulate)
    steps = train.total_steps(len(data.train), unlabelled=beside.per_batch)
    return Semi(len(beside.dataset), passes=steps * train.accumulate)


def _student(spec: DetectorSpec, seed: int, device: str) -> CenterPoint:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(spec).to(device)


def plain(value: Any) -> Any:
    """Settings as JSON values; mappings and paths too."""
    found = to_json(value)
    if isinstance(found, dict):
        return {str(key): plain(item) for key, item in found.items()}
    if isinstance(found, list):
        return [plain(item) for item in found]
    return str(found) if isinstance(found, Path) else found


def fingerprint(model: Model) -> dict[str, Any]:
    """The teacher as a resumed run must find it again: its name and a sum over its weights."""
    total = sum(float(tensor.double().abs().sum()) for tensor in model.module.state_dict().values())
    return {"name": model.spec.name, "weights": f"{total:.6e}"}
