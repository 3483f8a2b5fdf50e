"""The students that a search chooses from, with the limits they meet. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kd3d.compress.search.budget import Budgets
from kd3d.compress.search.cost import Cost, Stats, cost
from kd3d.compress.search.grid import Candidate, grid_search
from kd3d.compress.search.latency import LatencyModel
from kd3d.compress.search.record import cost_json
from kd3d.compress.search.space import Space
from kd3d.spec import DetectorSpec


@dataclass(frozen=True)
class Students:
    """What is searched, and under which limits.

    Args:
        found: students that fit, best prior first.
        budgets: as asked for.
        limits: as JSON values.
        space: where they are from.
        teacher: its cost on the same data.
        teacher_latency_ms: predicted, or ``None``.
    """

    found: list[Candidate]
    budgets: Budgets
    limits: dict[str, object]
    space: Space
    teacher: Cost
    teacher_latency_ms: float | None = None

    def about(self, teacher: str) -> dict[str, Any]:
        """The part of ``search.json`` that is known before anything is trained."""
        scores = {"mAP": None, "latency_ms": self.teacher_latency_ms}
        return {
            "teacher": {"name": teacher, **cost_json(self.teacher), **scores},
            "budget": self.limits,
            "convention": self.budgets.convention,
            "chosen": None,
            "strategy": None,
            "seed": None,
            "steps_spent": 0,
        }


def find_students(
    teacher: DetectorSpec,
    budgets: Budgets,
    space: Space,
    *,
    stats: Callable[[DetectorSpec], Stats],
    latency: LatencyModel | None = None,
) -> Students:
    """All students of ``space`` within ``budgets``.

    Args:
        teacher: whose students they are.
        budgets: all must hold.
        space: what may vary.
        stats: statistics of the data.
        latency: predicts every student; needed where ``budgets`` limit latency.

    Raises:
        BudgetError: there is none; says what the smallest costs.
    """
    found = grid_search(teacher, space, budgets, stats=stats, latency=latency)
    price = cost(teacher, stats(teacher))
    teacher_ms = None if latency is None else latency.predict(teacher)
    return Students(found, budgets, budgets.limits(price, teacher_ms).to_json(), space, price, teacher_ms)
