"""What a perfect anchor head would put out for given boxes: which anchors stand for objects, and their codes.

The assignment of SECOND (Yan et al., Sensors 2018) and PointPillars (arXiv 1812.05784) as OpenPCDet has it. Overlap is
seen from above, with every box turned to the nearer axis. Per class:

- an anchor stands for the object that it overlaps most, if their IoU reaches the upper threshold of the class;
- it is background if its IoU with every object of its class is below the lower one; in between it does not count;
- of every object the best anchors (all of equals) stand for an object whatever the IoU, for the one that they
  themselves overlap most. An object whose best anchor overlaps another one more may thus go without.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D, Floats, Ints
from kd3d.runtime.anchors import BOX_CODES, anchor_centres, anchor_shapes
from kd3d.spec.detector import DetectorSpec

BACKGROUND, UNCOUNTED = 0, -1


@dataclass(frozen=True)
class AnchorTargets:
    """Targets of one frame on a head map of ``H`` x ``W`` cells with ``A`` anchors each.

    Args:
        label: ``[H * W * A]`` int8 at ``(row * W + column) * A + anchor``: class + 1, 0 for background, -1 for anchors
            that do not count.
        place: ``[K]`` int64, the flat anchors that stand for objects, ascending.
        codes: ``[K, 7]`` float32: their box residuals, ``kd3d.runtime.anchors`` reversed.
        direction: ``[K]`` int64: their heading bins.
    """

    label: NDArray[np.int8]
    place: Ints
    codes: Floats
    direction: Ints


def assign_anchors(boxes: Boxes3D, spec: DetectorSpec) -> AnchorTargets:
    """Targets of one frame.

    Args:
        boxes: labels index ``spec.head.classes``. Boxes whose centre is outside of the grid in x or y, or whose size is
            not positive, get no anchor.
        spec: the detector.

    Raises:
        DataError: a label is outside of the classes.
        SpecError: the detector has no anchor head.
    """
    head, grid = spec.anchor_head, spec.output_grid
    if len(boxes) and not 0 <= boxes.label.min() <= boxes.label.max() < len(head.classes):
        raise DataError(
            f"labels must be 0..{len(head.classes) - 1} for {', '.join(head.classes)}, "
            f"but go from {boxes.label.min()} to {boxes.label.max()}."
        )
    x, y = boxes.array[:, 0], boxes.array[:, 1]
    good = (x >= grid.x_min_m) & (x < grid.x_max_m) & (y >= grid.y_min_m) & (y < grid.y_max_m)
    good &= (boxes.size_m > 0).all(axis=1)
    shapes, centres = anchor_shapes(spec), anchor_centres(spec)
    turns = len(head.rotations_rad)
    label = np.full(grid.nx * grid.ny * len(shapes), BACKGROUND, np.int8)
    places: list[Ints] = [np.zeros(0, np.int64)]
    objects: list[Ints] = [np.zeros(0, np.int64)]
    for kind, anchor in enumerate(head.anchors):
        mine = np.flatnonzero(good & (boxes.label == kind))
        anchors = range(kind * turns, (kind + 1) * turns)
        place, which, uncounted = _assign_class(boxes.array[mine], shapes, anchors, centres, anchor.thresholds)
        label[uncounted] = UNCOUNTED
        label[place] = kind + 1
        places.append(place)
        objects.append(mine[which])
    place, which = np.concatenate(places), np.concatenate(objects)
    order = np.argsort(place)
    place = place[order]
    codes, direction = encode_anchors(boxes.array[which[order]], place, spec)
    return AnchorTargets(label, place, codes, direction)


def encode_anchors(array: Floats, place: Ints, spec: DetectorSpec) -> tuple[Floats, Ints]:
    """What the head must say for boxes at anchors.

    Args:
        array: ``[K, 9]`` boxes.
        place: ``[K]`` flat anchors, one per box.
        spec: the detector.

    Returns:
        Box residuals ``[K, 7]`` float32 and heading bins ``[K]`` int64.
    """
    head = spec.anchor_head
    shapes, (xs, ys) = anchor_shapes(spec).astype(np.float64), anchor_centres(spec)
    cell, anchor = np.divmod(place, len(shapes))
    row, column = np.divmod(cell, spec.output_grid.nx)
    box, shape = array[:, :7].astype(np.float64), shapes[anchor]
    diagonal = np.hypot(shape[:, 1], shape[:, 2])
    codes = np.empty((len(place), BOX_CODES), np.float32)
    codes[:, 0] = (box[:, 0] - xs[column]) / diagonal
    codes[:, 1] = (box[:, 1] - ys[row]) / diagonal
    codes[:, 2] = (box[:, 2] - shape[:, 0]) / shape[:, 3]
    codes[:, 3:6] = np.log(box[:, 3:6] / shape[:, 1:4])
    codes[:, 6] = box[:, 6] - shape[:, 4]
    part = 2 * np.pi / head.direction_bins
    turned = np.mod(box[:, 6] - head.direction_offset_rad, 2 * np.pi)
    return codes, np.minimum(turned // part, head.direction_bins - 1).astype(np.int64)


def _assign_class(
    array: Floats, shapes: Floats, anchors: range, centres: tuple[Floats, Floats], thresholds: tuple[float, float]
) -> tuple[Ints, Ints, Ints]:
    """Anchors that stand for objects, the object of each, and anchors that do not count, for boxes of one class."""
    size, kinds = len(centres[0]), len(shapes)
    found = []
    for anchor in anchors:
        row, column, which, iou = _overlaps(array, shapes[anchor], centres)
        found.append(((row * size + column) * kinds + anchor, which, iou))
    place, which, iou = (np.concatenate(parts) for parts in zip(*found, strict=True))
    highest = np.zeros(len(array))
    np.maximum.at(highest, which, iou)
    forced = np.unique(place[iou == highest[which]])
    order = np.lexsort((which, -iou, place))  # of each anchor the best object first, the earlier one of equals
    place, which, iou = place[order], which[order], iou[order]
    first = np.ones(len(place), bool)
    first[1:] = place[1:] != place[:-1]
    place, which, iou = place[first], which[first], iou[first]
    low, high = thresholds
    stands = (iou >= high) | np.isin(place, forced)
    return place[stands], which[stands], place[~stands & (iou >= low)]


def _overlaps(array: Floats, shape: Floats, centres: tuple[Floats, Floats]) -> tuple[Ints, Ints, Ints, Floats]:
    """All pairs of an anchor and a box that overlap: row, column, box, IoU.

    The anchors that meet a box fill a rectangle of cells, so that only those are looked at, whatever the map's size.
    """
    reach = _nearest_axis(shape[None, 1:3].astype(np.float64), shape[4:5].astype(np.float64))[0]
    sides = _nearest_axis(array[:, 3:5].astype(np.float64), array[:, 6].astype(np.float64))
    middle = array[:, :2].astype(np.float64)
    low, high = middle - (sides + reach) / 2, middle + (sides + reach) / 2
    first, count = np.zeros((2, len(array)), np.int64), np.zeros((2, len(array)), np.int64)
    for axis, centre in enumerate(centres):
        first[axis] = np.searchsorted(centre, low[:, axis], side="right")
        count[axis] = np.maximum(np.searchsorted(centre, high[:, axis], side="left") - first[axis], 0)
    cells = count[0] * count[1]
    which = np.repeat(np.arange(len(array)), cells)
    step = np.arange(len(which)) - np.repeat(np.cumsum(cells) - cells, cells)
    row, column = np.divmod(step, np.maximum(count[0], 1)[which])
    row, column = row + first[1][which], column + first[0][which]
    common = np.ones(len(which))
    for axis, index in enumerate((column, row)):
        far = np.abs(centres[axis][index].astype(np.float64) - middle[which, axis])
        edge = (sides[which, axis] + reach[axis]) / 2 - far
        # Of a box inside of another the whole side counts: exact, so that equals are equal.
        common *= np.minimum(edge, np.minimum(sides[which, axis], reach[axis]))
    iou = common / (sides.prod(axis=1)[which] + reach.prod() - common)
    kept = common > 0
    return row[kept], column[kept], which[kept], iou[kept]


def _nearest_axis(sides: Floats, yaw: Floats) -> Floats:
    """``[N, 2]`` extents in x and y of boxes ``[N, 2]`` (length, width) turned to the nearer axis."""
    turn = np.abs(yaw - np.floor(yaw / np.pi + 0.5) * np.pi)
    along: Floats = np.where((turn < np.pi / 4)[:, None], sides, sides[:, ::-1])
    return along
