"""Distillation by the teacher's confidence, without any label, and its adaptive weights.

Our own design [D] after the abstracts of two works whose bodies were not read (He & Zhu, DOI
10.3969/j.issn.1000-386x.2026.02.036, and a thesis of the same author), near FRS (NeurIPS 2021) and ADL (arXiv
1901.00366).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kd3d.compress.distill.context import CLAMP, SignalContext, check_cells, regression_maps
from kd3d.compress.distill.proposals import LOWEST, MOST, READ, check_localisation, is_peak, peaks, teacher_boxes
from kd3d.compress.distill.reads import HeadSignal, Reads
from kd3d.compress.distill.resample import inside, pool_and_resample, same_cells
from kd3d.compress.distill.signals import divergence
from kd3d.errors import UsageError
from kd3d.runtime.targets import MIN_OVERLAP, MIN_RADIUS, draw_gaussian, gaussian_radius
from kd3d.spec import DetectorSpec
from kd3d.training.losses import gather_cells
from kd3d.training.objective import Term


@dataclass(frozen=True)
class LabelFree(HeadSignal):
    """Base: joins any two models of one frame, needs no adapter and never looks at a label."""

    weight: float = 1.0
    label_free: ClassVar[bool] = True

    @property
    def reads(self) -> Reads:
        """See ``Signal``."""
        return Reads(heatmap="everywhere")


@dataclass(frozen=True)
class SoftHeatmap(LabelFree):
    """``sum W (BCE(p_s, Y) - H(Y)) / max(1, sum of the confidences of the teacher's objects)``.

    ``Y`` is the teacher's heatmap on the student's grid, its peaks kept (max pooling); or, rendered, the Gaussians of
    the teacher's objects as a label's target is drawn, each as high as the confidence in it. ``adaptive`` weights:
    ``W = (1 - exp(-(KL(Y|p_s) + beta H(Y))))^gamma * max(Y, p_s)^mu``, without gradient: cells hard for the teacher (H)
    or hard to imitate (KL), and not empty. ``dense`` is 1, ``confidence`` the teacher's best class (FRS). The
    entropy that is taken off makes equal outputs cost nothing and changes no gradient. The sum of confidences is over
    the batch, not per frame as in the specification, so that the loss does not depend on how a batch is split.

    Args:
        weighting: see above.
        background: least weight of a cell (``background + (1 - background) W``). Without labels ``confidence`` needs at
            least 0.3: nothing else tells the student that an empty cell is empty.
        gamma, beta, mu: of the adaptive weights; ``mu`` 0 and ``beta`` 1 are ADL's weights.
        detach: ``False`` lets the gradient flow through the adaptive weights, as ADL's release does.
        soft: ``copy`` or ``render``.
        localisation: exponent of the agreement of boxes in the confidence of rendered objects; 0 takes the score alone.
    """

    weighting: Literal["adaptive", "dense", "confidence"] = "adaptive"
    background: float = 0.0
    gamma: float = 2.0
    beta: float = 1.5
    mu: float = 1.0
    detach: bool = True
    soft: Literal["copy", "render"] = "copy"
    localisation: float = 0.5
    name: str = "kd.soft-heatmap"

    def __post_init__(self) -> None:
        if self.soft not in ("copy", "render"):
            raise UsageError(f"there are no soft labels {self.soft!r}. Use copy or render.")
        check_localisation(self.localisation)
        if self.weighting not in ("adaptive", "dense", "confidence"):
            raise UsageError(f"there is no weighting {self.weighting!r}. Use adaptive, dense or confidence.")
        if not 0 <= self.background <= 1:
            raise UsageError(f"the background weight must be in 0..1, not {self.background:g}.")

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        have, want = context.teacher_spec.output_grid, context.student_spec.output_grid
        student = context.student_heatmap
        if self.soft == "copy":
            wanted, confidence = (
                pool_and_resample(context.teacher_heatmap, have, want, pool="max"),
                peaks(context.teacher_heatmap)[0],
            )
        else:
            wanted, confidence = rendered(context, self.localisation)
            wanted = wanted.clamp(CLAMP, 1 - CLAMP)
        entropy = binary_entropy(wanted)
        apart = divergence(wanted, student)
        weight = self._weights(student, wanted, apart, entropy) * inside(have, want, student.device)
        return Term(self.name, (weight * apart).sum(), confidence.sum(), self.weight)

    @property
    def reads(self) -> Reads:
        """See ``Signal``."""
        return Reads("everywhere") if self.soft == "copy" else Reads("cells", "cells")

    def cells(self, context: SignalContext) -> Tensor:
        """See ``Signal``."""
        return context.teacher_heatmap.amax(1) >= READ

    def _weights(self, student: Tensor, wanted: Tensor, apart: Tensor, entropy: Tensor) -> Tensor:
        if self.weighting == "dense":
            return torch.ones_like(wanted)
        if self.weighting == "confidence":
            found = wanted.amax(1, keepdim=True).expand_as(wanted)
        else:
            found = adaptive_weight(apart, entropy, self.gamma, self.beta)
            found = found * torch.maximum(wanted, student).pow(self.mu)
            found = found.detach() if self.detach else found
        return self.background + (1 - self.background) * found


def adaptive_weight(apart: Tensor, entropy: Tensor, gamma: float, beta: float) -> Tensor:
    """``(1 - exp(-(KL + beta H)))^gamma``: ADL (arXiv 1901.00366), 0 where the teacher is sure and imitated."""
    return (1 - torch.exp(-(apart.clamp(min=0) + beta * entropy))).pow(gamma)


@dataclass(frozen=True)
class SoftBoxes(LabelFree):
    """``sum_n k_n |code_s - enc(box_t)|_1 / sum_n k_n`` at the teacher's objects of confidence 0.3 and more.

    The confidence ``k = score^(1 - a) q^a`` also asks whether the boxes around a peak agree (``proposals``).

    Boxes go by metric position to the student's grid, where offsets within the cell change; of two objects of a class
    in one cell the more confident stays. Between equal grids the codes of the teacher's own cell are compared.

    Args:
        threshold: least confidence.
        localisation: the exponent ``a``; 0 takes the score alone.
    """

    threshold: float = 0.3
    localisation: float = 0.5
    name: str = "kd.soft-boxes"

    def __post_init__(self) -> None:
        check_localisation(self.localisation)

    @property
    def reads(self) -> Reads:
        """See ``Signal``."""
        return Reads("cells", "cells")

    def cells(self, context: SignalContext) -> Tensor:
        """See ``Signal``: all that could be an object or has a say in one."""
        return context.teacher_heatmap.amax(1) >= READ

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        velocity = context.student_spec.head.velocity and context.teacher_spec.head.velocity
        found = context.proposals
        confidence, kind, cell = found.confidence(self.localisation), found.kind, found.cell
        total = context.student.heads[0].center.float().sum() * 0
        mass = torch.zeros((), device=total.device)
        for index, name in enumerate(context.classes):
            mine = (kind == index) & (confidence >= self.threshold)
            theirs = regression_maps(context.teacher.heads, context.teacher_spec, name, velocity=velocity).detach()
            codes, where, sure = _at_the_students(
                context, gather_cells(theirs, cell[mine]), cell[mine], confidence[mine]
            )
            ours = regression_maps(context.student.heads, context.student_spec, name, velocity=velocity)
            total = total + (sure[:, None] * (gather_cells(ours, where) - codes).abs()).sum()
            mass = mass + sure.sum()
        return Term(self.name, total, mass, self.weight, 1e-6)


@dataclass(frozen=True)
class ProposalRanking(LabelFree):
    """``tau^2 KL(softmax(s_t / tau) | softmax(s_s / tau))`` over the proposals of both models, per frame.

    ``s`` are logits at the teacher's peaks and at the student's best ``student_peaks`` that are no teacher's peak: its
    false proposals, which the teacher's score there corrects. A frame with fewer than two has no ranking. Between equal
    output grids only.
    """

    tau: float = 2.0
    student_peaks: int = 64
    name: str = "kd.ranking"

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        """See ``Signal``."""
        super().check(student, teacher)
        check_cells(student, teacher, "proposals can be ranked")

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        student, teacher = context.student_heatmap, context.teacher_heatmap
        total, frames = student.sum() * 0, 0
        for ours, theirs in zip(student, teacher, strict=True):
            chosen = is_peak(theirs[None])[0] & (theirs >= LOWEST)
            if theirs.numel() > MOST:
                chosen &= theirs >= (theirs * chosen).flatten().topk(MOST).values[-1]
            near = functional.max_pool2d(chosen.float()[None], 3, stride=1, padding=1)[0] > 0
            false = (ours.detach() * is_peak(ours.detach()[None])[0] * ~near).flatten()
            best = false.topk(min(self.student_peaks, len(false)))
            listed = torch.cat([chosen.flatten().nonzero()[:, 0], best.indices[best.values >= LOWEST]])
            if len(listed) < 2:
                continue
            frames += 1
            a, b = (torch.logit(maps.flatten()[listed]) / self.tau for maps in (ours, theirs))
            apart = functional.kl_div(a.log_softmax(0), b.log_softmax(0), reduction="sum", log_target=True)
            total = total + self.tau**2 * apart
        return Term(self.name, total, torch.tensor(float(frames), device=total.device), self.weight)


def rendered(context: SignalContext, localisation: float) -> tuple[Tensor, Tensor]:
    """Soft labels ``[B, C, Hs, Ws]`` on the student's grid, and the confidences of the objects in them.

    Each of the teacher's objects is a Gaussian as ``kd3d.runtime.targets`` draws it for a label, times its confidence:
    with confidence 1 they are the targets of the teacher's boxes, bit for bit.
    """
    grid, found = context.student_spec.output_grid, context.proposals
    confidence = found.confidence(localisation)
    maps = np.zeros((len(context.teacher_heatmap), len(context.classes), grid.ny, grid.nx), np.float32)
    cells = context.teacher_spec.output_grid.nx * context.teacher_spec.output_grid.ny
    for index, name in enumerate(context.classes):
        mine = ((found.kind == index) & (confidence >= LOWEST)).nonzero()[:, 0]
        box = teacher_boxes(context, name, found.cell[mine]).double().cpu().numpy()
        column, row = (np.floor((box[:, i] - low) / grid.cell_m) for i, low in enumerate((grid.x_min_m, grid.y_min_m)))
        size = box[:, 2:4] / grid.cell_m
        radius = np.maximum(gaussian_radius(size[:, 0], size[:, 1], MIN_OVERLAP).astype(np.int64), MIN_RADIUS)
        frame, sure = (found.cell[mine] // cells).tolist(), confidence[mine].tolist()
        for place in np.flatnonzero((column >= 0) & (column < grid.nx) & (row >= 0) & (row < grid.ny)):
            where = int(row[place]), int(column[place])
            draw_gaussian(maps[frame[place], index], *where, int(radius[place]), peak=sure[place])
    return torch.from_numpy(maps).to(confidence.device), confidence[confidence >= LOWEST]


def binary_entropy(p: Tensor) -> Tensor:
    """Of probabilities strictly between 0 and 1, in nats."""
    return -(p * p.log() + (1 - p) * (1 - p).log())


def _at_the_students(
    context: SignalContext, codes: Tensor, cell: Tensor, confidence: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, cells and confidences of the teacher's objects on the student's grid; those outside of it are dropped."""
    have, want = context.teacher_spec.output_grid, context.student_spec.output_grid
    if same_cells(have, want):
        return codes, cell, confidence
    frame, place = cell // (have.nx * have.ny), cell % (have.nx * have.ny)
    x = ((place % have.nx + codes[:, 0]) * have.cell_m + have.x_min_m - want.x_min_m) / want.cell_m
    y = ((place // have.nx + codes[:, 1]) * have.cell_m + have.y_min_m - want.y_min_m) / want.cell_m
    keep = (x >= 0) & (x < want.nx) & (y >= 0) & (y < want.ny)
    where = (frame * want.ny + y.floor().long()) * want.nx + x.floor().long()
    moved = torch.cat([(x - x.floor())[:, None], (y - y.floor())[:, None], codes[:, 2:]], 1)
    order = confidence.masked_fill(~keep, -1).argsort(descending=True, stable=True)[: int(keep.sum())]
    first: dict[int, int] = {}
    for index, target in zip(order.tolist(), where[order].tolist(), strict=True):
        first.setdefault(target, index)
    best = torch.tensor(list(first.values()), dtype=torch.long, device=cell.device)
    return moved[best], where[best], confidence[best]
