"""Signals: one distillation loss each, as (sum, mass) with its weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from kd3d.compress.distill.context import SignalContext, check_cells, regression_maps
from kd3d.compress.distill.masks import GaussianPivotal, Mask, mask_cells, mask_extent, mask_inputs, mask_of
from kd3d.compress.distill.reads import HeadSignal, Reads, marked
from kd3d.compress.distill.resample import inside, resample, same_cells
from kd3d.spec import DetectorSpec
from kd3d.training.losses import gather_cells
from kd3d.training.objective import Term

_RELEASED = GaussianPivotal()
SOFT_FLOOR = 1e-6  # the least mask mass that is divided by, as in SparseKD


class Signal(Protocol):
    """One loss with its paper."""

    @property
    def name(self) -> str:
        """Unique among the signals of an objective."""
        ...

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        """Refuse, with a ``UsageError``, a pair of models that the signal cannot join."""
        ...

    def adapter(self, student: DetectorSpec, teacher: DetectorSpec) -> nn.Module | None:
        """A module that is trained along with the student and thrown away, if the signal needs one."""
        ...

    @property
    def reads(self) -> Reads:
        """What it reads of the teacher's output."""
        ...

    def cells(self, context: SignalContext) -> Tensor:
        """``[B, Ht, Wt]`` bool, on the teacher's output grid: where it reads what it reads at ``cells`` only.

        Nothing of the student in ``context`` may be looked at: the cells are known before there is one.
        """
        ...

    def __call__(self, context: SignalContext) -> Term:
        """The loss of a batch."""
        ...


@dataclass(frozen=True)
class PivotalLogits(HeadSignal):
    """Heatmap distillation at pivotal positions: SparseKD (arXiv 2205.15156).

    ``w * sum M sum_c (p_s - p_t)^2 / sum M`` over the teacher's cells: the student's probabilities are brought to the
    teacher's grid by metric position; the sum over classes is not divided by their number.

    Args:
        weight: 7 for coarser pillars, 10 to 15 for narrower networks in the paper's released recipes.
        mask: where.
    """

    weight: float = 7.0
    mask: Mask = _RELEASED
    name: str = "kd.logits"

    @property
    def reads(self) -> Reads:
        """See ``Signal``."""
        return Reads(heatmap=mask_extent(self.mask))

    def cells(self, context: SignalContext) -> Tensor:
        """See ``Signal``."""
        return mask_cells(self.mask, *mask_inputs(self.mask, context))

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        have, want = context.student_spec.output_grid, context.teacher_spec.output_grid
        teacher = context.teacher_heatmap
        mask = mask_of(self.mask, context)
        if not same_cells(have, want):
            mask = mask * inside(have, want, mask.device)
        student = resample(context.student_heatmap, have, want)
        squared = (student - teacher).square().sum(1)
        return Term(self.name, (mask * squared).sum(), mask.sum(), self.weight, SOFT_FLOOR)


@dataclass(frozen=True)
class CenterRegression(HeadSignal):
    """L1 between both models' box codes at the ground truth's cells: SparseKD (arXiv 2205.15156).

    Codes are compared in head space (sub-cell offsets, z, log size, sin and cos of yaw, velocity where both have it),
    so both models must have the same output grid.
    """

    weight: float = 0.2
    name: str = "kd.boxes"

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        """See ``Signal``."""
        super().check(student, teacher)
        check_cells(student, teacher, "box regression can be distilled")

    @property
    def reads(self) -> Reads:
        """See ``Signal``."""
        return Reads(codes="cells")

    def cells(self, context: SignalContext) -> Tensor:
        """See ``Signal``."""
        return marked(torch.cat([target.cell for target in context.class_targets]), context)

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        velocity = context.student_spec.head.velocity and context.teacher_spec.head.velocity
        total = context.student.heads[0].center.float().sum() * 0  # keeps the graph in a frame without objects
        mass = torch.zeros((), device=total.device)
        for name, target in zip(context.classes, context.class_targets, strict=True):
            if len(target.cell) == 0:
                continue
            student = regression_maps(context.student.heads, context.student_spec, name, velocity=velocity)
            teacher = regression_maps(context.teacher.heads, context.teacher_spec, name, velocity=velocity).detach()
            total = total + (gather_cells(student, target.cell) - gather_cells(teacher, target.cell)).abs().sum()
            mass = mass + len(target.cell)
        return Term(self.name, total, mass, self.weight)


def divergence(wanted: Tensor, predicted: Tensor) -> Tensor:
    """KL divergence of probabilities, cell by cell: binary cross-entropy less its entropy, exactly 0 when equal."""
    return wanted * (wanted / predicted).log() + (1 - wanted) * ((1 - wanted) / (1 - predicted)).log()


def standardised(maps: Tensor) -> Tensor:
    """``[B, C, H, W]`` fp32 with zero mean and unit variance per frame and channel.

    PKD (arXiv 2207.02039) takes batch and space together; per frame the loss does not depend on how a batch is split.
    """
    maps = maps.float()
    mean = maps.mean((2, 3), keepdim=True)
    variance = (maps - mean).square().mean((2, 3), keepdim=True)
    return (maps - mean) * (variance + 1e-6).rsqrt()
