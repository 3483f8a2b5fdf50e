"""Partners for boxes: among another pipeline's boxes, and in its raw maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.anchors import dense_anchor_boxes, direction_margins
from kd3d.runtime.heads import AnchorMaps, TaskMaps
from kd3d.spec import AnchorHeadSpec, DetectorSpec

Array = NDArray[np.float64]

_KINDS = ("center_m", "size_m", "yaw_rad", "score", "velocity_m_s")

# Sizes are exponentials: of a box of 26 km, which a network can give to random points, the last bit of a float is 2 mm.
_LONGEST_M = 30.0


@dataclass(frozen=True)
class Tolerance:
    """How far two pipelines may differ.

    Args:
        center_m: per coordinate of the centre.
        size_m: per side; of a side longer than 30 m, which no road user has, in proportion to it.
        yaw_rad: modulo a full turn.
        score: absolute.
        velocity_m_s: per coordinate.
        map: raw maps, relative to the map's largest value where that exceeds 1.
        floor: boxes with a lower score are not asked about.
        rot: of the (sin, cos) vector in raw maps: a heading from a short vector may differ by ``rot / length`` rad
            where that is more than ``yaw_rad``; of an anchor head, how close the scores of two heading bins may be
            for either to win. Reports count the boxes that need it.
        share: of the boxes that must have a partner.
    """

    center_m: float = 0.01
    size_m: float = 0.01
    yaw_rad: float = math.radians(0.1)
    score: float = 1e-3
    velocity_m_s: float = 0.01
    map: float = 1e-3
    floor: float = 0.1
    rot: float = 2e-5
    share: float = 1.0


# Rounding to 11 bits moves maps where nothing is, too: there the limit only catches what is broken. Both headings below
# are strict for a (sin, cos) vector of length 0.57 and more: a trained network gives 1 where it knows the heading.
FP16_TOLERANCE = Tolerance(
    center_m=0.05, size_m=0.05, yaw_rad=math.radians(0.5), score=0.02, velocity_m_s=0.1, map=0.1, floor=0.3, rot=0.005
)

# 256 steps move every box a little and some of the unsure ones a lot; whether that costs accuracy is for `kd3d eval`.
INT8_TOLERANCE = Tolerance(
    center_m=0.25,
    size_m=0.25,
    yaw_rad=math.radians(10),
    score=0.1,
    velocity_m_s=0.5,
    map=2.0,
    floor=0.3,
    rot=0.1,
    share=0.95,
)


@dataclass(frozen=True)
class Match:
    """Boxes of one side against those of the other.

    Args:
        counted: boxes at or above the floor.
        unmatched: ``[K]`` positions of those without a partner.
        worst: largest difference of each kind over matched boxes.
        gaps: ``[N, M]`` largest difference of each pair in units of its tolerance; infinite between classes.
        kinds: ``[N, M]`` which difference that is, by its place among the tolerances of boxes.
    """

    counted: int
    unmatched: NDArray[np.int64]
    worst: dict[str, float]
    gaps: Array
    kinds: NDArray[np.int64]

    def nearest(self, index: int) -> str:
        """How far the closest box of the other side is."""
        if self.gaps.shape[1] == 0 or not np.isfinite(self.gaps[index]).any():
            return "the other side has no box of that class"
        other = int(self.gaps[index].argmin())
        kind = _KINDS[self.kinds[index, other]]
        return f"the closest is {float(self.gaps[index, other]):.3g} times the tolerance of {kind} away"


def match(boxes: Boxes3D, others: Boxes3D, tolerance: Tolerance) -> Match:
    """Find for every box of ``boxes`` at or above the floor a partner in ``others`` within every tolerance."""
    rows = np.flatnonzero(_scores(boxes) >= tolerance.floor)
    parts = _differences(boxes, others.array.astype(np.float64), _scores(others))
    limits = _limits(tolerance)
    each = np.stack([parts[name] / limits[name] for name in limits])
    kinds = each.argmax(0)
    gaps = np.where(boxes.label[:, None] == others.label[None], each.max(0), np.inf)
    if not len(others) or not len(rows):
        return Match(len(rows), rows, {}, gaps, kinds)
    best = gaps[rows].argmin(1)
    good = gaps[rows, best] <= 1
    kept, partner = rows[good], best[good]
    worst = {name: float(part[kept, partner].max(initial=0.0)) for name, part in parts.items()}
    return Match(len(rows), rows[~good], worst, gaps, kinds)


class DenseBoxes:
    """The boxes that every cell, or anchor, of a network's maps would give; decoded once per class.

    Args:
        heads: maps ``[C, H, W]`` of each task.
        spec: of the detector.
    """

    def __init__(self, heads: Sequence[Any], spec: DetectorSpec) -> None:
        self._heads, self._spec = heads, spec
        self._known: dict[int, tuple[Array, Array, Array]] = {}

    def holds(self, boxes: Boxes3D, index: int, tolerance: Tolerance) -> bool:
        """Whether box ``index`` of ``boxes`` is among them within tolerance."""
        array, score, sure = self._of(int(boxes.label[index]))
        center = boxes.array[index, :3].astype(np.float64)
        near = np.flatnonzero(np.abs(array[:, 0] - center[0]) <= tolerance.center_m)  # a comparison of all is slow
        near = near[np.abs(array[near, 1] - center[1]) <= tolerance.center_m]
        parts = _differences(boxes.select(np.array([index])), array[near], score[near])
        limits: dict[str, Any] = _limits(tolerance)
        head = self._spec.head
        if isinstance(head, AnchorHeadSpec):
            period, turn = 2 * math.pi / head.direction_bins, parts["yaw_rad"]
            other_bin = np.abs((turn + period / 2) % period - period / 2)
            parts["yaw_rad"] = np.where(sure[near] <= tolerance.rot, other_bin, turn)
        else:
            limits["yaw_rad"] = np.maximum(tolerance.yaw_rad, tolerance.rot / np.maximum(sure[near], 1e-6))
        return bool((np.max([parts[name] / limits[name] for name in limits], axis=0) <= 1).any())

    def _of(self, label: int) -> tuple[Array, Array, Array]:
        """Boxes ``[M, 9]`` of a class, their scores, and how sure the heading is.

        That is the length of (sin, cos), or by how much the score of the best heading bin exceeds the next.
        """
        if label not in self._known:
            self._known[label] = self._decoded(label)
        return self._known[label]

    def _decoded(self, label: int) -> tuple[Array, Array, Array]:
        if isinstance(self._heads[0], AnchorMaps):
            array, score = dense_anchor_boxes(self._heads[0], label, self._spec)
            sure = direction_margins(self._heads[0], self._spec)
            return np.asarray(array, np.float64), np.asarray(score, np.float64), sure
        first = 0
        for task, names in zip(self._heads, self._spec.head.tasks, strict=True):
            if label < first + len(names):
                length = np.hypot(*np.asarray(task.rot, np.float64)).reshape(-1)
                return *dense_boxes(task, label - first, self._spec), length
            first += len(names)
        return np.zeros((0, 9)), np.zeros(0), np.zeros(0)


def dense_boxes(maps: TaskMaps, channel: int, spec: DetectorSpec) -> tuple[Array, Array]:
    """The box that each cell would give for one class.

    Returns:
        ``[H * W, 9]`` boxes as in ``Boxes3D.array``, and ``[H * W]`` scores.
    """
    grid = spec.output_grid
    logits = np.asarray(maps.hm[channel], np.float64)
    rows, columns = np.indices(logits.shape)
    center, rot = np.asarray(maps.center, np.float64), np.asarray(maps.rot, np.float64)
    with np.errstate(over="ignore"):
        size = np.exp(np.asarray(maps.dim, np.float64))
        score = 1 / (1 + np.exp(-logits))
    velocity = np.full((2, *logits.shape), np.nan) if maps.vel is None else np.asarray(maps.vel, np.float64)
    planes = [
        (columns + center[0]) * grid.cell_m + grid.x_min_m,
        (rows + center[1]) * grid.cell_m + grid.y_min_m,
        np.asarray(maps.center_z[0], np.float64),
        *size,
        np.arctan2(rot[0], rot[1]),
        *velocity,
    ]
    return np.stack([plane.reshape(-1) for plane in planes], axis=1), score.reshape(-1)


def _scores(boxes: Boxes3D) -> Array:
    return np.ones(len(boxes)) if boxes.score is None else boxes.score.astype(np.float64)


def _limits(tolerance: Tolerance) -> dict[str, float]:
    return {name: getattr(tolerance, name) for name in _KINDS}


def _differences(boxes: Boxes3D, others: Array, other_scores: Array) -> dict[str, Array]:
    """``[N, M]`` differences of each kind; an unknown velocity on both sides is none."""
    one = boxes.array.astype(np.float64)[:, None]
    two = others[None]
    gap = np.abs(one - two)
    turn = np.abs((one[..., 6] - two[..., 6] + math.pi) % (2 * math.pi) - math.pi)
    speed = np.where(np.isnan(one[..., 7:]) & np.isnan(two[..., 7:]), 0.0, gap[..., 7:])
    return {
        "center_m": gap[..., :3].max(-1),
        "size_m": (gap[..., 3:6] / np.maximum(1.0, one[..., 3:6] / _LONGEST_M)).max(-1),
        "yaw_rad": turn,
        "score": np.abs(_scores(boxes)[:, None] - other_scores[None]),
        "velocity_m_s": np.nan_to_num(speed, nan=np.inf).max(-1),
    }
