"""Feature distillation as SparseKD's benchmark has it (arXiv 2205.15156, code); the names of its table are inferred."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from kd3d.compress.distill.context import SignalContext
from kd3d.compress.distill.masks import Everywhere, Mask, mask_of
from kd3d.compress.distill.points import roi_grid, sample_points
from kd3d.compress.distill.resample import inside, pool_and_resample
from kd3d.compress.distill.signals import SOFT_FLOOR
from kd3d.compress.distill.taps import TapSignal
from kd3d.geometry.grid import BevGrid
from kd3d.training.objective import Term

_ALL = Everywhere()


@dataclass(frozen=True)
class FeatureMse(TapSignal):
    """FitNet (Romero et al., arXiv 1412.6550): ``sum_x M(x) |A F_s - F_t|^2 / C / sum_x M(x)`` over raw features.

    With the mask ``Foreground`` it is SparseKD's FG. The teacher is brought to the student's grid by position.

    Args:
        mask: on the teacher's output grid.
    """

    mask: Mask = _ALL
    label: ClassVar[str] = "fitnet"

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        ours, theirs, grid = self.aligned(context)
        return self._masked(context, (ours - theirs).square().mean(1), grid)

    def _masked(self, context: SignalContext, error: Tensor, grid: BevGrid) -> Term:
        have, want = context.teacher_spec.output_grid, grid
        mask = pool_and_resample(mask_of(self.mask, context)[:, None], have, want, pool="max")[:, 0]
        mask = mask * inside(have, want, mask.device)
        return Term(self.name, (mask * error).sum(), mask.sum(), self.weight, SOFT_FLOOR)


@dataclass(frozen=True)
class AttentionTransfer(FeatureMse):
    """Spatial attention: squared difference of ``mean_c |F|``; needs no adapter (after arXiv 1612.03928)."""

    adapts: ClassVar[bool] = False
    label: ClassVar[str] = "attention"

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        ours, grid, theirs, have = self.maps(context)
        wanted = pool_and_resample(theirs.abs().mean(1, keepdim=True), have, grid)[:, 0]
        return self._masked(context, (ours.abs().mean(1) - wanted).square(), grid)


@dataclass(frozen=True)
class RoiSignal(TapSignal):
    """Base of the signals on a ``size x size`` grid inside each ground-truth box, turned with it.

    Points are exact cell coordinates (``align_corners=False``); the release computes them for the other convention
    and samples a box of ten cells half a cell too small on each side.
    """

    weight: float = 0.1
    size: int = 7

    def rois(self, context: SignalContext) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Features per frame ``[N, size^2, C]`` of student and teacher; a zero that keeps the graph."""
        ours, grid, theirs, have = self.maps(context)
        points = [roi_grid(frame, self.size) for frame in context.boxes]
        counts = [len(frame) for frame in context.boxes]
        student = sample_points(ours, grid, points).split(counts)
        return list(student), list(sample_points(theirs, have, points).split(counts)), ours.sum() * 0

    def _term(self, total: Tensor, mass: int) -> Term:
        return Term(self.name, total, torch.tensor(float(mass), device=total.device), self.weight)


@dataclass(frozen=True)
class Mimic(RoiSignal):
    """Mimic (Li et al., CVPR 2017): mean squared error per RoI; weight 0.1 in SparseKD's configurations."""

    label: ClassVar[str] = "mimic"

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        student, teacher, total = self.rois(context)
        for ours, theirs in zip(student, teacher, strict=True):
            total = total + (ours - theirs).square().mean((1, 2)).sum()
        return self._term(total, sum(len(rows) for rows in student))


@dataclass(frozen=True)
class Affinity(RoiSignal):
    """Mean squared error of the cosine matrices ``[49, 49]`` between the points of one RoI; needs no adapter."""

    adapts: ClassVar[bool] = False
    label: ClassVar[str] = "affinity"

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        student, teacher, total = self.rois(context)
        for ours, theirs in zip(student, teacher, strict=True):
            a, b = (rows / (rows.norm(dim=2, keepdim=True) + 1e-4) for rows in (ours, theirs))
            total = total + (a @ a.mT - b @ b.mT).square().mean((1, 2)).sum()
        return self._term(total, sum(len(rows) for rows in student))


@dataclass(frozen=True)
class InstanceRelation(RoiSignal):
    """Relation term of GID-F (Dai et al., CVPR 2021) as in SparseKD's code; use it beside ``Mimic``.

    Squared distances between the flattened RoI features of a frame, divided by their mean, compared by smooth L1;
    averaged over frames with at least two objects. RoIs are the ground truth's, not the paper's selected instances.
    """

    adapts: ClassVar[bool] = False
    label: ClassVar[str] = "gid-relation"

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        student, teacher, total = self.rois(context)
        frames = 0
        for ours, theirs in zip(student, teacher, strict=True):
            if len(ours) < 2:
                continue
            frames += 1
            total = total + functional.smooth_l1_loss(_distances(ours), _distances(theirs))
        return self._term(total, frames)


def _distances(rows: Tensor) -> Tensor:
    # Not by subtraction, which holds objects x objects x features; in double precision, for the product cancels.
    flat = rows.flatten(1).double()
    length = flat.square().sum(1)
    squared = (length[:, None] + length - 2 * flat @ flat.T).clamp(min=0)
    return (squared / squared.mean().clamp(min=1e-6)).to(rows.dtype)
