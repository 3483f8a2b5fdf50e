"""What gradient blending remembers from step to step; part of the training checkpoint."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd3d.compress.distill.coefs import Geometry
from kd3d.compress.distill.combining import BLOCKS
from kd3d.compress.distill.shares import Shares, Table
from kd3d.errors import NonFiniteError
from kd3d.training.guard import ADVICE
from kd3d.training.objective import Moment

DECAY = 0.99  # of the task's usual gradient length
WINDOW = 500  # steps over which opposed gradients are counted
BACK_OFFS = 10  # fp16 steps in a row that a signal's overflow may cost
MAX_DROPPED = 50  # steps in a row that a signal may fail
OCTAVES = 4  # factors of two by which a signal's gradient may be off the task's before its loss is scaled, in fp16
WIDEST = 40  # factors of two that a loss is scaled by at most


class BlendState(nn.Module):
    """Buffers without parameters, kept with the adapters so that a resumed run goes on exactly."""

    reference: Tensor
    weights: Tensor
    adapter_factor: Tensor
    known: Tensor
    seen: Tensor
    gated: Tensor
    failed: Tensor
    averages: Tensor
    balance: Tensor

    def __init__(self, kinds: int, *, smooth: bool = False) -> None:
        super().__init__()
        self.register_buffer("reference", torch.zeros((), dtype=torch.float64))
        self.register_buffer("weights", torch.zeros(kinds, dtype=torch.float64))
        self.register_buffer("adapter_factor", torch.ones((), dtype=torch.float64))
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("gated", torch.zeros((), dtype=torch.int64))
        self.register_buffer("failed", torch.zeros(kinds, dtype=torch.int64))
        self.register_buffer("balance", torch.ones(kinds, dtype=torch.float64))
        self.smooth = smooth
        if smooth:  # not in the checkpoints of runs that do without
            self.register_buffer("averages", torch.full((len(BLOCKS), 2), torch.nan, dtype=torch.float64))

    def average(self, block: str) -> Geometry | None:
        """The average geometry of a block, if it is kept and known."""
        if not self.smooth:
            return None
        ratio, phi = self.averages[BLOCKS.index(block)].tolist()
        return None if math.isnan(phi) else Geometry(ratio, phi)

    @torch.no_grad()
    def keep(self, block: str, average: Geometry | None) -> None:
        """Note the average geometry of a block."""
        if average is not None:
            self.averages[BLOCKS.index(block)] = torch.tensor([average.log_ratio, average.phi], dtype=torch.float64)

    @torch.no_grad()
    def saw(self, share: Shares, kinds: Sequence[str], scale: float) -> None:
        """Note one step; ``scale`` is that of the loss."""
        if share.length is None:
            return
        length = share.length / scale
        known = float(self.reference)
        self.reference.fill_(DECAY * known + (1 - DECAY) * length if known > 0 else length)
        self.seen += 1
        self.gated += int(share.turn is not None and share.turn.gated)
        weights = [share.weights.get(name, 0.0) / share.task if share.task > 0 else 0.0 for name in kinds]
        self.weights.copy_(torch.tensor(weights, dtype=torch.float64) * self.balance.cpu())
        heard = next((name for name in kinds if share.weights.get(name, 0.0) > 0), None)
        factor = 1.0 if heard is None else share.alone[heard] * share.task / share.weights[heard]
        self.adapter_factor.fill_(factor)
        self.known.fill_(True)

    @torch.no_grad()
    def rebalance(self, kinds: Sequence[str], table: Table, task: str, off: Mapping[str, int]) -> None:
        """Choose the power of two that each signal's loss is multiplied by before its next gradient, for fp16.

        No blend depends on it, but half precision does not hold gradients that are very much longer or shorter than the
        task's. What overflowed is scaled down, and what vanished up, by a step each time.

        Args:
            kinds: the signals.
            table: dot products of the scaled gradients.
            task: its name there.
            off: signals without a length: 1 for what overflowed, -1 for what vanished.
        """
        aim = table[task][task] if task in table else 0.0
        for index, name in enumerate(kinds):
            octaves = -2.0 * OCTAVES * off.get(name, 0)
            if name in table and name not in off and min(table[name][name], aim) > 0:
                apart = (math.log2(aim) - math.log2(table[name][name])) / 2
                octaves = float(round(apart)) if abs(apart) > OCTAVES else 0.0
            before = math.log2(float(self.balance[index]))
            after = max(-float(WIDEST), min(float(WIDEST), before + octaves))
            self.balance[index] = 2.0**after
            if self.smooth and len(kinds) == 1:  # the average is of the scaled gradient where there is but one
                self.averages[:, 0] -= (after - before) * math.log(2)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.setdefault(f"{prefix}balance", self.balance)  # checkpoints from before it
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @torch.no_grad()
    def gated_share(self) -> float | None:
        """Share of opposed steps when a window is full, which begins the next one; else ``None``."""
        if int(self.seen) < WINDOW:
            return None
        share = int(self.gated) / int(self.seen)
        self.seen.zero_()
        self.gated.zero_()
        return share


class Failures:
    """Counts the steps in a row in which a signal's gradient was not finite.

    Args:
        state: holds the counts.
        kinds: the signals, in the order of the counts.
    """

    def __init__(self, state: BlendState, kinds: Sequence[str]) -> None:
        self._state, self._kinds = state, tuple(kinds)

    def saw(self, dropped: Collection[str], moment: Moment) -> bool:
        """Note which signals failed in a step; returns whether the loss scale must be lowered for them.

        Raises:
            NonFiniteError: one failed too often.
        """
        back_off = False
        for index, name in enumerate(self._kinds):
            count = int(self._state.failed[index]) + 1 if name in dropped else 0
            self._state.failed[index] = count
            if count == 0:
                continue
            if moment.scaler.is_enabled() and count <= BACK_OFFS:
                back_off = True
            elif count >= MAX_DROPPED:
                raise NonFiniteError(
                    f"step {moment.step}: the gradient of {name} was not finite in {count} steps in a row, last on "
                    f"frames {', '.join(moment.tokens)}. Leave this signal out. {ADVICE}"
                )
            elif count == 1 + BACK_OFFS * moment.scaler.is_enabled():
                warnings.warn(
                    f"step {moment.step}: the gradient of {name} is not finite on frames {', '.join(moment.tokens)}; "
                    f"the step was taken without it. The run stops after {MAX_DROPPED} such steps in a row.",
                    stacklevel=2,
                )
        return back_off
