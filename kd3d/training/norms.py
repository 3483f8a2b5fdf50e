"""Batch norm in short runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def set_norm_momentum(module: nn.Module, momentum: float) -> None:
    """Give every batch norm of ``module`` this momentum, in place. It is no part of a state dict or a specification."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.momentum = momentum


def recalibrate(module: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the running statistics of every batch norm of ``module``, in place, by their mean over ``batches``.

    After a short training the running averages still hold much of what the network began with, so a network that has
    learnt scores as if it had not (Wu and Johnson, "Rethinking Batch in BatchNorm", arXiv:2105.07576, section 3).

    Args:
        module: left in evaluation mode; its norms keep their momentum.
        batches: inputs of ``module``, one argument each; at least one.

    Raises:
        ValueError: there is no batch.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's cumulative mean
    module.train()
    seen = 0
    with torch.no_grad():
        for batch in batches:
            module(batch)
            seen += 1
    module.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    if not seen:
        raise ValueError("batch norms cannot be recalibrated without a batch.")
