"""The anchor head of SECOND and PointPillars, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kd3d.errors import SpecError


@dataclass(frozen=True)
class AnchorSpec:
    """The box that a class expects in every cell.

    Args:
        name: the class.
        size_m: length, width, height.
        bottom_m: height of its bottom; the centre is half its height above.
    """

    name: str
    size_m: tuple[float, float, float]
    bottom_m: float

    def __post_init__(self) -> None:
        if not self.name or min(self.size_m) <= 0:
            raise SpecError(f"an anchor needs a class name and positive sizes; got {self.name!r}, {self.size_m}.")


@dataclass(frozen=True)
class AnchorHeadSpec:
    """Three 1x1 convolutions: class logits, box residuals and heading bins of every anchor.

    Anchor ``a = class * len(rotations_rad) + rotation``; channels are ``a * classes + class``, ``a * 7 + code``
    and ``a * direction_bins + bin``, as in OpenPCDet. All classes are one task.

    Args:
        anchors: one per class; the order is the order of the output labels.
        rotations_rad: headings of the anchors of each class.
        direction_bins: heading bins, which tell front from back.
        direction_offset_rad: where the first bin begins.
        align_center: whether anchors lie at the centres of cells; else the first and last lie on the range's edges.
    """

    anchors: tuple[AnchorSpec, ...]
    rotations_rad: tuple[float, ...] = (0.0, 1.57)
    direction_bins: int = 2
    direction_offset_rad: float = 0.78539
    align_center: bool = False
    kind: Literal["anchor"] = "anchor"

    def __post_init__(self) -> None:
        if not self.anchors or not self.rotations_rad:
            raise SpecError("an anchor head needs at least one anchor and one rotation.")
        if len(set(self.classes)) != len(self.classes):
            raise SpecError(f"a class occurs twice in the anchors {self.classes}.")
        if self.direction_bins < 1:
            raise SpecError(f"direction_bins must be at least 1, not {self.direction_bins}.")

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names, in the order of the output labels."""
        return tuple(anchor.name for anchor in self.anchors)

    @property
    def tasks(self) -> tuple[tuple[str, ...], ...]:
        """The classes as one task: they suppress each other."""
        return (self.classes,)

    @property
    def velocity(self) -> bool:
        """Anchor boxes have no velocity."""
        return False

    @property
    def maps(self) -> tuple[tuple[str, int], ...]:
        """Names and channels of the output maps, in order."""
        anchors = len(self.anchors) * len(self.rotations_rad)
        return (
            ("cls", anchors * len(self.anchors)),
            ("box", anchors * 7),
            ("dir", anchors * self.direction_bins),
        )
