"""The anchor head of SECOND and PointPillars, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kd3d.errors import SpecError
from kd3d.spec.limits import MOST_LAYERS, at_most

# (below, from): an anchor whose overlap with every object is below the first is background, from the second on it
# stands for an object. By class name: OpenPCDet's configurations for KITTI and Waymo (capitals), and for nuScenes.
PUBLISHED_MATCHING: dict[str, tuple[float, float]] = {
    "Car": (0.45, 0.6),
    "Vehicle": (0.4, 0.55),
    "Pedestrian": (0.35, 0.5),
    "Cyclist": (0.35, 0.5),
    "car": (0.45, 0.6),
    "truck": (0.4, 0.55),
    "construction_vehicle": (0.35, 0.5),
    "bus": (0.4, 0.55),
    "trailer": (0.35, 0.5),
    "barrier": (0.4, 0.55),
    "motorcycle": (0.3, 0.5),
    "bicycle": (0.35, 0.5),
    "pedestrian": (0.4, 0.6),
    "traffic_cone": (0.4, 0.6),
}
_LONG_M = 3.0  # a class that is not listed is matched like a car from this length on, else like a pedestrian


@dataclass(frozen=True)
class AnchorSpec:
    """The box that a class expects in every cell.

    Args:
        name: the class.
        size_m: length, width, height.
        bottom_m: height of its bottom; the centre is half its height above.
        matching: overlaps (IoU seen from above) that decide about an anchor in training: background below the first, an
            object from the second on, in between it does not count. ``None`` takes the published ones of the class.
    """

    name: str
    size_m: tuple[float, float, float]
    bottom_m: float
    matching: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.name or min(self.size_m) <= 0:
            raise SpecError(f"an anchor needs a class name and positive sizes; got {self.name!r}, {self.size_m}.")
        if self.matching is not None and not 0 < self.matching[0] <= self.matching[1] <= 1:
            raise SpecError(f"the matching overlaps of {self.name} must rise within 0..1; got {self.matching}.")

    @property
    def thresholds(self) -> tuple[float, float]:
        """``matching``, or the published overlaps of the class."""
        like = "Car" if self.size_m[0] >= _LONG_M else "Pedestrian"
        return self.matching or PUBLISHED_MATCHING.get(self.name, PUBLISHED_MATCHING[like])


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
        at_most(MOST_LAYERS, direction_bins=self.direction_bins, rotations=len(self.rotations_rad))

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
