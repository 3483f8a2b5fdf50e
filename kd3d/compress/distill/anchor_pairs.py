"""Two anchor heads side by side: whether their anchors are the same, and where those of one lie among the other's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kd3d.compress.distill.context import SignalContext, check_frame
from kd3d.errors import UsageError
from kd3d.geometry.boxes import Floats
from kd3d.runtime.anchors import anchor_centres, anchor_shapes
from kd3d.spec import AnchorHeadSpec, DetectorSpec
from kd3d.training.anchor_losses import by_anchor

Axis = Literal["x", "y"]
_SAME_M = 1e-3  # anchors closer than a millimetre are the same


def check_anchors(student: DetectorSpec, teacher: DetectorSpec) -> None:
    """Refuse models whose anchors differ, in anything but where they lie.

    Raises:
        UsageError: one has no anchor head; or their anchors or frames differ: lists every difference.
    """
    for side, spec in (("student", student), ("teacher", teacher)):
        if not isinstance(spec.head, AnchorHeadSpec):
            raise UsageError(
                f"anchors can only be compared between two anchor heads, but the {side} {spec.name} has a centre head. "
                "Between the two kinds label distillation and feature signals work."
            )
    check_frame(student, teacher)
    found = differences(student.anchor_head, teacher.anchor_head)
    if found:
        raise UsageError(
            f"the anchors of the student {student.name} and the teacher {teacher.name} differ, {len(found)} time(s): "
            f"{'; '.join(found)}. Give the student the teacher's anchors, or distil labels and features only."
        )


def differences(student: AnchorHeadSpec, teacher: AnchorHeadSpec) -> list[str]:
    """What differs between two sets of anchors, in words; the order of classes does not count."""
    ours, theirs = ({anchor.name: anchor for anchor in head.anchors} for head in (student, teacher))
    found = [f"only the student has {name}" for name in ours if name not in theirs]
    found += [f"only the teacher has {name}" for name in theirs if name not in ours]
    for name in (name for name in ours if name in theirs):
        for what, unit in (("size_m", "size"), ("bottom_m", "bottom")):
            one, other = getattr(ours[name], what), getattr(theirs[name], what)
            if one != other:
                found.append(f"{name} has the {unit} {one} m, the teacher's {other} m")
    for what in ("rotations_rad", "direction_bins", "direction_offset_rad"):
        one, other = getattr(student, what), getattr(teacher, what)
        if one != other:
            found.append(f"{what} is {one}, the teacher's {other}")
    return found


def ordered(context: SignalContext, side: str, name: str) -> Tensor:
    """One map ``[B, A, codes, H, W]`` fp32 of the ``student`` or ``teacher``, classes in the student's order.

    Args:
        context: of two anchor heads with the same anchors.
        side: whose map.
        name: ``cls`` (whose codes are classes), ``box`` or ``dir``.
    """
    spec: DetectorSpec = getattr(context, f"{side}_spec")
    turns = len(spec.anchor_head.rotations_rad)
    maps = by_anchor(getattr(getattr(context, side).heads[0], name), len(spec.head.classes) * turns)
    places = [spec.head.classes.index(kind) for kind in context.classes]
    if places == list(range(len(places))):
        return maps
    maps = maps[:, [place * turns + turn for place in places for turn in range(turns)]]
    return maps[:, :, places] if name == "cls" else maps


@dataclass(frozen=True)
class AnchorGrids:
    """Where both models' anchors lie.

    Args:
        student, teacher: models with the same anchors.
    """

    student: DetectorSpec
    teacher: DetectorSpec

    @cached_property
    def _centres(self) -> dict[Axis, tuple[Floats, Floats]]:
        """The student's and the teacher's anchors along each axis."""
        ours, theirs = anchor_centres(self.student), anchor_centres(self.teacher)
        axes: tuple[Axis, Axis] = ("x", "y")
        return {axis: (ours[at].astype(np.float64), theirs[at].astype(np.float64)) for at, axis in enumerate(axes)}

    @cached_property
    def same(self) -> bool:
        """Whether all anchors coincide."""
        pairs = self._centres.values()
        return all(len(a) == len(b) and bool((np.abs(a - b) < _SAME_M).all()) for a, b in pairs)

    def resampled(self, maps: Tensor) -> Tensor:
        """The student's ``[B, C, Hs, Ws]`` at the teacher's anchors ``[B, C, Ht, Wt]``, bilinear; beyond the outermost
        anchors the values there continue.
        """
        if self.same:
            return maps
        x, y = (self._normalised(axis) for axis in ("x", "y"))
        where = np.stack(np.broadcast_arrays(x[None], y[:, None]), -1)
        place = torch.from_numpy(where).to(maps.device, maps.dtype)[None].expand(len(maps), -1, -1, -1)
        return functional.grid_sample(maps, place, mode="bilinear", padding_mode="border", align_corners=True)

    def known(self, device: torch.device | str) -> Tensor:
        """``[Ht, Wt]`` bool: which of the teacher's anchors lie among the student's, or half a step beyond."""
        x, y = (
            np.abs(theirs - (ours[0] + ours[-1]) / 2) <= (ours[-1] - ours[0]) / 2 + _step(ours) / 2
            for ours, theirs in (self._centres["x"], self._centres["y"])
        )
        return torch.from_numpy(y[:, None] & x[None]).to(device)

    def nearest(self, index: Tensor, axis: Axis) -> Tensor:
        """The student's rows or columns nearest to the teacher's."""
        return torch.from_numpy(self._nearest(axis)).to(index.device)[index]

    def apart_m(self, index: Tensor, axis: Axis) -> Tensor:
        """How far the teacher's rows or columns lie beyond the student's nearest, fp32 metres."""
        ours, theirs = self._centres[axis]
        apart = (theirs - ours[self._nearest(axis)]).astype(np.float32)
        return torch.from_numpy(apart).to(index.device)[index]

    def diagonals(self, device: torch.device) -> Tensor:
        """``[A]`` of the anchors seen from above, fp32 metres; classes in the student's order."""
        shapes = anchor_shapes(self.student)
        return torch.from_numpy(np.hypot(shapes[:, 1], shapes[:, 2])).to(device)

    def _nearest(self, axis: Axis) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        ours, theirs = self._centres[axis]
        place = np.round((theirs - ours[0]) / _step(ours)).astype(np.int64)
        return np.clip(place, 0, len(ours) - 1)

    def _normalised(self, axis: str) -> Floats:
        """The teacher's anchors along an axis, where -1 and 1 are the student's first and last."""
        ours, theirs = self._centres["x" if axis == "x" else "y"]
        span = ours[-1] - ours[0]
        if span == 0:
            return np.zeros_like(theirs)
        return np.asarray(2 * (theirs - ours[0]) / span - 1)


def _step(centres: Floats) -> float:
    """Distance of neighbours."""
    return float(centres[-1] - centres[0]) / max(len(centres) - 1, 1) or 1.0
