"""How a comparison of two rows is told, by the rule of CONTRIBUTING.md."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

Record = Mapping[str, Any]
RISE = 1.0  # mAP that a control may gain in its last quarter


def verdict(item: Record) -> str:
    """``yes``; ``on average``, when only the controls' mean gain is small enough; or why not.

    Args:
        item: of `fitting.paired`.
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
