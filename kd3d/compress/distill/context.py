"""What a signal looks at: both models' outputs on the same frames, and the ground truth on the teacher's grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from kd3d.compress.distill.masks import FLOOR
from kd3d.compress.distill.proposals import Proposals, proposals
from kd3d.compress.distill.resample import same_cells
from kd3d.detectors.model import BevTap, DetectorOutput
from kd3d.errors import UsageError
from kd3d.geometry.boxes import Boxes3D
from kd3d.spec import AnchorHeadSpec, CenterHeadSpec, DetectorSpec
from kd3d.training.anchor_losses import by_anchor
from kd3d.training.anchor_targets import AnchorBatchTargets, assign_anchors_batch
from kd3d.training.labels import map_labels
from kd3d.training.targets import BatchTargets, assign_targets_batch

CLAMP = FLOOR


def common_classes(student: DetectorSpec, teacher: DetectorSpec) -> tuple[str, ...]:
    """Classes that both models know, in the student's order.

    Raises:
        UsageError: there are none.
    """
    found = tuple(name for name in student.head.classes if name in teacher.head.classes)
    if not found:
        raise UsageError(
            f"teacher and student have no class in common: {', '.join(teacher.head.classes)} "
            f"and {', '.join(student.head.classes)}."
        )
    return found


def check_frame(student: DetectorSpec, teacher: DetectorSpec) -> None:
    """Refuse models of different coordinate frames.

    Raises:
        UsageError: they are.
    """
    if student.grid.frame != teacher.grid.frame:
        raise UsageError(f"the student is in the {student.grid.frame} frame, the teacher in {teacher.grid.frame}.")


def check_cells(student: DetectorSpec, teacher: DetectorSpec, what: str) -> None:
    """Refuse models whose output grids differ.

    Args:
        student: the one model.
        teacher: the other.
        what: what cannot be done then, such as "proposals can be ranked".

    Raises:
        UsageError: they do.
    """
    if not same_cells(student.output_grid, teacher.output_grid):
        raise UsageError(
            f"{what} only between equal output grids; the student's cells are "
            f"{student.output_grid.cell_m:g} m, the teacher's {teacher.output_grid.cell_m:g} m. Leave it out."
        )


@dataclass
class SignalContext:
    """Both outputs on one batch. Everything of the teacher is without gradient.

    Args:
        student, teacher: outputs; maps ``[B, C, H, W]``.
        student_spec, teacher_spec: of the models.
        boxes: ground truth per frame, labels in the student's classes; never the teacher's boxes.
        adapters: train-only modules of the signals, by signal name.
    """

    student: DetectorOutput
    teacher: DetectorOutput
    student_spec: DetectorSpec
    teacher_spec: DetectorSpec
    boxes: Sequence[Boxes3D]
    adapters: Mapping[str, nn.Module] = field(default_factory=dict)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Classes that both models know; the channel order of all heatmaps here."""
        return common_classes(self.student_spec, self.teacher_spec)

    @cached_property
    def student_heatmap(self) -> Tensor:
        """``[B, C, Hs, Ws]`` fp32 probabilities of the student on its own grid."""
        with torch.enable_grad():  # it is kept: whoever asks first must not decide whether the signals have a gradient
            return class_heatmap(self.student.heads, self.student_spec, self.classes)

    @cached_property
    def teacher_heatmap(self) -> Tensor:
        """``[B, C, Ht, Wt]`` fp32 probabilities of the teacher on its own grid."""
        return class_heatmap(self.teacher.heads, self.teacher_spec, self.classes).detach()

    @cached_property
    def proposals(self) -> Proposals:
        """The teacher's objects, with the confidence in them and in their boxes."""
        return proposals(self)

    def teacher_codes(self, name: str) -> Tensor:
        """``[B, 8, Ht, Wt]`` box codes of class ``name``, without velocity and gradient."""
        return regression_maps(self.teacher.heads, self.teacher_spec, name, velocity=False).detach()

    @cached_property
    def class_targets(self) -> tuple[BatchTargets, ...]:
        """Ground truth on the teacher's output grid, one entry per common class whatever the models' task grouping."""
        tasks = tuple((name,) for name in self.classes)
        head = CenterHeadSpec(tasks, velocity=self.teacher_spec.head.velocity)  # whatever the teacher's head is
        decode = replace(self.teacher_spec.decode, nms_threshold=(0.0,) * len(self.classes))
        spec = replace(self.teacher_spec, head=head, decode=decode)
        boxes = [map_labels(frame, self.student_spec.head.classes, self.classes) for frame in self.boxes]
        device = self.teacher.heads[0][0].device
        return tuple(target.to(device) for target in assign_targets_batch(boxes, spec))

    @cached_property
    def anchor_targets(self) -> AnchorBatchTargets:
        """Ground truth at the teacher's anchors, classes in the student's order; of two anchor heads."""
        head = self.teacher_spec.anchor_head
        anchors = {anchor.name: anchor for anchor in head.anchors}
        kinds = tuple(anchors[name] for name in self.classes)
        spec = replace(self.teacher_spec, head=replace(head, anchors=kinds))
        boxes = [map_labels(frame, self.student_spec.head.classes, self.classes) for frame in self.boxes]
        return assign_anchors_batch(boxes, spec).to(self.teacher.heads[0][0].device)

    @cached_property
    def gaussian(self) -> Tensor:
        """``[B, C, Ht, Wt]`` Gaussians of the ground truth on the teacher's grid."""
        return torch.cat([target.heatmap for target in self.class_targets], 1)


def class_heatmap(heads: Sequence[Any], spec: DetectorSpec, classes: Sequence[str]) -> Tensor:
    """Clamped fp32 probabilities ``[B, len(classes), H, W]``, ordered as ``classes`` whatever the task grouping."""
    return class_logits(heads, spec, classes).sigmoid().clamp(CLAMP, 1 - CLAMP)


def class_logits(heads: Sequence[Any], spec: DetectorSpec, classes: Sequence[str]) -> Tensor:
    """fp32 logits ``[B, len(classes), H, W]``, ordered as ``classes`` whatever the task grouping.

    Of an anchor head each class's highest over the anchors of a cell.
    """
    if isinstance(spec.head, AnchorHeadSpec):
        logits = by_anchor(heads[0].cls, len(spec.head.classes) * len(spec.head.rotations_rad)).amax(1)
    else:
        logits = torch.cat([maps.hm for maps in heads], 1).float()
    order = [spec.head.classes.index(name) for name in classes]
    return logits if order == list(range(logits.shape[1])) else logits[:, order]


def regression_maps(heads: Sequence[Any], spec: DetectorSpec, name: str, *, velocity: bool) -> Tensor:
    """``[B, 8 or 10, H, W]`` regression maps of the task that holds class ``name``."""
    task = next(index for index, names in enumerate(spec.head.tasks) if name in names)
    maps = heads[task]
    parts = [maps.center, maps.center_z, maps.dim, maps.rot, *([maps.vel] if velocity else [])]
    return torch.cat(parts, 1).float()


def find_tap(output: DetectorOutput, name: str) -> BevTap:
    """The tap called ``name``.

    Raises:
        UsageError: there is none; lists the known ones.
    """
    for tap in output.taps:
        if tap.name == name:
            return tap
    raise UsageError(f"there is no tap {name!r}; the known ones are {', '.join(tap.name for tap in output.taps)}.")
