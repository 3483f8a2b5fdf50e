"""How a search is run: strategy, trials, rungs. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kd3d.errors import UsageError

Strategy = Literal["grid", "random", "nsga2", "tpe"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
DEFAULT_RUNGS = (100, 200, 400)


@dataclass(frozen=True)
class SearchSettings:
    """Settings of ``optimise``.

    Args:
        strategy: ``grid`` tries the best by prior, ``random`` draws evenly, ``tpe`` and ``nsga2`` learn from the
            scores: ``nsga2`` the whole front of accuracy against cost, ``tpe`` the most accurate student.
        trials: students that are trained at least to the first rung.
        seed: of what the strategy draws.
        rungs: optimiser steps, rising; after each but the last only the best go on, from their checkpoint.
        eta: one in ``eta`` goes on.
        storage: where the study is kept: see ``kd3d.compress.search.storage.open_study``; ``None`` keeps it in the run.
        study_name: of the study in the storage.
        workers: local processes.
        stale_s: seconds after which a worker on another machine that gives no sign of life counts as lost.
    """

    strategy: Strategy = "tpe"
    trials: int = 24
    seed: int = 0
    rungs: tuple[int, ...] = DEFAULT_RUNGS
    eta: float = 2.0
    storage: str | None = None
    study_name: str = "kd3d"
    workers: int = 1
    stale_s: float = 120.0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UsageError(f"there is no search strategy {self.strategy!r}. Use {', '.join(STRATEGIES)}.")
        for name in ("trials", "workers"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}.")
        rising = all(low < high for low, high in zip(self.rungs, self.rungs[1:], strict=False))
        if not self.rungs or self.rungs[0] < 1 or not rising:
            raise UsageError(f"rungs must be rising numbers of steps, such as 100,200,400; not {_listed(self.rungs)}.")
        if not (self.eta > 1 and math.isfinite(self.eta)):
            raise UsageError(f"eta must be above 1 (one in eta goes on to the next rung), not {self.eta:g}.")
        if not self.stale_s > 0:
            raise UsageError(f"stale_s must be positive, not {self.stale_s:g}.")

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON values; whoever joins or resumes the study must repeat it."""
        kept = ("strategy", "trials", "seed", "rungs", "eta")
        return {name: list(value) if name == "rungs" else value for name in kept for value in [getattr(self, name)]}

    def survivors(self, students: int) -> list[int]:
        """How many students are trained to each rung, if ``students`` begin and none fails."""
        counts = [students]
        for _ in self.rungs[1:]:
            counts.append(max(1, math.floor(counts[-1] / self.eta)))
        return counts

    def steps_to(self, rung: int) -> int:
        """Steps from the rung before to ``rung``."""
        return self.rungs[rung] - (self.rungs[rung - 1] if rung else 0)

    def planned_steps(self, students: int) -> int:
        """Optimiser steps of the whole search."""
        return sum(count * self.steps_to(rung) for rung, count in enumerate(self.survivors(students)))


def parse_rungs(text: str) -> tuple[int, ...]:
    """Read ``100,200,400``.

    Raises:
        UsageError: not whole numbers with commas.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"the rungs {text!r} are not understood. Write steps with commas: 100,200,400.") from None


def _listed(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values)) or "nothing"
