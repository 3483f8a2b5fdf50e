"""The anchor head's boxes (SECOND, PointPillars): where its anchors are, and what its maps make of them.

Formulas (OpenPCDet's ResidualCoder; mmdetection3d's DeltaXYZWLHRBBoxCoder is the same about centres), with the anchor's
centre (xa, ya, za), size (la, wa, ha), yaw ra, and d = sqrt(la^2 + wa^2):

    x = xt d + xa    y = yt d + ya    z = zt ha + za    (l, w, h) = exp(t) (la, wa, ha)    yaw = rt + ra

and the direction bin decides between a heading and its opposite: with the period p = 2 pi / bins,
yaw = (yaw - o) mod p + o + p argmax(dir).
"""

from __future__ import annotations

import numpy as np

from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D, Floats, Ints
from kd3d.runtime.heads import AnchorMaps
from kd3d.spec.detector import DetectorSpec

BOX_CODES = 7


def anchor_centres(spec: DetectorSpec) -> tuple[Floats, Floats]:
    """X ``[W]`` and y ``[H]`` of the anchors, float32 metres.

    With ``align_center`` the centres of the cells of the head map, else from edge to edge of the range: both ends carry
    an anchor, so that the distance is a little more than a cell.
    """
    grid, found = spec.output_grid, []
    for low, high, cells in ((grid.x_min_m, grid.x_max_m, grid.nx), (grid.y_min_m, grid.y_max_m, grid.ny)):
        if spec.anchor_head.align_center:
            place = low + (np.arange(cells) + 0.5) * ((high - low) / cells)
        else:
            place = low + np.arange(cells) * ((high - low) / max(cells - 1, 1))
        found.append(place.astype(np.float32))
    return found[0], found[1]


def anchor_shapes(spec: DetectorSpec) -> Floats:
    """``[A, 5]`` float32: z of the centre, length, width, height, yaw; anchor = class * rotations + rotation."""
    head = spec.anchor_head
    rows = [
        (anchor.bottom_m + anchor.size_m[2] / 2, *anchor.size_m, yaw)
        for anchor in head.anchors
        for yaw in head.rotations_rad
    ]
    return np.array(rows, np.float32)


def anchor_candidates(maps: AnchorMaps, spec: DetectorSpec) -> Boxes3D:
    """Boxes before suppression, best first: above the threshold, centre inside the limit.

    Where classes suppress each other an anchor gives its best class; else every class above the threshold, and
    ``top_k`` anchors are chosen by their best class first (mmdetection3d's ``nms_pre``).

    Args:
        maps: ``[C, H, W]`` each.
        spec: the detector; ``spec.decode`` says how.

    Raises:
        DataError: the class logits hold NaN.
    """
    rule, classes = spec.decode, len(spec.head.classes)
    if np.isnan(maps.cls).any():
        raise DataError(
            "the class map holds NaN: the network overflowed or its weights are damaged. "
            "Check the checkpoint, or the precision of the engine."
        )
    logits = _by_anchor(maps.cls, classes)
    best = logits.max(axis=1)
    place = _first_best(best, rule.top_k, _logit(rule.score_threshold))
    if rule.nms == "rotate_by_class":
        row, label = np.nonzero(logits[place] > _logit(rule.score_threshold))
        place = place[row]
    else:
        label = logits[place].argmax(axis=1)
    score = _sigmoid(logits[place, label])
    good = score > rule.score_threshold
    place, label, score = place[good], label[good], score[good]
    order = np.argsort(-score, kind="stable")
    array = _boxes_at(maps, place[order], spec)
    low, high = np.array(rule.center_limit_m[:3], np.float32), np.array(rule.center_limit_m[3:], np.float32)
    kept = np.isfinite(array[:, :7]).all(axis=1) & ((array[:, :3] >= low) & (array[:, :3] <= high)).all(axis=1)
    return Boxes3D(array[kept], label[order][kept], score[order][kept])


def dense_anchor_boxes(maps: AnchorMaps, label: int, spec: DetectorSpec) -> tuple[Floats, Floats]:
    """The box of every anchor ``[A H W, 9]``, and its score for the class ``label``, ``[A H W]``."""
    logits = _by_anchor(maps.cls, len(spec.head.classes))
    return _boxes_at(maps, np.arange(len(logits)), spec), _sigmoid(logits[:, label])


def direction_margins(maps: AnchorMaps, spec: DetectorSpec) -> Floats:
    """By how much the score of every anchor's best heading bin exceeds the next, ``[A H W]``; infinite with one bin."""
    scores = np.sort(_by_anchor(maps.dir, spec.anchor_head.direction_bins), axis=1)
    return scores[:, -1] - scores[:, -2] if scores.shape[1] > 1 else np.full(len(scores), np.inf, np.float32)


def _by_anchor(tensor: Floats, codes: int) -> Floats:
    """``[A * codes, H, W]`` to ``[H * W * A, codes]``: the order in which the frameworks flatten."""
    channels, height, width = tensor.shape
    parts = np.asarray(tensor, np.float32).reshape(channels // codes, codes, height, width)
    return parts.transpose(2, 3, 0, 1).reshape(-1, codes)


def _first_best(best: Floats, count: int, lowest: float) -> Ints:
    place = np.flatnonzero(best > lowest)
    return place[np.argsort(-best[place], kind="stable")][:count]


def _logit(probability: float) -> float:
    # A margin, because the rounded score itself is compared later.
    return float(np.log(probability / (1 - probability))) - 1e-3 if probability > 0 else -np.inf


def _sigmoid(logits: Floats) -> Floats:
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def _boxes_at(maps: AnchorMaps, place: Ints, spec: DetectorSpec) -> Floats:
    """``[K, 9]`` boxes of flat anchors."""
    head, grid = spec.anchor_head, spec.output_grid
    shapes, (xs, ys) = anchor_shapes(spec), anchor_centres(spec)
    cell, anchor = np.divmod(place, len(shapes))
    row, column = np.divmod(cell, grid.nx)
    code = _by_anchor(maps.box, BOX_CODES)[place]
    size = shapes[anchor, 1:4]
    diagonal = np.sqrt(size[:, 0] ** 2 + size[:, 1] ** 2)
    array = np.full((len(place), 9), np.nan, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        array[:, 0] = code[:, 0] * diagonal + xs[column]
        array[:, 1] = code[:, 1] * diagonal + ys[row]
        array[:, 2] = code[:, 2] * size[:, 2] + shapes[anchor, 0]
        array[:, 3:6] = np.exp(code[:, 3:6]) * size
        yaw = code[:, 6] + shapes[anchor, 4]
        if head.direction_bins > 1:
            period = np.float32(2 * np.pi / head.direction_bins)
            offset = np.float32(head.direction_offset_rad)
            chosen = _by_anchor(maps.dir, head.direction_bins)[place].argmax(axis=1)
            yaw = yaw - offset
            yaw = yaw - np.floor(yaw / period) * period + offset + period * chosen.astype(np.float32)
        array[:, 6] = yaw
    return array
