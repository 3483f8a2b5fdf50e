"""When one row beats another by the rule of CONTRIBUTING.md, and how that is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

Record = Mapping[str, Any]
RISE = 1.0  # mAP that a control may gain in its last quarter


def paired(ours: Mapping[int, Sequence[float]], control: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    """Paired differences in mAP points, and whether they count as 'beats' by the rule of CONTRIBUTING.md.

    Args:
        ours: per seed the mAP (0..1) after each cycle.
        control: what it is compared with.
    """
    seeds = sorted(ours.keys() & control.keys())
    finals, others = ([100 * runs[seed][-1] for seed in seeds] for runs in (ours, control))
    differences = [final - other for final, other in zip(finals, others, strict=True)]
    if len(seeds) < 3:
        return {"seeds": seeds, "differences": differences, "beats": None}
    gains = [100 * (control[seed][-1] - control[seed][-2]) for seed in seeds if len(control[seed]) > 1]
    average = mean(differences)
    error = stdev(differences) / math.sqrt(len(differences))
    converged = len(gains) == len(seeds) and max(gains) < RISE
    return {
        "seeds": seeds,
        "mAP": finals,
        "control_mAP": others,
        "differences": differences,
        "mean": average,
        "standard_error": error,
        "control_gain_last_quarter": gains,
        "control_converged": converged,
        "beats": min(differences) > 0 and average > 2 * error and converged,
    }


def verdict(item: Record) -> str:
    """``yes``; ``on average``, when only the controls' mean gain is small enough; or why not.

    Args:
        item: of `paired`.
    """
    if item["beats"] is None:
        return "too few seeds"
    if item["beats"]:
        return "yes"
    if max(item["differences"]) < 0:
        return "no: worse"
    if min(item["differences"]) <= 0 or item["mean"] <= 2 * item["standard_error"]:
        return "no: too close"
    gains = item["control_gain_last_quarter"]
    return "on average" if len(gains) == len(item["differences"]) and mean(gains) < RISE else "no: control rising"
