"""Label distillation: the teacher's confident boxes join the ground truth (SparseKD, arXiv 2205.15156)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from kd3d.detectors.decode import decode_batch
from kd3d.errors import UsageError
from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.heads import TaskMaps
from kd3d.spec import DetectorSpec
from kd3d.training.labels import map_labels


@dataclass(frozen=True)
class LabelKD:
    """How teacher boxes become labels; a transform of targets, not a loss.

    Args:
        threshold: a teacher box must score strictly more.
        per_class: thresholds of single classes, instead of ``threshold``.
        order: targets are assigned in this order up to a cap, so with ``gt_first`` ground truth is never dropped.
            ``teacher_first`` is the released order, which can drop it in a crowded frame.
        suppress: whether the teacher's own NMS runs first; the released recipe leaves it out and keeps neighbours.
        pseudo: of frames without labels, the boxes that score strictly more than this are the labels (pseudo-labels,
            Lee 2013); ``None`` leaves those frames without.
    """

    threshold: float = 0.6
    per_class: Mapping[str, float] = field(default_factory=dict)
    order: Literal["gt_first", "teacher_first"] = "gt_first"
    suppress: bool = True
    pseudo: float | None = field(default=None, repr=False)  # runs from before it resume by the repr

    def __post_init__(self) -> None:
        pseudo = {} if self.pseudo is None else {"pseudo": self.pseudo}
        for name, value in {"threshold": self.threshold, **pseudo, **self.per_class}.items():
            if not 0 <= value <= 1:
                raise UsageError(f"the label-distillation threshold ({name}) must be in 0..1, not {value:g}.")

    @classmethod
    def as_released(cls, per_class: Mapping[str, float]) -> LabelKD:
        """The order and the missing suppression of the released SparseKD."""
        return cls(per_class=per_class, order="teacher_first", suppress=False)

    def check(self, student: DetectorSpec) -> None:
        """Refuse thresholds of classes that the student does not have.

        Raises:
            UsageError: names them.
        """
        unknown = sorted(set(self.per_class) - set(student.head.classes))
        if unknown:
            raise UsageError(
                f"label-distillation thresholds are given for {', '.join(unknown)}, but the student's classes are "
                f"{', '.join(student.head.classes)}."
            )

    def labels(
        self,
        truth: Sequence[Boxes3D],
        teacher: Sequence[TaskMaps],
        *,
        teacher_spec: DetectorSpec,
        student_spec: DetectorSpec,
    ) -> list[Boxes3D]:
        """Targets of a batch: ground truth (labels in the student's classes) and the teacher's confident boxes.

        Args:
            truth: per frame.
            teacher: per task, ``[B, C, H, W]``.
            teacher_spec: decodes ``teacher``.
            student_spec: its classes are the labels of the result.
        """
        return self.joined(
            truth, self.found(teacher, teacher_spec), teacher_spec=teacher_spec, student_spec=student_spec
        )

    def found(self, teacher: Sequence[TaskMaps], spec: DetectorSpec) -> list[Boxes3D]:
        """The teacher's boxes per frame, with scores; labels in its own classes.

        Args:
            teacher: its maps per task, ``[B, C, H, W]``.
            spec: decodes them.
        """
        if not self.suppress:
            spec = replace(spec, decode=replace(spec.decode, nms="none"))
        return decode_batch(teacher, spec)

    def joined(
        self,
        truth: Sequence[Boxes3D],
        found: Sequence[Boxes3D],
        *,
        teacher_spec: DetectorSpec,
        student_spec: DetectorSpec,
    ) -> list[Boxes3D]:
        """Like ``labels``, from what ``found`` gave."""
        classes = student_spec.head.classes
        return [
            self.merge(frame, map_labels(boxes, teacher_spec.head.classes, classes), classes)
            for frame, boxes in zip(truth, found, strict=True)
        ]

    def pseudo_labels(
        self, found: Sequence[Boxes3D], *, teacher_spec: DetectorSpec, student_spec: DetectorSpec
    ) -> list[Boxes3D]:
        """Labels of frames that have none, from what ``found`` gave."""
        if self.pseudo is None:
            return []
        alone, none = replace(self, threshold=self.pseudo, per_class={}), [Boxes3D.empty()] * len(found)
        return alone.joined(none, found, teacher_spec=teacher_spec, student_spec=student_spec)

    def merge(self, truth: Boxes3D, teacher: Boxes3D, classes: Sequence[str]) -> Boxes3D:
        """One frame's targets, without scores. Labels of both index ``classes``."""
        limits = np.array([self.per_class.get(name, self.threshold) for name in classes], np.float32)
        if teacher.score is None:
            raise UsageError("the teacher's boxes have no scores.")
        confident = teacher.select(teacher.score > limits[teacher.label])
        ours, theirs = Boxes3D(truth.array, truth.label), Boxes3D(confident.array, confident.label)
        return Boxes3D.concatenate([ours, theirs] if self.order == "gt_first" else [theirs, ours])
