"""What signals on feature maps share: the channels of a tap, adapters, and both models' maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from kd3d.compress.distill.context import SignalContext, check_frame, find_tap
from kd3d.compress.distill.features import level_places, neck_place
from kd3d.compress.distill.reads import Reads, WholeMaps
from kd3d.compress.distill.resample import pool_and_resample
from kd3d.errors import UsageError
from kd3d.geometry.grid import BevGrid
from kd3d.spec import DetectorSpec


def tap_channels(spec: DetectorSpec, tap: str, side: str) -> int:
    """Channels of the map called ``tap``.

    Raises:
        UsageError: there is none; lists the known ones.
    """
    places = {place.name: place.channels for place in (*level_places(spec), neck_place(spec))}
    if tap not in places:
        raise UsageError(f"the {side} has no feature map {tap!r}; it has {', '.join(places)}.")
    return places[tap]


@dataclass(frozen=True)
class TapSignal(WholeMaps):
    """Base of the signals that compare the map of one name in both models.

    Args:
        weight: factor in the total.
        tap: ``level0`` ... or ``neck``.
        kernel: of the adapter, an affine convolution on the student's map where the channels differ; trained along,
            never part of the student. The authors' batch norm in it is left out: the loss would depend on the batch.
    """

    weight: float = 1.0
    tap: str = "neck"
    kernel: int = 1
    adapts: ClassVar[bool] = True
    label: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """See ``Signal``."""
        return f"kd.{self.label}.{self.tap}"

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        """See ``Signal``."""
        for side, spec in (("student", student), ("teacher", teacher)):
            tap_channels(spec, self.tap, side)
        check_frame(student, teacher)

    def adapter(self, student: DetectorSpec, teacher: DetectorSpec) -> nn.Module | None:
        """See ``Signal``."""
        ours, theirs = tap_channels(student, self.tap, "student"), tap_channels(teacher, self.tap, "teacher")
        if not self.adapts or ours == theirs:
            return None
        return nn.Conv2d(ours, theirs, self.kernel, padding=self.kernel // 2)

    @property
    def reads(self) -> Reads:
        """See ``Signal``."""
        return Reads(maps=(self.tap,))

    def maps(self, context: SignalContext) -> tuple[Tensor, BevGrid, Tensor, BevGrid]:
        """The student's map (adapted), its grid, the teacher's map (no gradient), its grid; fp32."""
        student, teacher = find_tap(context.student, self.tap), find_tap(context.teacher, self.tap)
        adapted = context.adapters[self.name](student.tensor) if self.name in context.adapters else student.tensor
        return adapted.float(), student.grid, teacher.tensor.detach().float(), teacher.grid

    def aligned(self, context: SignalContext) -> tuple[Tensor, Tensor, BevGrid]:
        """Both maps on the student's grid."""
        ours, grid, theirs, have = self.maps(context)
        return ours, pool_and_resample(theirs, have, grid), grid
