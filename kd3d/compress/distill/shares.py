"""From dot products to the weight of every gradient, with all special cases."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kd3d.compress.distill.coefs import BlendSettings, Geometry, Turn, coefs, smoothed_coefs

Table = Mapping[str, Mapping[str, float]]
"""Dot products by name of both gradients."""


@dataclass
class Shares:
    """Weights of one step.

    Args:
        task: of the task's gradient where both meet.
        weights: of each signal's gradient there; empty leaves the task's gradient untouched.
        alone: of each signal's gradient where only the teacher is heard (adapters).
        length: of the task's gradient, ``None`` if there is none to refer to.
        turn: angles; ``None`` where nothing was blended.
        info: numbers for the log.
        back_off: whether the loss scale must be lowered.
        average: of the geometry up to this step, if it is smoothed.
    """

    task: float = 1.0
    weights: dict[str, float] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)
    length: float | None = None
    turn: Turn | None = None
    info: dict[str, float] = field(default_factory=dict)
    back_off: bool = False
    average: Geometry | None = None


def weigh(
    table: Table,
    dropped: Collection[str],
    settings: BlendSettings,
    *,
    warm: float,
    reference: float,
    task: str,
    before: Geometry | None = None,
) -> Shares:
    """Weights of one step.

    The signals' gradients are first made unit vectors and added, so that each has the same say; the sum is blended with
    the task's gradient by ``coefs``.

    Args:
        table: dot products, of ``task`` too unless the step has no task.
        dropped: signals whose gradients are not finite.
        settings: of the blend.
        warm: 0 to 1.
        reference: usual length of the task's gradient, for a step without one; 0: not known, 1 is taken.
        task: its name in ``table``.
        before: average geometry of the steps before, if it is smoothed and known.
    """
    tt = table[task][task] if task in table else 0.0
    if not math.isfinite(tt):
        return Shares(info={"task_not_finite": 1.0})
    live = [name for name in table if name not in (task, *dropped) and table[name][name] > 0]
    unit = {name: 1 / math.sqrt(table[name][name]) for name in live}
    length = math.sqrt(tt) if tt > 0 else None
    dd = sum(unit[a] * unit[b] * table[a][b] for a in live for b in live)
    info = {"taught": float(len(live)), **({"task_norm": length} if length is not None else {})}
    if not live or not dd > 1e-24:  # none, or unit vectors that cancel
        return Shares(length=length, info=info)
    if length is None:
        size = (reference if reference > 0 else 1.0) / math.sqrt(dd)
        only = {name: size * unit[name] for name in live}
        return Shares(0.0, only, only, info=info)
    td = sum(unit[name] * table[task][name] for name in live)
    average = None
    if settings.smooth > 0:
        now = Geometry.of(tt, dd, td)
        average = now if before is None else before.followed_by(now, settings.smooth)
        a, b, turn = smoothed_coefs((tt, dd, td), settings, warm, average)
    else:
        a, b, turn = coefs(tt, dd, td, settings, warm)
    alone = {name: length / math.sqrt(dd) * unit[name] for name in live}
    info |= {"phi_deg": math.degrees(turn.phi), "psi_deg": math.degrees(turn.psi), "gated": float(turn.gated)}
    if turn.psi == 0 and b == 0:
        return Shares(alone=alone, length=length, turn=turn, info=info, average=average)
    weights = {name: b * unit[name] for name in live}
    info |= {f"weight.{name}": weight / a for name, weight in weights.items() if a > 0}
    return Shares(a, weights, alone, length, turn, info, average=average)
