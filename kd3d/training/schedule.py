"""AdamW under a one-cycle schedule that is a function of the step, so there is nothing to save and restore."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kd3d.errors import UsageError
from kd3d.training.settings import TrainSettings

SCALE = "lr_scale"  # of an optimiser's group: its learning rate over that of the run


@dataclass(frozen=True)
class OneCycle:
    """One-cycle learning rate and momentum, both cosine (Smith, arXiv 1708.07120, as fastai anneals them).

    The rate goes from ``lr / div`` up to ``lr`` and down to ``lr / final_div``; momentum mirrors it.
    """

    steps: int
    lr: float
    pct_start: float
    div: float
    final_div: float
    momentum: tuple[float, float]

    def at(self, step: int) -> tuple[float, float]:
        """Learning rate and first beta of step ``step`` (0 .. ``steps`` - 1)."""
        done = step / max(1, self.steps - 1)
        high, low = self.momentum
        if done < self.pct_start:
            share = done / self.pct_start
            return _cosine(self.lr / self.div, self.lr, share), _cosine(high, low, share)
        share = (done - self.pct_start) / (1 - self.pct_start)
        return _cosine(self.lr, self.lr / self.final_div, share), _cosine(low, high, share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)


def one_cycle(settings: TrainSettings, steps: int) -> OneCycle:
    """The schedule of a run of ``steps`` steps."""
    return OneCycle(steps, settings.lr, settings.pct_start, settings.div, settings.final_div, settings.momentum)


def grouped(named: Iterable[tuple[str, nn.Parameter]], settings: TrainSettings) -> list[dict[str, Any]]:
    """Parameters in groups of one learning rate, by the part of the network (``encoder``, ``backbone`` ...).

    Args:
        named: all that learn.
        settings: ``lr_scales`` names the parts that do not have the rate of the run.

    Raises:
        UsageError: a part that is named does not exist.
    """
    scales, groups = dict(settings.lr_scales), dict[float, list[nn.Parameter]]()
    parts = list[str]()
    for name, parameter in named:
        parts.append(name.split(".")[0])
        groups.setdefault(scales.get(parts[-1], 1.0), []).append(parameter)
    unknown = sorted(set(scales) - set(parts) - {"adapters"})  # which only a taught student has
    if unknown:
        raise UsageError(f"lr_scales names {', '.join(unknown)}; what learns is {', '.join(dict.fromkeys(parts))}.")
    return [{"params": group, SCALE: scale} for scale, group in groups.items()]


def adamw(parameters: Iterable[nn.Parameter] | list[dict[str, Any]], settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over ``parameters`` (or groups of them), all with weight decay; ``set_step`` gives it rate and momentum."""
    return torch.optim.AdamW(
        parameters,
        lr=settings.lr / settings.div,
        betas=(settings.momentum[0], settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )


def set_step(optimiser: torch.optim.Optimizer, schedule: OneCycle, step: int) -> tuple[float, float]:
    """Give ``optimiser`` the learning rate (times a group's ``lr_scale``) and momentum of ``step``, and return them."""
    lr, beta1 = schedule.at(step)
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get(SCALE, 1.0)
        group["betas"] = (beta1, group["betas"][1])
    return lr, beta1
