"""Which student to try next: strategies over the students that fit, on Optuna's samplers.

What a sampler proposes is moved to the nearest student that fits the budget and was not tried, before anything is
trained; the study records the student itself, so the sampler learns from what was really trained.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any

from kd3d.compress.search.grid import Candidate, shortlist
from kd3d.compress.search.halving import Standing
from kd3d.compress.search.settings import SearchSettings
from kd3d.optional import require

Params = dict[str, int]
_STEP = 100_003  # seeds of successive trials, a prime apart


class Sampler:
    """See the module.

    Args:
        found: the students that fit, best prior first.
        settings: strategy, seed and number of trials.
        directions: ``maximize`` or ``minimize`` per objective.
    """

    def __init__(self, found: Sequence[Candidate], settings: SearchSettings, directions: list[str]) -> None:
        self.found, self.settings, self.directions = list(found), settings, directions
        self.total = min(settings.trials, len(found))
        self.axes = _axes(found)
        self._params = {candidate.spec.name: self._place(candidate) for candidate in found}

    def params(self, name: str) -> Params:
        """The place of a student on each axis that has more than one value."""
        return self._params[name]

    def propose(self, students: Sequence[Standing]) -> tuple[Candidate, dict[str, Any]]:
        """The next student to begin, and what the sampler wants to find with it later.

        The same for the same ``students``, in any process.
        """
        tried = {student.name for student in students}
        if self.settings.strategy == "grid":
            return self._first(shortlist(self.found, len(self.found)), tried), {}
        if self.settings.strategy == "random":
            shuffled = random.Random(self.settings.seed).sample(self.found, len(self.found))
            return self._first(shuffled, tried), {}
        asked, attrs = self._ask(students)
        if len(students) < (self._quarter if self.settings.strategy == "tpe" else 1):
            return self._first(self.found, tried), attrs  # begin where the prior points
        return self._nearest(asked, tried), attrs

    def _first(self, order: Sequence[Candidate], tried: set[str]) -> Candidate:
        return next(candidate for candidate in order if candidate.spec.name not in tried)

    def _nearest(self, asked: Params, tried: set[str]) -> Candidate:
        """The untried student with the fewest steps from ``asked``, axes weighed alike; of equals the best prior."""

        def distance(candidate: Candidate) -> float:
            at = self._params[candidate.spec.name]
            return sum(abs(at[axis] - asked[axis]) / (len(values) - 1) for axis, values in self.axes.items())

        return min((c for c in self.found if c.spec.name not in tried), key=distance)

    def _ask(self, students: Sequence[Standing]) -> tuple[Params, dict[str, Any]]:
        """Let Optuna's sampler see the students at the first rung, where all scores are comparable, and propose."""
        optuna = require("optuna", extra="search")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(directions=self.directions, sampler=self._sampler(len(students)))
            study.add_trials([self._seen(student) for student in students])
            trial = study.ask()
            asked = {axis: trial.suggest_int(axis, 0, len(values) - 1) for axis, values in self.axes.items()}
        return asked, dict(study.get_trials(deepcopy=False)[-1].system_attrs)

    @property
    def _quarter(self) -> int:
        """Of the trials: those from which TPE has nothing yet to learn, or a generation of NSGA-II."""
        return max(4, self.total // 4)

    def _sampler(self, index: int) -> Any:
        samplers = require("optuna.samplers", extra="search")
        seed = (self.settings.seed * _STEP + index) % 2**32
        if self.settings.strategy == "nsga2":
            return samplers.NSGAIISampler(population_size=min(50, self._quarter), seed=seed)
        startup = min(10, self._quarter)
        return samplers.TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)

    def _seen(self, student: Standing) -> Any:
        """A student as the sampler sees it: its first result, running until there is one."""
        optuna = require("optuna", extra="search")
        values = student.values.get(0)
        state = "COMPLETE" if values else "FAIL" if student.failed else "RUNNING"
        limits = {axis: optuna.distributions.IntDistribution(0, len(at) - 1) for axis, at in self.axes.items()}
        return optuna.create_trial(
            state=optuna.trial.TrialState[state],
            values=None if values is None else list(values),
            params=self._params[student.name],
            distributions=limits,
            system_attrs=student.jobs[0].attrs.get("sampler", {}),
        )

    def _place(self, candidate: Candidate) -> Params:
        values = _values(candidate)
        return {axis: known.index(values[axis]) for axis, known in self.axes.items()}


def _axes(found: Sequence[Candidate]) -> dict[str, list[float]]:
    """The values that occur on each axis, rising; axes with a single one are left out."""
    values: dict[str, set[float]] = {}
    for candidate in found:
        for axis, value in _values(candidate).items():
            values.setdefault(axis, set()).add(value)
    return {axis: sorted(several) for axis, several in values.items() if len(several) > 1}


def _values(candidate: Candidate) -> dict[str, float]:
    choice = candidate.choice
    widths = {part: getattr(choice, part) for part in ("encoder", "backbone", "neck", "head")}
    depths = {f"layers{level}": float(layers) for level, layers in enumerate(choice.layers)}
    return {**widths, **depths, "cell": choice.cell}
