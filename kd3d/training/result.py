"""What a run tells while it works, and what it leaves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kd3d.detectors.model import CenterPoint


@dataclass(frozen=True)
class TrainUpdate:
    """What the loop tells after every step and validation.

    Args:
        step: steps done.
        steps: of the whole run.
        loss: of the last step.
        lr: of the last step.
        eta_s: estimate of the remaining time, from this session's pace (validation included).
        metrics: of a validation that has just ended, else ``None``.
    """

    step: int
    steps: int
    loss: float
    lr: float
    eta_s: float
    metrics: Mapping[str, float] | None = None

    def with_metrics(self, metrics: Mapping[str, float], eta_s: float) -> TrainUpdate:
        """The same step, now validated."""
        return replace(self, metrics=metrics, eta_s=eta_s)


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Args:
        module: the averaged network, in evaluation mode: what was validated and saved.
        model: its model folder, there once the run is at its end.
        steps: optimiser steps taken.
        metrics: of the last validation, empty without one.
        history: all lines of ``metrics.jsonl``.
    """

    module: CenterPoint
    model: Path
    steps: int
    metrics: dict[str, float]
    history: list[dict[str, Any]]


class Pace:
    """Estimates the remaining time from this session's own steps."""

    def __init__(self, first: int, steps: int) -> None:
        self._first, self._steps, self._began = first, steps, time.perf_counter()

    def eta_s(self, done: int) -> float:
        """Seconds that the steps after ``done`` will take."""
        return (time.perf_counter() - self._began) / (done - self._first) * (self._steps - done)
