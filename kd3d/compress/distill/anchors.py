"""Distillation between two anchor heads: what SparseKD (arXiv 2205.15156) does at pivotal positions, at anchors.

A mask of ``masks`` weighs the teacher's anchors one by one: it sees each anchor's class probabilities, and in place of
the Gaussians 1 for the class of the object that the anchor stands for. ``Foreground`` is thus the anchors of objects,
as the authors distilled SECOND on KITTI; ``Confident`` and ``TopRank`` take the teacher's best anchors;
``GaussianPivotal`` the teacher's confidence at the anchors of objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from kd3d.compress.distill.anchor_pairs import AnchorGrids, check_anchors, ordered
from kd3d.compress.distill.context import CLAMP, SignalContext
from kd3d.compress.distill.masks import Foreground, Mask, mask_cells, mask_extent
from kd3d.compress.distill.reads import Reads
from kd3d.compress.distill.signals import SOFT_FLOOR
from kd3d.spec import DetectorSpec
from kd3d.training.anchor_losses import code_differences, label_maps, smooth_l1
from kd3d.training.objective import Term

_RELEASED = Foreground()


@dataclass(frozen=True)
class AnchorSignal:
    """Base: models with the same anchors, on any cells and ranges of one frame.

    Args:
        weight: factor in the total.
        mask: the teacher's anchors that count, and how much.
        name: unique among the signals of an objective.
    """

    weight: float = 1.0
    mask: Mask = _RELEASED
    name: str = "kd.anchors"

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        """See ``Signal``."""
        check_anchors(student, teacher)

    def adapter(self, student: DetectorSpec, teacher: DetectorSpec) -> nn.Module | None:
        """See ``Signal``."""
        return None

    def cells(self, context: SignalContext) -> Tensor:
        """See ``Signal``: wherever one of the anchors counts."""
        if mask_extent(self.mask) == "everywhere":
            return torch.zeros_like(context.teacher_heatmap[:, 0], dtype=torch.bool)
        teacher, assigned = mask_views(self.mask, context)
        marks = mask_cells(self.mask, teacher, assigned)
        return marks.view(len(teacher), -1, *context.teacher_heatmap.shape[2:]).any(1)

    def pivotal(self, context: SignalContext) -> Tensor:
        """``[B, A, Ht, Wt]`` weights of the teacher's anchors, without gradient; classes in the student's order."""
        teacher, assigned = mask_views(self.mask, context)
        weights = self.mask(teacher, assigned).detach()
        return weights.view(len(teacher), -1, *context.teacher_heatmap.shape[2:])


@dataclass(frozen=True)
class AnchorLogits(AnchorSignal):
    """``w * sum_a M_a sum_c (p_s - p_t)^2 / sum_a M_a``: class probabilities at pivotal anchors.

    The student's probabilities are brought to the teacher's anchors by metric position.

    Args:
        weight: 15 in the authors' recipe for SECOND (github.com/CVMI-Lab/SparseKD, issue 11).
        mask: see ``AnchorSignal``.
        whole_cells: also compare the other anchors of a cell that has a pivotal one, with the weight of the most
            important one there, and divide by the cells, as the released code does.
    """

    weight: float = 15.0
    whole_cells: bool = True
    name: str = "kd.anchor-logits"

    @property
    def reads(self) -> Reads:
        """See ``Signal``."""
        return Reads(heatmap=mask_extent(self.mask))

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        grids = AnchorGrids(context.student_spec, context.teacher_spec)
        teacher = anchor_probabilities(context, "teacher").detach()
        ours = grids.resampled(anchor_probabilities(context, "student").flatten(1, 2)).view_as(teacher)
        apart = (ours - teacher).square().sum(2)
        mask = self.pivotal(context) * grids.known(teacher.device)
        if self.whole_cells:
            apart, mask = apart.sum(1), mask.amax(1)
        return Term(self.name, (mask * apart).sum(), mask.sum(), self.weight, SOFT_FLOOR)


@dataclass(frozen=True)
class AnchorCodes(AnchorSignal):
    """Base of what compares codes of single anchors: the teacher's at its pivotal anchors, the student's at the nearest
    anchor of the same class and rotation.
    """

    @property
    def reads(self) -> Reads:
        """See ``Signal``."""
        return Reads(mask_extent(self.mask), mask_extent(self.mask))

    def apart(self, context: SignalContext, pairs: AnchorPairs) -> Tensor:
        """``[M]`` distances of the pairs."""
        raise NotImplementedError

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        grids = AnchorGrids(context.student_spec, context.teacher_spec)
        mask = self.pivotal(context) * grids.known(context.teacher_heatmap.device)
        place = mask.nonzero(as_tuple=True)
        pairs = AnchorPairs(grids, *place)
        weights = mask[place]
        total = (weights * self.apart(context, pairs)).sum()
        return Term(self.name, total, weights.sum(), self.weight, SOFT_FLOOR)


@dataclass(frozen=True)
class AnchorPairs:
    """Pairs of anchors, ``M`` of them: the teacher's, and the student's nearest to it.

    Args:
        grids: of the models.
        frame, anchor, row, column: ``[M]`` each, of the teacher; anchors of classes in the student's order.
    """

    grids: AnchorGrids
    frame: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor

    def of(self, maps: Tensor, side: str) -> Tensor:
        """``[M, codes]`` of maps ``[B, A, codes, H, W]`` of the ``student`` or the ``teacher``."""
        row, column = self.row, self.column
        if side == "student":
            row, column = self.grids.nearest(row, "y"), self.grids.nearest(column, "x")
        found: Tensor = maps[self.frame, self.anchor, :, row, column]
        return found

    @property
    def shift_m(self) -> tuple[Tensor, Tensor]:
        """How far the teacher's anchors lie beyond the student's in x and y, ``[M]`` each."""
        return self.grids.apart_m(self.column, "x"), self.grids.apart_m(self.row, "y")


@dataclass(frozen=True)
class AnchorBoxes(AnchorCodes):
    """``w * sum_a M_a smooth_L1(code_s - code_t) / sum_a M_a``: box residuals at pivotal anchors.

    Smooth L1 and the sine of the yaw's difference as in the task's loss (SECOND), as in the released SparseKD. Where
    the anchors of both models do not coincide, the teacher's residual is told from the student's anchor: all anchors of
    a class and rotation have one shape, so that x and y change by the distance over its diagonal, and nothing else.

    Args:
        weight: 0.2 in the authors' recipe for SECOND.
        mask: see ``AnchorSignal``.
    """

    weight: float = 0.2
    name: str = "kd.anchor-boxes"

    def apart(self, context: SignalContext, pairs: AnchorPairs) -> Tensor:
        """See ``AnchorCodes``."""
        ours = pairs.of(ordered(context, "student", "box"), "student")
        theirs = pairs.of(ordered(context, "teacher", "box"), "teacher").detach()
        diagonal = pairs.grids.diagonals(theirs.device)[pairs.anchor]
        moved = torch.stack(pairs.shift_m, 1) / diagonal[:, None]
        wanted = torch.cat([theirs[:, :2] + moved, theirs[:, 2:]], 1)
        return smooth_l1(code_differences(ours, wanted)).sum(1)


@dataclass(frozen=True)
class AnchorDirections(AnchorCodes):
    """``w * sum_a M_a KL(softmax(d_t) | softmax(d_s)) / sum_a M_a``: heading bins at pivotal anchors.

    The released SparseKD leaves them out; a student whose boxes are drawn to the teacher's may need them, because the
    residual of yaw does not tell front from back.

    Args:
        weight: that of the task's loss.
        mask: see ``AnchorSignal``.
    """

    weight: float = 0.2
    name: str = "kd.anchor-directions"

    def apart(self, context: SignalContext, pairs: AnchorPairs) -> Tensor:
        """See ``AnchorCodes``."""
        ours = pairs.of(ordered(context, "student", "dir"), "student").log_softmax(1)
        theirs = pairs.of(ordered(context, "teacher", "dir"), "teacher").detach().log_softmax(1)
        return functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)


def anchor_probabilities(context: SignalContext, side: str) -> Tensor:
    """``[B, A, C, H, W]`` clamped fp32 probabilities; anchors and classes in the student's order of classes."""
    return ordered(context, side, "cls").sigmoid().clamp(CLAMP, 1 - CLAMP)


def mask_views(mask: Mask, context: SignalContext) -> tuple[Tensor, Tensor]:
    """What a mask sees: the teacher's probabilities, and 1 for the class of the object that an anchor stands for.

    ``[B, C, A * Ht, Wt]`` each: to a mask every anchor is a cell of its own. The latter stay 0 for a mask that has no
    use for labels, and no label is read.
    """
    teacher = anchor_probabilities(context, "teacher").detach()
    if getattr(mask, "label_free", False):
        seen = teacher.movedim(2, 1).flatten(2, 3)
        return seen, torch.zeros_like(seen)
    targets = context.anchor_targets
    label = label_maps(targets.label, teacher[:, 0], teacher.shape[1])
    classes = torch.arange(1, teacher.shape[2] + 1, device=label.device).view(-1, 1, 1)
    assigned = (label[:, :, None] == classes).to(teacher.dtype)
    seen, stands = (part.movedim(2, 1).flatten(2, 3) for part in (teacher, assigned))
    return seen, stands
