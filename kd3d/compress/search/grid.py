"""The grid of a space under budgets, in the order in which to try the students."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import pstdev

from kd3d.compress.search.budget import Budgets, Limits
from kd3d.compress.search.cost import Cost, Stats, cost
from kd3d.compress.search.latency import LatencyModel
from kd3d.compress.search.space import Choice, Space, scaled
from kd3d.errors import BudgetError, UsageError
from kd3d.spec import CenterHeadSpec, DetectorSpec, VoxelEncoderSpec

# Weights of the prior, from short trainings on held-out scenes of the generated world (docs/log.md); only the order in
# which students are tried depends on them.
BALANCE_WEIGHT = 0.25  # per octave of spread among the four widths
DEPTH_WEIGHT = 0.5  # for leaving out all further layers: an inherited network suffers more from a missing layer
CELL_WEIGHT = 0.25  # per octave of cell size


@dataclass(frozen=True)
class Candidate:
    """A student within the budgets.

    Args:
        spec: the student.
        choice: how it differs from the teacher.
        cost: on the data's statistics.
        prior: what it is ordered by before anything is trained; higher is tried first.
        latency_ms: predicted for the network; ``None`` where there is no latency table.
    """

    spec: DetectorSpec
    choice: Choice
    cost: Cost
    prior: float
    latency_ms: float | None = None


def grid_search(
    teacher: DetectorSpec,
    space: Space,
    budgets: Budgets,
    *,
    stats: Callable[[DetectorSpec], Stats],
    latency: LatencyModel | None = None,
) -> list[Candidate]:
    """All students of ``space`` within ``budgets``, best prior first; deterministic.

    The prior is plain on purpose: the share of the tightest budget that is used, less a penalty for uneven widths
    (a head of several tasks counts as even where it is narrower by the root of their number), for missing layers and
    for larger cells. It only says which students are worth a short training; that decides.

    Args:
        teacher: whose students they are; percentages are of its cost on the same data.
        space: what may vary.
        budgets: all must hold.
        stats: statistics of the data for a specification (a ``StatsTable``).
        latency: predicts every student; needed where ``budgets`` limit latency.

    Raises:
        BudgetError: no student fits; says what the smallest costs, and how long the fastest takes.
        UsageError: latency is limited, but there is no ``latency``; or no cell size tiles the range.
        DataError: ``latency`` lacks blocks of the space.
    """
    limits = budgets.limits(cost(teacher, stats(teacher)), None if latency is None else latency.predict(teacher))
    found: dict[object, Candidate] = {}
    smallest: dict[str, Cost] = {}
    fastest = math.inf
    for choice in space.choices(teacher):
        spec = scaled(teacher, choice, multiple=space.multiple)
        price = cost(spec, stats(spec))
        for name, value in (("flops", budgets.flops_of), ("params", _params)):
            if name not in smallest or value(price) < value(smallest[name]):
                smallest[name] = price
        taken = None if latency is None else latency.predict(spec)
        fastest = fastest if taken is None else min(fastest, taken)
        if limits.fits(price, taken):
            promise = prior(teacher, choice, price, limits=limits, latency_ms=taken)
            candidate = Candidate(spec, choice, price, promise, taken)
            known = found.get(_shape(spec))  # rounding gives the same student under several choices
            if known is None or candidate.prior > known.prior:
                found[_shape(spec)] = candidate
    if not smallest:
        raise UsageError(
            f"the search space is empty: cells of {', '.join(f'{cell:g}' for cell in space.cell)} times "
            f"{teacher.grid.cell_m:g} m do not tile the range in multiples of the backbone's stride "
            f"{teacher.encoder.stride * teacher.backbone.total_stride}. Add 1 to the cell sizes."
        )
    if not found:
        raise BudgetError(_infeasible(limits, smallest, fastest))
    return sorted(found.values(), key=lambda candidate: (-candidate.prior, candidate.cost.macs, candidate.spec.name))


def prior(
    teacher: DetectorSpec, choice: Choice, price: Cost, *, limits: Limits, latency_ms: float | None = None
) -> float:
    """How promising a student looks untrained; see ``grid_search``."""
    widths = [choice.encoder, choice.backbone, choice.neck]
    if isinstance(teacher.head, CenterHeadSpec):
        # Branches that stand once per task cost so many times more for what they do: with returns that diminish like
        # the logarithm of a width, MACs are worth the same everywhere where the head is narrower by the root of that.
        widths.append(choice.head * math.sqrt(len(teacher.head.tasks)))
    spread = pstdev([math.log2(width) for width in widths])
    deep = teacher.encoder.blocks if isinstance(teacher.encoder, VoxelEncoderSpec) else ()
    full = sum(teacher.backbone.layers) + sum(deep)
    kept = sum(choice.layers or teacher.backbone.layers) + sum(choice.blocks or deep)
    missing = 1 - kept / full if full else 0.0
    coarser, used = math.log2(choice.cell), max(limits.uses(price, latency_ms))
    return used - BALANCE_WEIGHT * spread - DEPTH_WEIGHT * missing - CELL_WEIGHT * coarser


def shortlist(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """``count`` candidates to train shortly: the best of every cell size first, then the second best, and so on.

    The prior cannot compare resolutions with widths (SparseKD finds either better, depending on the
    detector), so each resolution gets its turn.
    """
    turns: dict[float, int] = {}
    order = []
    for place, candidate in enumerate(candidates):
        turn = turns.get(candidate.choice.cell, 0)
        turns[candidate.choice.cell] = turn + 1
        order.append((turn, place, candidate))
    return [candidate for _, _, candidate in sorted(order, key=lambda item: item[:2])[:count]]


def pareto(candidates: Sequence[Candidate], score: Callable[[Candidate], float]) -> list[Candidate]:
    """Candidates that no other beats in both MACs and ``score``, cheapest first."""
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda item: (item.cost.macs, -score(item))):
        if not front or score(candidate) > score(front[-1]):
            front.append(candidate)
    return front


def _params(price: Cost) -> int:
    return price.params


def _shape(spec: DetectorSpec) -> object:
    return (spec.grid, spec.encoder, spec.backbone, spec.head)


def _infeasible(limits: Limits, smallest: dict[str, Cost], fastest_ms: float) -> str:
    budgets = limits.budgets
    asked = []
    if budgets.flops is not None and limits.flops is not None:
        asked.append(f"{budgets.flops.text} of MACs ({limits.flops / 1e9:.3g} G, {budgets.convention})")
    if budgets.params is not None and limits.params is not None:
        asked.append(f"{budgets.params.text} of parameters ({limits.params / 1e6:.3g} M)")
    if budgets.latency_ms is not None and limits.latency_ms is not None:
        asked.append(f"{budgets.latency_ms.text} of latency ({limits.latency_ms:.3g} ms)")
    (flops, flops_params), (params_flops, params) = (
        (budgets.flops_of(price) / 1e9, price.params / 1e6) for price in (smallest["flops"], smallest["params"])
    )
    fastest = f", the fastest a predicted latency of {fastest_ms:.3g} ms" if math.isfinite(fastest_ms) else ""
    return (
        f"no student meets the budget of {' and '.join(asked)}: the cheapest has {flops:.3g} GMAC "
        f"({budgets.convention}) with {flops_params:.3g} M parameters, the smallest {params:.3g} M "
        f"parameters with {params_flops:.3g} GMAC{fastest}. Raise the budget, or add smaller widths or larger "
        "cells to the search space."
    )
