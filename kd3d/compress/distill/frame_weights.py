"""Frame-level adaptivity: frames that are hard for the teacher, or hard for the student to imitate, count for more.

Our own design [D] after the abstract of a thesis whose body was not read, in the spirit of ADL (arXiv 1901.00366).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd3d.compress.distill.context import SignalContext
from kd3d.compress.distill.instances import footprints, richness, unit
from kd3d.compress.distill.labelfree import SoftBoxes, binary_entropy
from kd3d.compress.distill.proposals import LOWEST, READ
from kd3d.compress.distill.reads import Reads
from kd3d.compress.distill.resample import pool_and_resample
from kd3d.compress.distill.signals import divergence
from kd3d.errors import UsageError
from kd3d.training.ranks import sum_over_ranks

_LENGTH_DECAY = 0.99  # of the usual hardness that a frame's is compared with


@dataclass(frozen=True)
class FrameSettings:
    """How much frames differ.

    Args:
        gamma: exponent of a frame's value.
        beta: how much the teacher's doubt counts beside the student's distance from it; grows from 0.
        ramp: share of the training over which it does.
        low, high: limits of a frame's weight.
        mix: share of the draws of frames without labels that follow their weights; the rest are even.
        decay: of the running mean of each frame's weight.
        eta: share of the teacher's best class beside its objects in where the student's distance is measured.
    """

    gamma: float = 2.0
    beta: float = 1.5
    ramp: float = 0.3
    low: float = 0.25
    high: float = 4.0
    mix: float = 0.8
    decay: float = 0.9
    eta: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.low <= 1 <= self.high:
            raise UsageError(f"a frame's weight must have limits around 1, not {self.low:g} and {self.high:g}.")
        for name in ("mix", "decay", "ramp"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} of the frame weights must be in 0..1, not {getattr(self, name):g}.")
        if not (self.gamma > 0 and self.beta >= 0 and self.eta >= 0):
            raise UsageError(
                f"of the frame weights gamma ({self.gamma:g}) must be above 0, beta ({self.beta:g}) and eta "
                f"({self.eta:g}) not below."
            )


@dataclass(frozen=True)
class Hardness:
    """Of one frame.

    Args:
        teacher: mean entropy of the confidence in the teacher's objects, ``u_T``.
        student: ``sum_x M mean_c KL + 1/2 sum k |code| / sum k``, ``d_S``; ``M`` as in ``RegionFeatures``, without the
            part that depends on features.
        objects: the teacher sees.
    """

    teacher: float
    student: float
    objects: int


READS = Reads("everywhere", "cells")


def read_cells(context: SignalContext) -> Tensor:
    """As ``Signal.cells``: where ``hardness`` looks."""
    return context.teacher_heatmap.amax(1) >= READ


@torch.no_grad()
def hardness(context: SignalContext, eta: float) -> Hardness:
    """How hard the one frame of ``context`` is; no label is read."""
    have, want = context.teacher_spec.output_grid, context.student_spec.output_grid
    confidence = context.proposals.confidence()
    sure = confidence[confidence >= LOWEST]
    wanted = pool_and_resample(context.teacher_heatmap, have, want, pool="max")
    apart = divergence(wanted, context.student_heatmap).mean(1)
    region = unit(footprints(context, want, 0.5) + eta * unit(richness(context, want)[0]))
    boxes = SoftBoxes()(context)
    distance = (region * apart).sum() + 0.5 * boxes.sum / boxes.mass.clamp(min=boxes.floor)
    doubt = binary_entropy(sure).mean() if len(sure) else sure.sum()
    return Hardness(float(doubt), float(distance), len(sure))


def frame_weights(
    found: Sequence[Hardness], usual: tuple[float, float], settings: FrameSettings, *, beta: float
) -> list[float]:
    """``clip(v / mean(v), low, high)``, ``v = (1 - exp(-(d / usual_d + beta u / usual_u) / 2))^gamma``.

    Args:
        found: the frames of a batch that have the same part in it.
        usual: of ``u`` and ``d``, running means.
        settings: see there.
        beta: at this time.

    Returns:
        One weight per frame; that of a frame in which the teacher sees nothing is the lowest: it still teaches what
        is empty.
    """
    scale = [max(value, 1e-12) for value in usual]
    raw = [frame.student / scale[1] + beta * frame.teacher / scale[0] for frame in found]
    value = (1 - np.exp(-np.array(raw) / 2)) ** settings.gamma
    mean = float(value.mean()) if len(value) else 0.0
    relative = value / mean if mean > 0 else np.ones_like(value)
    clipped = np.clip(relative, settings.low, settings.high)
    return [settings.low if not frame.objects else float(one) for frame, one in zip(found, clipped, strict=True)]


class FrameWeights(nn.Module):
    """What is known of the frames, as buffers of the training checkpoint: a ``kd3d.training.unlabelled.Drawing``.

    Args:
        settings: see there.
        unlabelled: frames without labels.
        passes: forward passes of the whole training, for the ramp; 0 leaves the ramp out.
    """

    usual: Tensor
    table: Tensor
    seen: Tensor
    drawn: Tensor
    done: Tensor

    def __init__(self, settings: FrameSettings, *, unlabelled: int, passes: int) -> None:
        super().__init__()
        self.settings, self.passes = settings, passes
        self.register_buffer("usual", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("table", torch.ones(unlabelled, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(unlabelled, dtype=torch.float64))
        self.register_buffer("drawn", torch.full((unlabelled,), 1.0 / max(1, unlabelled), dtype=torch.float64))
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    @property
    def beta(self) -> float:
        """At this time of the training."""
        whole = self.settings.ramp * self.passes
        return self.settings.beta * (1.0 if whole <= 0 else min(1.0, int(self.done) / whole))

    def weigh(self, parts: Sequence[Sequence[Hardness]], unlabelled: Sequence[int]) -> list[list[float]]:
        """Weights of the frames of a batch, part by part, and what is learnt about them.

        Args:
            parts: frames with labels, then those without, if there are any.
            unlabelled: which ones the latter are.
        """
        frames = [frame for part in parts for frame in part]
        now = torch.tensor([[frame.teacher, frame.student] for frame in frames], dtype=torch.float64).mean(0)
        if bool(torch.isfinite(now).all()):
            first = int(self.done) == 0
            self.usual.copy_(now if first else _LENGTH_DECAY * self.usual + (1 - _LENGTH_DECAY) * now)
        teacher, student = self.usual.tolist()
        found = [frame_weights(part, (teacher, student), self.settings, beta=self.beta) for part in parts]
        for index, weight in zip(unlabelled, found[-1], strict=True) if unlabelled else ():
            kept = self.settings.decay * float(self.table[index]) + (1 - self.settings.decay) * weight
            self.table[index] = kept if np.isfinite(kept) else self.table[index]
            self.seen[index] += 1
        self.done += 1
        return found

    def renew(self) -> None:
        """See ``Drawing``: a frame that several processes saw has the mean of what they know, by how often they did."""
        known, count = sum_over_ranks([self.table * self.seen, self.seen])
        self.table.copy_(torch.where(count > 0, known / count.clamp(min=1), self.table))
        root = self.table.sqrt()
        even = 1.0 / len(self.table)
        self.drawn.copy_(self.settings.mix * root / root.sum() + (1 - self.settings.mix) * even)
        self.seen.zero_()

    def probabilities(self) -> NDArray[np.float64]:
        """See ``Drawing``."""
        return np.asarray(self.drawn.numpy().copy(), np.float64)
