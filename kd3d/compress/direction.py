"""How far a blended step may turn towards the teacher: tried in short trainings, for ``direction="search"``.

The one degree of freedom that gradient blending leaves to its user is bounded, so three values stand for it. They are
compared on training scenes that are held out, as the students of a search are, and never on the validation split; the
run with the value found then begins anew, on all frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kd3d.compress.data import CompressData
from kd3d.compress.distill.coefs import BlendSettings
from kd3d.compress.distilling import DistillSettings
from kd3d.compress.search.holdout import hold_out
from kd3d.compress.search.trial import Student, TrialRunner, brief
from kd3d.compress.stages import Progress, StageUpdate, once
from kd3d.detectors.checkpoint import Model
from kd3d.errors import UsageError
from kd3d.spec import DetectorSpec
from kd3d.training.result import TrainUpdate

LIMITS = (30.0, 45.0, 60.0)  # degrees
SHARES = (0.075, 0.15)  # of the run's steps: all three are trained to the first, the better two to the second


@dataclass(frozen=True)
class Named:
    """The one student that is tried."""

    spec: DetectorSpec


@dataclass(frozen=True)
class Trials:
    """Where the short trainings are run; ``runner`` makes one from its settings and folder."""

    runner: Callable[[DistillSettings, Path], TrialRunner]
    student: Student
    run: Path
    progress: Progress

    def score(self, settings: DistillSettings, limit: float, steps: int) -> float:
        """MAP (0..1) on held-out frames after ``steps`` with one limit; goes on from what is there."""
        stage = f"direction {limit:g}"

        def told(update: TrainUpdate) -> None:
            self.progress(StageUpdate(stage, update.step, steps, update.eta_s))

        runner = self.runner(with_limit(settings, limit), self.run / "direction" / f"{limit:g}")
        return float(runner(self.student, steps, told)["mAP"])


def settled(settings: DistillSettings, frames: int, trials: Trials) -> DistillSettings:
    """The settings with the limit of the angle that learnt most.

    Successive halving over ``LIMITS`` within the first 15 % of the run's own schedule: 0.375 runs in all. Of equal
    scores the one nearest to 45 degrees is taken.

    Args:
        settings: of the run.
        frames: training frames of the run.
        trials: the short trainings.
    """
    total = settings.train.total_steps(frames)
    first, last = (max(1, math.ceil(share * total)) for share in SHARES)
    short = replace(brief(settings, total, first), control=False)

    def find() -> dict[str, Any]:
        scores: dict[str, dict[str, float]] = {}
        limits = list(LIMITS)
        for steps, kept in ((first, 2), (last, 1)):
            found = {limit: trials.score(short, limit, steps) for limit in limits}
            scores[str(steps)] = {f"{limit:g}": score for limit, score in found.items()}
            limits = sorted(found, key=lambda limit: (-found[limit], abs(limit - 45.0)))[:kept]
        return {"psi_max_deg": limits[0], "mAP": scores}

    found = once(trials.run / "direction.json", find)
    note = f"up to {found['psi_max_deg']:g} degrees, of {', '.join(f'{limit:g}' for limit in LIMITS)}"
    trials.progress(StageUpdate("direction", 1, 1, note=note))
    return with_limit(settings, found["psi_max_deg"])


def with_limit(settings: DistillSettings, limit: float) -> DistillSettings:
    """The settings with a fixed limit; ``rho`` is raised where orthogonal gradients would never reach it."""
    blend = settings.recipe.blend
    assert blend is not None
    fixed = replace(blend, direction="fixed", psi_max_deg=limit, rho=max(blend.rho, limit / 90))
    return replace(settings, recipe=replace(settings.recipe, blend=fixed))


def check_searchable(blend: BlendSettings, *, supervised: bool) -> None:
    """Refuse a search where there is no task's gradient to turn from.

    Raises:
        UsageError: the recipe reads no labels.
    """
    if blend.direction == "search" and not supervised:
        raise UsageError(
            "without labels there is no gradient of the task to turn from, so no direction can be searched. Set the "
            "blend's direction to fixed."
        )


def trials_of(
    teacher: Model, student: DetectorSpec, *, data: CompressData, run: Path, device: str, progress: Progress
) -> Trials:
    """The short trainings of one student on the training scenes that are not held out."""
    held = hold_out(data)
    progress(StageUpdate("direction", 0, 1, note=held.note))

    def runner(settings: DistillSettings, folder: Path) -> TrialRunner:
        return TrialRunner(teacher, held.data, settings, folder, device)

    return Trials(runner, Named(student), run, progress)
