"""A moving average of a network: the weights that are validated and saved."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of weights and floating-point buffers (normalisation statistics included).

    The decay grows with the step as ``min(decay, (1 + n) / (10 + n))``, so early weights are forgotten quickly.

    Args:
        module: the network in training; its present values are the first average.
        decay: 0 keeps an exact copy of the network.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        mine, theirs = self.module.state_dict(keep_vars=False), module.state_dict(keep_vars=False)
        floating = [name for name, value in theirs.items() if value.is_floating_point()]
        self._average: list[Tensor] = [mine[name] for name in floating]
        self._live: list[Tensor] = [theirs[name] for name in floating]
        self._counts = [(mine[name], theirs[name]) for name in theirs if name not in set(floating)]

    def update(self, step: int) -> None:
        """Take in the network after ``step`` (0 is the first)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._live, 1 - decay)
            for average, live in self._counts:
                average.copy_(live)
