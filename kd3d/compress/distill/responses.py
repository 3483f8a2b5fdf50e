"""Responses at every pillar, and box codes at pivotal positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kd3d.compress.distill.context import SignalContext, check_cells, regression_maps
from kd3d.compress.distill.masks import GaussianPivotal, Mask, mask_cells, mask_extent, mask_inputs
from kd3d.compress.distill.reads import HeadSignal, Reads
from kd3d.compress.distill.resample import inside, resample, same_cells
from kd3d.compress.distill.signals import SOFT_FLOOR, divergence
from kd3d.spec import DetectorSpec
from kd3d.training.objective import Term

_RELEASED = GaussianPivotal()


@dataclass(frozen=True)
class PillarResponses(HeadSignal):
    """``sum_p w_p (sum_c BCE(P_s, P_t) - H(P_t) + |R_s - R_t|_1) / sum_p w_p``, ``w_p = max_c P_t``.

    Our reading of the BEV response distillation of structured knowledge distillation (arXiv 2211.08398); its equations
    are unverified. The teacher's entropy, which has no gradient, is taken off so that equal outputs cost nothing. Box
    codes (the mean over classes) count only between equal output grids.
    """

    weight: float = 1.0
    label_free: ClassVar[bool] = True
    name: str = "kd.pillars"

    @property
    def reads(self) -> Reads:
        """See ``Signal``."""
        return Reads("everywhere", "everywhere")

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        have, want = context.student_spec.output_grid, context.teacher_spec.output_grid
        theirs = context.teacher_heatmap
        ours = resample(context.student_heatmap, have, want)
        error = divergence(theirs, ours).sum(1)
        weight = theirs.amax(1)
        if same_cells(have, want):
            error = error + sum((_codes_apart(context, name) for name in context.classes), 0) / len(context.classes)
        else:
            weight = weight * inside(have, want, weight.device)
        return Term(self.name, (weight * error).sum(), weight.sum(), self.weight, SOFT_FLOOR)


@dataclass(frozen=True)
class PivotalBoxes(HeadSignal):
    """``sum_c sum_x M_c |r_s - r_t|_1 / sum M``: box codes under the masks of ``PivotalLogits``, one mask per class.

    SparseKD (arXiv 2205.15156) compares box codes at the objects' cells only (``CenterRegression``); this extends its
    other masks to them.

    Args:
        weight: 0.2, that of the release at the objects' cells.
        mask: from one class's probabilities and Gaussians.
    """

    weight: float = 0.2
    mask: Mask = _RELEASED
    name: str = "kd.pivotal-boxes"

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        """See ``Signal``."""
        super().check(student, teacher)
        check_cells(student, teacher, "box regression can be distilled")

    @property
    def reads(self) -> Reads:
        """See ``Signal``."""
        return Reads(mask_extent(self.mask), mask_extent(self.mask))

    def cells(self, context: SignalContext) -> Tensor:
        """See ``Signal``."""
        teacher, gaussian = (maps.split(1, 1) for maps in mask_inputs(self.mask, context))
        kinds = [mask_cells(self.mask, *both) for both in zip(teacher, gaussian, strict=True)]
        return torch.stack(kinds).any(0)

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        teacher, gaussian = mask_inputs(self.mask, context)
        total = context.student.heads[0].center.float().sum() * 0
        mass = torch.zeros((), device=total.device)
        for index, name in enumerate(context.classes):
            only = slice(index, index + 1)
            mask = self.mask(teacher[:, only], gaussian[:, only]).detach()
            total = total + (mask * _codes_apart(context, name)).sum()
            mass = mass + mask.sum()
        return Term(self.name, total, mass, self.weight, SOFT_FLOOR)


def _codes_apart(context: SignalContext, name: str) -> Tensor:
    """``[B, H, W]`` L1 distance of both models' box codes of a class."""
    velocity = context.student_spec.head.velocity and context.teacher_spec.head.velocity
    ours = regression_maps(context.student.heads, context.student_spec, name, velocity=velocity)
    theirs = regression_maps(context.teacher.heads, context.teacher_spec, name, velocity=velocity).detach()
    return (ours - theirs).abs().sum(1)
