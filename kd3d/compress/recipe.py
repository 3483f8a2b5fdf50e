"""How a student is taught, as one frozen value that becomes an objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kd3d.compress.distill.anchors import AnchorBoxes, AnchorLogits
from kd3d.compress.distill.coefs import BlendSettings
from kd3d.compress.distill.features import TapKind, cross_scale
from kd3d.compress.distill.frame_weights import FrameSettings
from kd3d.compress.distill.label_kd import LabelKD
from kd3d.compress.distill.masks import Confident, Mask, TopRank
from kd3d.compress.distill.objective import DistillationObjective, Semi, refusals
from kd3d.compress.distill.pairing import check_pair
from kd3d.compress.distill.registry import check_entry, made, mask_named
from kd3d.compress.distill.resample import same_cells
from kd3d.compress.distill.signals import CenterRegression, PivotalLogits, Signal
from kd3d.compress.distill.teacher import TeacherSettings
from kd3d.detectors.model import CenterPoint
from kd3d.errors import UsageError
from kd3d.spec import AnchorHeadSpec, DetectorSpec
from kd3d.training.objective import Weights


@dataclass(frozen=True)
class Recipe:
    """Weights and switches; 0 leaves a signal out.

    The defaults are SparseKD's: logits at pivotal positions and label distillation, no features, which their benchmark
    finds to conflict with the other two.
    """

    logits: float = 7.0
    """Weight of pivotal-position logit distillation (released: 7 for larger cells, 10 to 15 for narrower networks)."""
    mask: str = "gaussian"
    """Where logits are compared: a name of ``kd3d.compress.distill.registry.MASKS``."""
    confidence: float = 0.1
    """Threshold of the ``confidence`` mask."""
    rank: int = 500
    """Cells of the ``rank`` mask."""
    boxes: float = 0.2
    """Weight of box code distillation; left out between heads of two kinds, and where centre heads' grids differ."""
    features: float = 0.0
    """Weight of cross-scale feature distillation, all pairs of maps together."""
    taps: tuple[TapKind, ...] = ("levels", "neck")
    """Feature maps that are compared."""
    label_threshold: float | None = 0.6
    """Teacher boxes above this score become labels; ``None`` turns label distillation off."""
    label_thresholds: Mapping[str, float] = field(default_factory=dict)
    """Thresholds of single classes instead."""
    pseudo_labels: float | None = None
    """Teacher boxes above this score are the labels of frames that have none; ``None`` leaves them without."""
    more: tuple[Mapping[str, Any], ...] | None = None
    """Further signals, as ``kd3d.compress.distill.registry.made`` reads them."""
    blend: BlendSettings | None = None
    """Automatic gradient blending instead of the weights; ``None`` adds the weighted losses."""
    supervised: bool | None = None
    """``False`` trains without any label; ``None`` and ``True`` with the detection losses."""
    frames: FrameSettings | None = None
    """Weighs frames by how hard they are, and draws frames without labels accordingly; ``None`` treats all alike."""

    def __post_init__(self) -> None:
        for name in ("logits", "boxes", "features"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"the {name} weight must be 0 or more, not {getattr(self, name):g}.")
        mask_named(self.mask)
        self._label_kd()
        for entry in self.more or ():
            check_entry(entry)

    def signals(self, student: DetectorSpec, teacher: DetectorSpec) -> tuple[Signal, ...]:
        """The losses for a pair of models.

        Raises:
            UsageError: the models cannot be joined; names every reason and every other difference.
        """
        found, refused = self._head_signals(student, teacher), list[str]()
        if self.features:
            with _collected(refused):
                found += cross_scale(student, teacher, weight=self.features, kinds=self.taps)
        for entry in self.more or ():
            with _collected(refused):
                found += made(entry, student, teacher)
        check_pair(student, teacher, refused)
        return tuple(found)

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        """Refuse a pair of models that a signal cannot join, before anything is written.

        Raises:
            UsageError: says why, all reasons at once, and what works.
        """
        refused = refusals(student, teacher, self.signals(student, teacher), weighed=self.frames is not None)
        check_pair(student, teacher, refused)

    def _head_signals(self, student: DetectorSpec, teacher: DetectorSpec) -> list[Signal]:
        anchors = [isinstance(spec.head, AnchorHeadSpec) for spec in (student, teacher)]
        found: list[Signal] = []
        if self.logits:
            found.append((AnchorLogits if all(anchors) else PivotalLogits)(self.logits, self._mask()))
        if self.boxes and all(anchors):
            found.append(AnchorBoxes(self.boxes, self._mask()))
        elif self.boxes and not any(anchors) and same_cells(student.output_grid, teacher.output_grid):
            found.append(CenterRegression(self.boxes))
        return found

    def objective(
        self,
        teacher: CenterPoint,
        student: DetectorSpec,
        *,
        weights: Weights | None = None,
        running: TeacherSettings | None = None,
        semi: Semi | None = None,
    ) -> DistillationObjective:
        """The objective that trains ``student`` with ``teacher``, which is run as ``running`` says.

        Args:
            teacher: left unchanged.
            student: its specification.
            weights: of the detection losses.
            running: how the teacher is run.
            semi: about the frames without labels, if there are any.
        """
        signals = self.signals(student, teacher.spec)
        supervised = self.supervised is not False
        return DistillationObjective(
            teacher,
            student,
            signals,
            label_kd=self._label_kd(),
            weights=weights,
            running=running,
            blend=self.blend,
            supervised=supervised,
            frames=self.frames,
            semi=semi or Semi(),
        )

    def _label_kd(self) -> LabelKD | None:
        if self.label_threshold is not None:
            return LabelKD(self.label_threshold, dict(self.label_thresholds), pseudo=self.pseudo_labels)
        return None if self.pseudo_labels is None else LabelKD(1.0, pseudo=self.pseudo_labels)

    def _mask(self) -> Mask:
        if self.mask == "confidence":
            return Confident(self.confidence)
        return TopRank(self.rank) if self.mask == "rank" else mask_named(self.mask)


@contextmanager
def _collected(refused: list[str]) -> Iterator[None]:
    """Note what a signal objects to, so that all objections are told at once."""
    try:
        yield
    except UsageError as error:
        refused.append(str(error))
