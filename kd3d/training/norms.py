"""Batch norm in short runs."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def set_norm_momentum(module: nn.Module, momentum: float) -> None:
    """Give every batch norm of ``module`` this momentum, in place. It is no part of a state dict or a specification."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.momentum = momentum
