"""What one forward pass gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from kd3d.datasets.sample import Sample
from kd3d.detectors.batch import Batch, prepare
from kd3d.geometry.boxes import Boxes3D
from kd3d.spec import DetectorSpec
from kd3d.training.labels import map_labels
from kd3d.training.targets import Targets, make_targets

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; never evaluated


class Recorded(Protocol):
    """What a teacher said about a batch, recorded earlier."""

    def to(self, device: torch.device | str) -> Self:
        """The same on ``device``."""
        ...

    def pin_memory(self) -> Self:
        """The same in page-locked memory."""
        ...


@dataclass
class TrainBatch:
    """Frames ready for training: those with labels, then those without.

    Args:
        tokens: of the frames.
        student: the student's input.
        teacher: the teacher's input, made from the same augmented frames; ``None`` without a teacher.
        boxes: ground truth per frame with labels, labels in the student's classes.
        targets: the student's targets from ``boxes`` (made in the worker), or ``None``.
        recorded: the teacher's answers to these very frames, which make ``teacher`` needless; ``None`` without.
        unlabelled: the last frames, which have no labels, by their index among the frames without labels.
    """

    tokens: tuple[str, ...]
    student: Batch
    teacher: Batch | None
    boxes: list[Boxes3D]
    targets: tuple[Targets, ...] | None = None
    recorded: Recorded | None = None
    unlabelled: tuple[int, ...] = ()

    @property
    def labelled(self) -> int:
        """Frames with labels."""
        return len(self.tokens) - len(self.unlabelled)

    def to(self, device: torch.device | str) -> TrainBatch:
        """The same batch with its tensors on ``device``."""
        return replace(
            self,
            student=self.student.to(device),
            teacher=None if self.teacher is None else self.teacher.to(device),
            targets=None if self.targets is None else tuple(target.to(device) for target in self.targets),
            recorded=None if self.recorded is None else self.recorded.to(device),
        )

    def pin_memory(self) -> TrainBatch:
        """The same batch in page-locked memory, as DataLoader asks for."""
        return replace(
            self,
            student=self.student.pin_memory(),
            teacher=None if self.teacher is None else self.teacher.pin_memory(),
            targets=None if self.targets is None else tuple(target.pin_memory() for target in self.targets),
            recorded=None if self.recorded is None else self.recorded.pin_memory(),
        )


def make_batch(
    samples: Sequence[Sample],
    spec: DetectorSpec,
    teacher_spec: DetectorSpec | None = None,
    *,
    targets: bool = True,
    unlabelled: tuple[int, ...] = (),
) -> TrainBatch:
    """Collate frames for a student, and for its teacher.

    Args:
        samples: augmented frames; one without labels counts as empty of objects, unless it is among ``unlabelled``.
        spec: the student.
        teacher_spec: the teacher, if any; it sees the same points through its own grid.
        targets: whether to assign the student's targets here.
        unlabelled: see ``TrainBatch``; labels of these frames are not looked at.
    """
    boxes = [
        Boxes3D.empty() if sample.boxes is None else map_labels(sample.boxes, sample.classes, spec.head.classes)
        for sample in samples[: len(samples) - len(unlabelled)]
    ]
    return TrainBatch(
        tuple(sample.token for sample in samples),
        prepare(samples, spec),
        None if teacher_spec is None else prepare(samples, teacher_spec),
        boxes,
        make_targets(boxes, spec) if targets and boxes else None,
        unlabelled=unlabelled,
    )
