"""The objective of distillation: detection losses on (distilled) labels, plus signals from a frozen teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from kd3d.compress.distill.blending import GradientBlend
from kd3d.compress.distill.coefs import BlendSettings
from kd3d.compress.distill.context import SignalContext
from kd3d.compress.distill.frame_weights import READS, FrameSettings, FrameWeights, read_cells
from kd3d.compress.distill.label_kd import LabelKD
from kd3d.compress.distill.pairing import check_pair
from kd3d.compress.distill.reads import check_centre_heads, joined
from kd3d.compress.distill.record import Layout, Record, RecordedBatch, records_of
from kd3d.compress.distill.semi import frames_of, joined_cells, parts_of, taught_terms, term_names
from kd3d.compress.distill.signals import Signal
from kd3d.compress.distill.teacher import FrozenTeacher, TeacherSettings
from kd3d.detectors.model import CenterPoint, DetectorOutput
from kd3d.errors import UsageError
from kd3d.geometry.boxes import Boxes3D
from kd3d.spec import DetectorSpec, VoxelEncoderSpec
from kd3d.training.batch import TrainBatch
from kd3d.training.objective import Term, Weights, default_weights, detection_terms
from kd3d.training.targets import make_targets


def same_input(student: DetectorSpec, teacher: DetectorSpec) -> bool:
    """Whether both models read the same pillars or voxels, so that one preparation serves both."""
    if isinstance(student.encoder, VoxelEncoderSpec) or isinstance(teacher.encoder, VoxelEncoderSpec):
        return student.points == teacher.points and student.grid == teacher.grid and _same_voxels(student, teacher)
    ours, theirs = student.encoder, teacher.encoder
    caps = (ours.mode, ours.max_points, ours.max_pillars) == (theirs.mode, theirs.max_points, theirs.max_pillars)
    dynamic = ours.mode == theirs.mode == "dynamic"
    return student.points == teacher.points and student.grid == teacher.grid and (caps or dynamic)


def _same_voxels(student: DetectorSpec, teacher: DetectorSpec) -> bool:
    """Whether the neighbour tables are the same: widths do not matter, nor how many blocks read a table."""
    ours, theirs = student.encoder, teacher.encoder
    if not isinstance(ours, VoxelEncoderSpec) or not isinstance(theirs, VoxelEncoderSpec):
        return False
    sizes = [(one.height_m, one.z_paddings, one.max_points, one.max_voxels, one.tables) for one in (ours, theirs)]
    return sizes[0] == sizes[1]


def refusals(
    student: DetectorSpec,
    teacher: DetectorSpec,
    signals: Sequence[Signal],
    *,
    label_kd: LabelKD | None = None,
    weighed: bool = False,
) -> list[str]:
    """What signals, label distillation and the weighing of frames object to in a pair of models."""
    checks: list[Callable[[], None]] = [partial(signal.check, student, teacher) for signal in signals]
    if label_kd is not None:
        checks.append(partial(label_kd.check, student))
    if weighed:
        checks.append(partial(check_centre_heads, "the weighing of frames", student, teacher))
    found = []
    for check in checks:
        try:
            check()
        except UsageError as error:
            found.append(str(error))
    return found


@dataclass(frozen=True)
class Semi:
    """What the objective must know of a training with frames that have no labels.

    Args:
        unlabelled: how many there are.
        balance: their weight beside that of the labelled frames.
        passes: forward passes of the whole training; 0 if unknown.
    """

    unlabelled: int = 0
    balance: float = 1.0
    passes: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.balance < float("inf"):
            raise UsageError(f"the weight of frames without labels must be above 0, not {self.balance:g}.")


_LABELLED = Semi()


@dataclass
class Answers:
    """Frames that the teacher was asked about, and frames whose answer was recorded."""

    asked: int = 0
    recorded: int = 0


class DistillationObjective:
    """A ``kd3d.training.objective.Objective``. The teacher is copied and frozen; the one given is never changed.

    ``adapters`` holds train-only modules of the signals; the training loop optimises and checkpoints them, and no
    student checkpoint contains them.

    Args:
        teacher: a trained network.
        student_spec: of the network that will be trained.
        signals: losses; names must be unique.
        label_kd: ``None`` trains on the ground truth alone.
        weights: of the detection losses.
        running: how the teacher is run.
        blend: joins the gradients of labels and teacher instead of the signals' weights; ``None`` adds them up.
        supervised: ``False`` leaves the detection losses out and never looks at a label.
        frames: weighs frames by how hard they are; ``None`` weighs them alike.
        semi: about the frames without labels, on which the teacher alone teaches.

    Raises:
        UsageError: the models cannot be joined; names every reason and every other difference.
    """

    def __init__(
        self,
        teacher: CenterPoint,
        student_spec: DetectorSpec,
        signals: Sequence[Signal] = (),
        *,
        label_kd: LabelKD | None = None,
        weights: Weights | None = None,
        running: TeacherSettings | None = None,
        blend: BlendSettings | None = None,
        supervised: bool = True,
        frames: FrameSettings | None = None,
        semi: Semi = _LABELLED,
    ) -> None:
        names = [signal.name for signal in signals]
        if len(set(names)) != len(names):
            raise UsageError(f"two signals have the same name: {', '.join(names)}.")
        refused = refusals(student_spec, teacher.spec, signals, label_kd=label_kd, weighed=frames is not None)
        check_pair(student_spec, teacher.spec, refused)
        self.student_spec = student_spec
        self.signals = tuple(signals)
        self.label_kd = label_kd
        self.weights = weights or default_weights(student_spec)
        self.running = running or TeacherSettings()
        self.semi = semi
        self.pseudo = label_kd is not None and label_kd.pseudo is not None
        if self.pseudo and frames is not None:
            raise UsageError("pseudo-labels and the weighing of frames (frames) do not go together: leave one out.")
        taught = self.taught
        self.reads = joined([*(signal.reads for signal in signals), *([READS] if frames is not None else [])])
        self.answers = Answers()
        self._teacher = FrozenTeacher(teacher, self.running)
        self._modules = {
            signal.name: module
            for signal in signals
            if (module := signal.adapter(student_spec, teacher.spec)) is not None
        }
        self.adapters = nn.ModuleList(self._modules.values())
        self.supervised = supervised
        self.blend = None if blend is None else GradientBlend(blend, taught)
        if self.blend is not None:
            self.adapters.append(self.blend.state)
        self.frames = None
        if frames is not None:
            self.frames = FrameWeights(frames, unlabelled=semi.unlabelled, passes=semi.passes)
            self.adapters.append(self.frames)
        if not supervised and (label_kd is not None or not names):
            raise UsageError(
                "without labels a student needs distillation signals and no label distillation, which adds to labels."
            )

    @property
    def taught(self) -> tuple[str, ...]:
        """Names of the terms that come from the teacher."""
        return tuple(term_names(self.signals, unlabelled=self.semi.unlabelled > 0 and not self.pseudo))

    @property
    def unlabelled(self) -> int:
        """Frames without labels that it can teach on."""
        return self.semi.unlabelled

    @property
    def drawing(self) -> FrameWeights | None:
        """Says how often each frame without labels is drawn; ``None`` leaves that to chance."""
        return self.frames if self.semi.unlabelled else None

    @property
    def teacher_spec(self) -> DetectorSpec:
        """The teacher's specification."""
        return self._teacher.spec

    @property
    def teacher_input(self) -> DetectorSpec | None:
        """What the training loop must prepare for the teacher: ``None`` if the student's pillars serve both."""
        return None if same_input(self.student_spec, self.teacher_spec) else self.teacher_spec

    def __call__(self, module: nn.Module, batch: TrainBatch) -> list[Term]:
        """See ``Objective``."""
        output: DetectorOutput = module(batch.student)
        device = output.heads[0][0].device
        teacher = self.answer(batch, device)
        terms: list[Term] = []
        labelled, boxes = batch.labelled, batch.boxes
        if self.supervised:
            labelled = self._with_labels(batch)
            found = self._answered(batch, frames_of(teacher, slice(0, labelled)))
            pseudo = self._pseudo_labels(batch, found)
            labels, boxes = [*self._own_labels(batch, found), *pseudo], [*boxes, *pseudo]
            targets = batch.targets if self.label_kd is None else None
            heads = frames_of(output, slice(0, labelled)).heads
            made = [target.to(device) for target in targets or make_targets(labels, self.student_spec)]
            terms = detection_terms(heads, made, self.weights)
        adapters = {name: adapter.to(device) for name, adapter in self._modules.items()}
        context = SignalContext(output, teacher, self.student_spec, self.teacher_spec, boxes, adapters)
        parts = parts_of(len(batch.tokens), labelled, self.semi.balance)
        taught = taught_terms(self.signals, context, parts, weights=self.frames, unlabelled=batch.unlabelled)
        return [*terms, *taught]

    def identity(self) -> dict[str, Any]:
        """Settings that a resumed run must repeat."""
        return {
            "kind": "distillation",
            "teacher": self.teacher_spec.name,
            "signals": [repr(signal) for signal in self.signals],
            "label_kd": repr(self.label_kd),
            **({} if self.label_kd is None or not self.pseudo else {"pseudo_labels": self.label_kd.pseudo}),
            "weights": repr(self.weights),
            "teacher_norm": self.running.norm,
            **({} if self.running.precision == "auto" else {"teacher_precision": self.running.precision}),
            **({} if self.blend is None else {"blend": self.blend.identity()}),
            **({} if self.supervised else {"supervised": False}),
            **({} if self.frames is None else {"frames": repr(self.frames.settings)}),
            **({} if not self.semi.unlabelled else {"balance": self.semi.balance}),
        }

    @property
    def layout(self) -> Layout:
        """What a record of the teacher must hold for these signals."""
        return Layout(self.teacher_spec, self.reads)

    def records(self, batch: TrainBatch, device: torch.device) -> list[Record]:
        """The teacher's answers to a batch, as ``batch.recorded`` is made of; the student has no part in them."""
        with torch.no_grad():
            output = self._teach(batch, device)
            found = self._found(output)
            boxes = [*batch.boxes, *self._pseudo_labels(batch, found)]
            context = SignalContext(output, output, self.student_spec, self.teacher_spec, boxes)
            more = None if self.frames is None else read_cells
            cells = joined_cells(context, self.signals, self._with_labels(batch), more)
            return records_of(output, cells, found, self.layout)

    def answer(self, batch: TrainBatch, device: torch.device) -> DetectorOutput:
        """What the teacher says about a batch, from its record if there is one."""
        if isinstance(batch.recorded, RecordedBatch):
            self.answers.recorded += len(batch.tokens)
            return batch.recorded.output(self.layout)
        self.answers.asked += len(batch.tokens)
        return self._teach(batch, device)

    def _teach(self, batch: TrainBatch, device: torch.device) -> DetectorOutput:
        return self._teacher(batch.student if batch.teacher is None else batch.teacher, device)

    def _found(self, teacher: DetectorOutput) -> list[Boxes3D]:
        """The teacher's boxes, for label distillation alone."""
        if self.label_kd is None:
            return [Boxes3D.empty()] * len(teacher.heads[0][0])
        return self.label_kd.found(teacher.heads, self.teacher_spec)

    def _answered(self, batch: TrainBatch, teacher: DetectorOutput) -> Sequence[Boxes3D]:
        return batch.recorded.boxes if isinstance(batch.recorded, RecordedBatch) else self._found(teacher)

    def _with_labels(self, batch: TrainBatch) -> int:
        """How many of the first frames have labels, their own or the teacher's."""
        return len(batch.tokens) if self.pseudo else batch.labelled

    def _own_labels(self, batch: TrainBatch, found: Sequence[Boxes3D]) -> list[Boxes3D]:
        """Of the frames with labels; of ``found``, the teacher's boxes, the confident ones join them."""
        if self.label_kd is None:
            return batch.boxes
        own = found[: batch.labelled]
        return self.label_kd.joined(batch.boxes, own, teacher_spec=self.teacher_spec, student_spec=self.student_spec)

    def _pseudo_labels(self, batch: TrainBatch, found: Sequence[Boxes3D]) -> list[Boxes3D]:
        """Of the frames without, if the teacher labels them."""
        if self.label_kd is None:
            return []
        others = found[batch.labelled :]
        return self.label_kd.pseudo_labels(others, teacher_spec=self.teacher_spec, student_spec=self.student_spec)
