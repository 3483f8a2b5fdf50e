"""Training and scoring as every benchmark does it, so that arms differ in nothing but what is compared."""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from worlds import TRAIN, VALIDATION, world

from kd3d.compress.data import CompressData
from kd3d.compress.distill.cache import CacheSettings
from kd3d.compress.distill.objective import Semi
from kd3d.compress.inherit.apply import apply_plan
from kd3d.compress.inherit.dataflow import plan
from kd3d.compress.inherit.rules import TAYLOR
from kd3d.compress.inherit.scored import Dice, taylor
from kd3d.compress.recipe import Recipe
from kd3d.compress.recorded import CachedTeacher, check_cacheable
from kd3d.datasets.augment import Augmentation
from kd3d.datasets.base import SampleDataset
from kd3d.datasets.frames import to_frame
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.model import CenterPoint
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.errors import UsageError
from kd3d.evaluation.evaluate import evaluate
from kd3d.runs import environment
from kd3d.runs.atomic import read_json, write_json
from kd3d.spec import DetectorSpec
from kd3d.training.loader import Draws
from kd3d.training.loop import train
from kd3d.training.objective import DetectionObjective
from kd3d.training.result import TrainUpdate
from kd3d.training.settings import TrainSettings

AUGMENTATION = Augmentation(flip_x=True, flip_y=True, rotation_rad=np.pi / 4, scale=(0.95, 1.05))

RULE = TAYLOR  # as `auto` of the command line
# Shares of the steps, and peak rates. The rate is down at the end of each cycle, so the gain over the last quarter is
# that of a whole annealed cycle more: what longer training still brings, not what lowering the rate brings.
CYCLES = ((0.5625, 3e-3), (0.1875, 1e-3), (0.25, 5e-4))


@dataclass(frozen=True)
class Arm:
    """What a student is given.

    Args:
        name: in the records.
        rule: of inheritance, ``taylor`` and ``random`` among them, or ``None`` for fresh weights.
        recipe: of distillation, or ``None`` for the labels alone.
        draws: recorded augmentations per frame, the teacher's answers to which are cached where the recipe's signals
            allow; 0 draws a new one every time.
    """

    name: str
    rule: str | None = None
    recipe: Recipe | None = None
    draws: int = 0


ARMS = {arm.name: arm for arm in (Arm("control"), Arm("inherit", RULE), Arm("kd", RULE, Recipe()))}


def fit(
    teacher: Model,
    spec: DetectorSpec,
    arm: str | Arm,
    *,
    seed: int,
    steps: int,
    out: Path,
    about: Mapping[str, Any],
    device: str = "cpu",
    batch_size: int = 4,
    max_range_m: float | None = None,
    scored: int = len(CYCLES),
    frames: CompressData | None = None,
) -> None:
    """Train and score one student in one arm with one seed; what came of it stays in ``out/result.json``. Resumes.

    Args:
        teacher: for ``inherit`` and ``kd``.
        spec: of the student.
        arm: a name of ``ARMS``, or an arm of one's own: ``control`` trains from scratch on the ground truth alone,
            ``inherit`` starts from the teacher's weights, ``kd`` inherits and distils.
        seed: of weights, order and augmentation: equal in all arms.
        steps: optimiser steps of all cycles together.
        out: the run folder.
        about: added to the result.
        device: such as ``cuda``.
        batch_size: frames per step.
        max_range_m: scores count nothing farther than this; ``None`` for the official ranges.
        scored: of the last so many cycles.
        frames: to train on, also those without labels; the world ``TRAIN`` by default.
    """
    arm = ARMS[arm] if isinstance(arm, str) else arm
    if (out / "result.json").exists():
        return
    data = frames or CompressData(world(TRAIN, sweeps=spec.points.sweeps), augmentation=AUGMENTATION)
    validation = world(VALIDATION, sweeps=spec.points.sweeps)
    torch.manual_seed(seed)
    student = build(spec).to(device)
    if arm.rule is not None:
        weights = teacher.module.state_dict()
        made = plan(teacher.spec, spec, _rule(arm.rule, teacher, data.train, seed), weights)
        student.load_state_dict(apply_plan(made, student.state_dict(), weights))
    scores, times = [], []
    beside = None if arm.recipe is None else data.beside(batch_size)
    semi = Semi(0 if beside is None else len(beside.dataset), passes=steps)
    objective = (
        DetectionObjective(spec) if arm.recipe is None else arm.recipe.objective(teacher.module, spec, semi=semi)
    )
    for cycle, (share, lr) in enumerate(CYCLES):
        chosen = settings(round(share * steps), 10 * seed + cycle, lr=lr, batch_size=batch_size)
        run = out / f"cycle-{cycle}"
        result = train(
            student,
            data.train,
            settings=chosen,
            run=run,
            draws=_recorded(arm, teacher, objective, data, settings=chosen, run=run, device=device),
            objective=objective,
            augmentation=data.augmentation,
            database=data.database,
            unlabelled=beside,
            progress=watch(f"{out.name}, cycle {cycle}"),
        )
        shutil.rmtree(run / "teacher-cache", ignore_errors=True)
        times += [line["step_s"] for line in result.history if "step_s" in line]
        student, found = result.module, out / f"scores-{cycle}.json"
        if cycle < len(CYCLES) - scored:
            continue
        if not found.exists():
            write_json(found, score(student, validation, out / f"scores-{cycle}", max_range_m=max_range_m))
        scores.append(read_json(found))
    used = {"recipe": None if arm.recipe is None else repr(arm.recipe), "inherit": arm.rule, "draws": arm.draws}
    identity = {"arm": arm.name, "seed": seed, "steps": steps, "step_s": statistics.median(times), **about}
    write_json(out / "result.json", {**identity, **used, "scores": scores, "environment": environment.record()})


