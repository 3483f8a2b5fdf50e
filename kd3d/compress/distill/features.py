"""Cross-scale feature distillation: a high-resolution teacher's levels teach a low-resolution student's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from kd3d.compress.distill.context import SignalContext, find_tap
from kd3d.compress.distill.masks import Mask, mask_of
from kd3d.compress.distill.reads import Reads, WholeMaps
from kd3d.compress.distill.resample import inside, pool_and_resample
from kd3d.compress.distill.signals import SOFT_FLOOR, standardised
from kd3d.errors import UsageError
from kd3d.spec import DetectorSpec
from kd3d.training.objective import Term

LEVEL_OCTAVES = 0.5  # levels whose cells differ by more than this factor of two do not stand for each other
NECK_OCTAVES = 1.0  # the necks always do, up to a factor of two

TapKind = Literal["levels", "neck"]


@dataclass(frozen=True)
class TapPlace:
    """A tap before the network is built: its name, channels and cell."""

    name: str
    channels: int
    cell_m: float


@dataclass(frozen=True)
class TapPair:
    """Maps that show the same ground at about the same scale."""

    student: TapPlace
    teacher: TapPlace


def level_places(spec: DetectorSpec) -> tuple[TapPlace, ...]:
    """The taps of the backbone's levels."""
    found, cell = [], spec.grid.cell_m
    for index, (stride, channels) in enumerate(zip(spec.backbone.strides, spec.backbone.channels, strict=True)):
        cell *= stride
        found.append(TapPlace(f"level{index}", channels, cell))
    return tuple(found)


def neck_place(spec: DetectorSpec) -> TapPlace:
    """The tap of the concatenated up branches."""
    return TapPlace("neck", spec.backbone.out_channels, spec.output_grid.cell_m)


def match_taps(
    student: DetectorSpec, teacher: DetectorSpec, kinds: tuple[TapKind, ...] = ("levels", "neck")
) -> tuple[TapPair, ...]:
    """Pair taps by the size of their cells in metres.

    Each student level takes the teacher level of the nearest cell size, the finer one of equals; a level without a
    teacher level within a factor of sqrt(2) is dropped. Necks are paired up to a factor of 2.

    Raises:
        UsageError: nothing matches.
    """
    pairs: list[TapPair] = []
    if "levels" in kinds:
        for place in level_places(student):
            nearest = min(level_places(teacher), key=lambda other: (round(_octaves(place, other), 9), other.cell_m))
            if _octaves(place, nearest) <= LEVEL_OCTAVES + 1e-9:
                pairs.append(TapPair(place, nearest))
    if "neck" in kinds and _octaves(neck_place(student), neck_place(teacher)) <= NECK_OCTAVES + 1e-9:
        pairs.append(TapPair(neck_place(student), neck_place(teacher)))
    if not pairs:
        cells = ", ".join(f"{place.cell_m:g}" for place in (*level_places(student), neck_place(student)))
        others = ", ".join(f"{place.cell_m:g}" for place in (*level_places(teacher), neck_place(teacher)))
        raise UsageError(
            f"no feature maps of student (cells of {cells} m) and teacher ({others} m) are of similar scale. "
            "Leave feature distillation out, or choose a cell nearer to the teacher's."
        )
    return tuple(pairs)


def _octaves(a: TapPlace, b: TapPlace) -> float:
    return abs(math.log2(b.cell_m / a.cell_m))


@dataclass(frozen=True)
class FeatureImitation(WholeMaps):
    """Mean squared error of standardised feature maps at the foreground.

    ``w * sum_x M(x) |N(A F_s)(x) - N(R F_t)(x)|^2 / (2 C) / sum_x M(x)``: ``A`` a 1x1 convolution where the channels
    differ (trained along, never saved with the student), ``R`` resampling of the teacher to the student's grid by
    metric position, ``N`` zero mean and unit variance per frame and channel.

    Args:
        pair: the maps.
        weight: factor in the total.
        mask: of the foreground, on the teacher's output grid; ``None`` takes the highest ground-truth Gaussian.
    """

    pair: TapPair
    weight: float = 1.0
    mask: Mask | None = None

    @property
    def name(self) -> str:
        """See ``Signal``."""
        return f"kd.features.{self.pair.student.name}"

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        """See ``Signal``."""
        for side, spec, place in (("student", student, self.pair.student), ("teacher", teacher, self.pair.teacher)):
            if place not in (*level_places(spec), neck_place(spec)):
                raise UsageError(f"the {side} has no map {place}. Make the pair with match_taps for these models.")

    @property
    def reads(self) -> Reads:
        """See ``Signal``."""
        return Reads(maps=(self.pair.teacher.name,))

    def adapter(self, student: DetectorSpec, teacher: DetectorSpec) -> nn.Module | None:
        """See ``Signal``."""
        if self.pair.student.channels == self.pair.teacher.channels:
            return None
        return nn.Conv2d(self.pair.student.channels, self.pair.teacher.channels, 1)

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        student = find_tap(context.student, self.pair.student.name)
        teacher = find_tap(context.teacher, self.pair.teacher.name)
        adapted = context.adapters[self.name](student.tensor) if self.name in context.adapters else student.tensor
        wanted = pool_and_resample(teacher.tensor.detach().float(), teacher.grid, student.grid)
        error = (standardised(adapted) - standardised(wanted)).square().mean(1) / 2
        mask = context.gaussian.amax(1) if self.mask is None else mask_of(self.mask, context)
        have = context.teacher_spec.output_grid
        mask = pool_and_resample(mask.detach()[:, None], have, student.grid, pool="max")[:, 0]
        mask = mask * inside(have, student.grid, mask.device)
        return Term(self.name, (mask * error).sum(), mask.sum(), self.weight, SOFT_FLOOR)


def cross_scale(
    student: DetectorSpec,
    teacher: DetectorSpec,
    *,
    weight: float = 1.0,
    kinds: tuple[TapKind, ...] = ("levels", "neck"),
    mask: Mask | None = None,
) -> tuple[FeatureImitation, ...]:
    """One signal per matching pair of maps; their weights sum to ``weight``."""
    pairs = match_taps(student, teacher, kinds)
    return tuple(FeatureImitation(pair, weight / len(pairs), mask) for pair in pairs)
