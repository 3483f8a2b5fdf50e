"""Everything a training run is told, in one frozen value that survives a file."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from kd3d.errors import UsageError

PrecisionName = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainSettings:
    """Settings of ``train``; the defaults are those of the CenterPoint-Pillar recipe of SparseKD (arXiv 2205.15156)."""

    steps: int | None = None
    """Optimiser steps. Exactly one of ``steps`` and ``epochs`` is given."""
    epochs: float | None = None
    """Passes over the data; becomes whole steps, rounded up."""
    batch_size: int = 4
    """Frames per forward pass."""
    accumulate: int = 1
    """Forward passes per optimiser step. Losses are divided once, over all of them, so the result does not depend on
    the split (but for batch normalisation); above 1 a first pass without gradients counts the masses."""
    lr: float = 3e-3
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: float = 0.01
    """Decoupled, on every parameter, normalisation included, as in the published recipe."""
    pct_start: float = 0.4
    """Share of the steps in which the learning rate rises."""
    div: float = 10.0
    """The schedule starts at ``lr / div``."""
    final_div: float = 1e5
    """The schedule ends at ``lr / final_div``."""
    momentum: tuple[float, float] = (0.95, 0.85)
    """Adam's first beta at the ends and at the peak of the cycle."""
    beta2: float = 0.99
    """Adam's second beta."""
    clip_norm: float = 10.0
    """Gradients are scaled down to this norm."""
    precision: PrecisionName = "bf16"
    """``bf16`` falls back to ``fp32``, with a warning, on a processor without it; ``fp16`` needs a GPU."""
    channels_last: bool = True
    """Convolutions in channels-last memory format."""
    ema_decay: float = 0.999
    """Decay of the moving average of weights and normalisation buffers; 0 turns it off."""
    norm_momentum: float | None = None
    """Momentum of every batch norm while training, instead of the network's own. The frameworks' 0.01 needs hundreds of
    steps before running statistics follow the weights; 0.1 suits short runs."""
    lr_scales: tuple[tuple[str, float], ...] = ()
    """Parts of the network that learn at another rate, such as ``(("encoder", 0.1),)``: a factor of ``lr``."""
    seed: int = 0
    """Fixes order, augmentation and everything drawn in a step."""
    workers: int = 2
    """Processes that prepare batches; does not change the result."""
    log_every: int = 20
    """Steps between lines of ``metrics.jsonl``."""
    eval_every: int = 0
    """Steps between validations; 0 validates only at the end."""
    checkpoint_every: int = 500
    """Steps between checkpoints; one is always written at the end and on Ctrl-C."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise UsageError(f"give steps or epochs, and only one (steps={self.steps}, epochs={self.epochs}).")
        lowest = {"steps": 1, "batch_size": 1, "accumulate": 1, "workers": 0, "log_every": 1, "eval_every": 0}
        for name, low in {**lowest, "checkpoint_every": 1, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise UsageError(f"{name} must be at least {low}, not {value}.")
        for name in ("epochs", "lr", "div", "final_div", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UsageError(f"{name} must be positive and finite, not {value:g}.")
        for name, high in {"pct_start": 1.0, "ema_decay": 1.0, "beta2": 1.0}.items():
            if not 0 <= getattr(self, name) < high:
                raise UsageError(f"{name} must be in 0 (included) to {high:g} (excluded), not {getattr(self, name):g}.")
        if not self.weight_decay >= 0 or not all(0 <= value < 1 for value in self.momentum):
            raise UsageError(f"weight_decay ({self.weight_decay:g}) must be >= 0 and momentum {self.momentum} in 0..1.")
        if self.norm_momentum is not None and not 0 < self.norm_momentum <= 1:
            raise UsageError(f"norm_momentum must be above 0 and at most 1, not {self.norm_momentum:g}.")
        if not all(scale > 0 and math.isfinite(scale) for _, scale in self.lr_scales):
            raise UsageError(f"lr_scales must be positive and finite, not {dict(self.lr_scales)}.")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise UsageError(f"precision must be fp32, bf16 or fp16, not {self.precision!r}.")

    @property
    def frames_per_step(self) -> int:
        """Frames that one optimiser step sees."""
        return self.batch_size * self.accumulate

    def total_steps(self, frames: int, *, unlabelled: int = 0) -> int:
        """Optimiser steps of the whole run on a data set of ``frames`` frames with labels.

        Args:
            frames: that epochs are counted over.
            unlabelled: other frames in a batch.
        """
        if self.steps is not None:
            return self.steps
        per_step = (self.batch_size - unlabelled) * self.accumulate
        return max(1, math.ceil((self.epochs or 0.0) * frames / per_step - 1e-9))

    def identity(self) -> dict[str, object]:
        """The settings that decide the result; a resumed run must repeat them."""
        free = {"workers", "log_every", "eval_every", "checkpoint_every"}
        if self.norm_momentum is None:
            free.add("norm_momentum")  # so that runs from before the setting existed can go on
        if not self.lr_scales:
            free.add("lr_scales")
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in free}
