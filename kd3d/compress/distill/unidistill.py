"""UniDistill (arXiv 2303.15083): features, relations and responses at the objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kd3d.compress.distill.context import CLAMP, SignalContext, class_logits, regression_maps
from kd3d.compress.distill.points import nine_points, sample_points
from kd3d.compress.distill.reads import HeadSignal, Reads
from kd3d.compress.distill.resample import inside, resample, same_cells
from kd3d.compress.distill.taps import TapSignal
from kd3d.errors import UsageError
from kd3d.runtime.targets import assign_targets
from kd3d.spec import DetectorSpec
from kd3d.training.labels import map_labels
from kd3d.training.objective import Term

OVERLAP = 0.7  # of the Gaussians' radius; CenterPoint's targets have 0.1
FLOOR = 1e-4


@dataclass(frozen=True)
class NinePoints(TapSignal):
    """``L_fea = 1/N sum_boxes 1/9 sum_k |s_k - t_k|_1 / C`` at corners, centre and edge middles of each box.

    Released weights: 100 for a LiDAR teacher of a camera student, else 10. UniDistill takes the input of the BEV
    encoder; the nearest map of a pillar detector is ``level0``.

    Args:
        swapped: sample with x and y exchanged, the defect of the release (its published numbers may have it).
    """

    weight: float = 10.0
    tap: str = "level0"
    swapped: bool = False
    label: ClassVar[str] = "nine-points"

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        ours, theirs, empty = self.sampled(context)
        return self._term((ours - theirs).abs().mean((1, 2)).sum() + empty, len(ours))

    def sampled(self, context: SignalContext) -> tuple[Tensor, Tensor, Tensor]:
        """Student's and teacher's features ``[N, 9, C]``, and a zero that keeps the graph."""
        ours, grid, theirs, have = self.maps(context)
        points = [nine_points(frame) for frame in context.boxes]
        student = sample_points(ours, grid, points, swap=self.swapped)
        return student, sample_points(theirs, have, points, swap=self.swapped), ours.sum() * 0

    def _term(self, total: Tensor, boxes: int) -> Term:
        return Term(self.name, total, torch.tensor(float(boxes), device=total.device), self.weight)


@dataclass(frozen=True)
class PointRelations(NinePoints):
    """``L_rel = 1/N sum_boxes 1/81 |A_s A_s' - A_t A_t'|_1``, ``a_k = f_k / (|f_k| + 1e-4)``; needs no adapter.

    Released weights: 40 (LiDAR to camera), 5 (fusion to camera, camera to LiDAR), 1 (fusion to LiDAR).
    """

    weight: float = 5.0
    tap: str = "neck"
    adapts: ClassVar[bool] = False
    label: ClassVar[str] = "relations"

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        ours, theirs, empty = self.sampled(context)
        a, b = (_cosines(rows) for rows in (ours, theirs))
        return self._term((a - b).abs().mean((1, 2)).sum() + empty, len(ours))


@dataclass(frozen=True)
class GaussianResponses(HeadSignal):
    """``L_resp = sum M (|max_c P_s - max_c P_t| + mean_d |R_s - R_t|) / sum M`` under small Gaussians of all classes.

    Box codes count only between equal output grids.

    Args:
        weight: 10 in the release, 1 from camera to LiDAR.
        teacher_temperature: divides the teacher's logits alone. The release has 2, in no text, which pulls even a
            perfect student away from the teacher; 1 leaves that out.
    """

    weight: float = 10.0
    teacher_temperature: float = 1.0
    name: str = "kd.responses"

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        """See ``Signal``."""
        if not self.teacher_temperature > 0:
            raise UsageError(f"teacher_temperature must be above 0, not {self.teacher_temperature:g}.")
        super().check(student, teacher)

    @property
    def reads(self) -> Reads:
        """See ``Signal``."""
        return Reads("cells", "cells")

    def cells(self, context: SignalContext) -> Tensor:
        """See ``Signal``."""
        return small_gaussians(context).to(context.teacher_heatmap.device) > 0

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        have, want = context.student_spec.output_grid, context.teacher_spec.output_grid
        logits = class_logits(context.teacher.heads, context.teacher_spec, context.classes).detach()
        theirs = (logits / self.teacher_temperature).sigmoid().clamp(CLAMP, 1 - CLAMP).amax(1)
        error = (resample(context.student_heatmap, have, want).amax(1) - theirs).abs()
        mask = small_gaussians(context).to(error.device)
        if same_cells(have, want):
            error = error + _box_error(context)
        else:
            mask = mask * inside(have, want, mask.device)
        return Term(self.name, (mask * error).sum(), mask.sum(), self.weight, FLOOR)


def small_gaussians(context: SignalContext) -> Tensor:
    """``[B, Ht, Wt]``: the highest Gaussian of overlap 0.7 over all classes; a pedestrian is one cell of 1."""
    spec = context.teacher_spec
    spec = replace(
        spec,
        head=replace(spec.center_head, tasks=(context.classes,)),
        decode=replace(spec.decode, nms_threshold=(0.0,)),
    )
    maps = []
    for frame in context.boxes:
        boxes = map_labels(frame, context.student_spec.head.classes, context.classes)
        maps.append(assign_targets(boxes, spec, min_overlap=OVERLAP, min_radius=0)[0].heatmap.max(axis=0))
    return torch.from_numpy(np.stack(maps))


def _box_error(context: SignalContext) -> Tensor:
    velocity = context.student_spec.head.velocity and context.teacher_spec.head.velocity
    maps = [
        torch.cat([regression_maps(heads, spec, name, velocity=velocity) for name in context.classes], 1)
        for heads, spec in (
            (context.student.heads, context.student_spec),
            (context.teacher.heads, context.teacher_spec),
        )
    ]
    return (maps[0] - maps[1].detach()).abs().mean(1)


def _cosines(rows: Tensor) -> Tensor:
    units = rows / (rows.norm(dim=2, keepdim=True) + 1e-4)
    return units @ units.mT