def _rule(name: str, teacher: Model, data: SampleDataset, seed: int) -> Any:
    """A rule of inheritance for ``plan``; ``taylor`` takes a pass over training frames, ``random`` the run's seed."""
    if name == TAYLOR:
        return taylor(teacher.module, data)
    return Dice(seed) if name == Dice().__name__ else name


def _recorded(
    arm: Arm,
    teacher: Model,
    objective: Any,
    data: CompressData,
    *,
    settings: TrainSettings,
    run: Path,
    device: str,
) -> Draws | None:
    """The recorded augmentations of a cycle; controls see as many as the arms they are compared with."""
    if not arm.draws:
        return None
    if arm.recipe is None or (run / "model").exists():
        return Draws(arm.draws)
    cached = CachedTeacher(teacher, objective, data, settings, CacheSettings(None, arm.draws))
    try:
        check_cacheable(objective, (len(data.train) + len(data.unlabelled or ())) * arm.draws)
    except UsageError as error:
        print(f"{run}: {error}", file=sys.stderr, flush=True)
        return Draws(arm.draws)
    return Draws(arm.draws, cached.fill(run, torch.device(device))[0])


def settings(steps: int, seed: int, *, lr: float, eval_every: int = 0, batch_size: int = 4) -> TrainSettings:
    """The one recipe of all benchmark runs; scored at the end, and every ``eval_every`` steps if that is not 0."""
    return TrainSettings(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        precision="bf16",
        ema_decay=0.998,
        seed=seed,
        workers=1,
        eval_every=eval_every,
        checkpoint_every=250,
        log_every=50,
    )


def score(
    module: CenterPoint, dataset: SampleDataset, out: Path, *, max_range_m: float | None = None
) -> dict[str, Any]:
    """Official metrics of ``module`` on ``dataset``, as JSON values; of a part of the range with ``max_range_m``."""
    device = str(next(module.parameters()).device)
    pipeline = TorchPipeline(Model(module.spec, module, {}), device=device)
    metrics = evaluate(
        lambda sample: pipeline(to_frame(sample)),
        dataset,
        classes=module.spec.head.classes,
        out_dir=out,
        max_range_m=max_range_m,
    )
    return metrics.to_json()


def validator(dataset: SampleDataset, out: Path) -> Callable[[Any, int], dict[str, float]]:
    """For ``train(validate=)``: mAP and NDS; the whole metrics of the last call stay in ``out``."""

    def validate(module: Any, step: int) -> dict[str, float]:
        threads = torch.get_num_threads()
        found = score(module, dataset, out / "evaluation")
        torch.set_num_threads(threads)
        return {"mAP": found["mAP"], "NDS": found["NDS"]}

    return validate


def watch(label: str) -> Callable[[TrainUpdate], None]:
    """Progress in a log file: a line every 100 steps and at every validation."""

    def update(news: TrainUpdate) -> None:
        if news.metrics or news.step % 100 == 0:
            scores = " ".join(f"{name} {value:.4f}" for name, value in (news.metrics or {}).items())
            line = f"{label} {news.step}/{news.steps} loss {news.loss:.3f} eta {news.eta_s / 60:.1f} min {scores}"
            print(line, file=sys.stderr, flush=True)

    return update
