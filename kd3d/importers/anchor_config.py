"""Anchor heads as configurations describe them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from kd3d.errors import CheckpointError
from kd3d.importers.config_parts import kind_of
from kd3d.importers.decodes import EVERY_CELL, EVERYWHERE_M
from kd3d.importers.lookup import at, flag, number, numbers, text, whole, words
from kd3d.spec import AnchorHeadSpec, AnchorSpec, DecodeSpec


def anchors_of_openpcdet(config: Any, source: str) -> AnchorHeadSpec | None:
    """The head of ``AnchorHeadSingle``, or ``None`` where the configuration is not whole.

    Raises:
        CheckpointError: its classes have anchors of several sizes or heights, or different ones of something else.
    """
    head, classes = at(config, "MODEL", "DENSE_HEAD"), words(at(config, "CLASS_NAMES"))
    entries = at(head, "ANCHOR_GENERATOR_CONFIG")
    if not isinstance(entries, list) or classes is None:
        return None
    by_name = {text(at(entry, "class_name")): entry for entry in entries}
    if any(name not in by_name for name in classes):
        return None
    found = [_openpcdet_anchor(name, by_name[name], source) for name in classes]
    rotations = {numbers(at(by_name[name], "anchor_rotations")) for name in classes}
    aligned = {flag(at(by_name[name], "align_center")) or False for name in classes}
    if len(rotations) != 1 or len(aligned) != 1:
        raise CheckpointError(f"{source}: classes have different anchor rotations or alignments; kd3d's share them.")
    if (number(at(head, "DIR_LIMIT_OFFSET")) or 0.0) != 0.0:
        raise CheckpointError(f"{source}: DIR_LIMIT_OFFSET is not 0, which kd3d does not have.")
    offset = number(at(head, "DIR_OFFSET"))
    return AnchorHeadSpec(
        anchors=tuple(found),
        rotations_rad=rotations.pop() or (0.0, 1.57),
        direction_bins=whole(at(head, "NUM_DIR_BINS")) or 2,
        direction_offset_rad=0.78539 if offset is None else offset,
        align_center=aligned.pop(),
    )


def _openpcdet_anchor(name: str, entry: Any, source: str) -> AnchorSpec:
    sizes, bottoms = at(entry, "anchor_sizes"), numbers(at(entry, "anchor_bottom_heights"), 1)
    size = numbers(sizes[0], 3) if isinstance(sizes, list) and len(sizes) == 1 else None
    if size is None or bottoms is None:
        raise CheckpointError(f"{source}: the class {name} must have one anchor size and one height.")
    anchor = AnchorSpec(name, (size[0], size[1], size[2]), bottoms[0])
    low, high = number(at(entry, "unmatched_threshold")), number(at(entry, "matched_threshold"))
    if low is None or high is None or (low, high) == anchor.thresholds:
        return anchor
    return replace(anchor, matching=(low, high))


def anchors_of_mmdet3d(
    head: Any, classes: tuple[str, ...] | None, source: str, *, range_m: tuple[float, ...] | None
) -> AnchorHeadSpec | None:
    """The head of ``Anchor3DHead``, or ``None`` where the configuration is not whole.

    Args:
        head: its settings.
        classes: in the order of the anchors.
        source: for messages.
        range_m: of the detector, over which the anchors must be spread.

    Raises:
        CheckpointError: it has a limit offset of directions, a set of anchors per scale, or anchors over another range.
    """
    generator = at(head, "anchor_generator")
    ranges, sizes = at(generator, "ranges"), at(generator, "sizes")
    if not isinstance(ranges, list) or not isinstance(sizes, list) or classes is None:
        return None
    if len(ranges) != len(classes) or len(sizes) != len(classes):
        raise CheckpointError(f"{source}: {len(sizes)} anchors for {len(classes)} classes; kd3d has one per class.")
    if (number(at(head, "dir_limit_offset")) or 0.0) != 0.0:
        raise CheckpointError(f"{source}: dir_limit_offset is not 0, which kd3d does not have.")
    found = []
    for name, place, side in zip(classes, ranges, sizes, strict=True):
        low, size = numbers(place, 6), numbers(side, 3)
        if low is None or size is None:
            return None
        if range_m is not None and (*low[:2], *low[3:5]) != (*range_m[:2], *range_m[3:5]):
            raise CheckpointError(f"{source}: the anchors of {name} are over another range, {place}, than the points.")
        found.append(AnchorSpec(name, (size[0], size[1], size[2]), low[2]))
    offset = number(at(head, "dir_offset"))
    return AnchorHeadSpec(
        anchors=tuple(found),
        rotations_rad=numbers(at(generator, "rotations")) or (0.0, 1.57),
        direction_offset_rad=-math.pi / 2 if offset is None else offset,
        align_center=kind_of(generator).startswith("Aligned"),
    )


def decode_of_mmdet3d(rule: Any) -> DecodeSpec | None:
    """``test_cfg`` of ``Anchor3DHead``."""
    threshold, score = number(at(rule, "nms_thr")), number(at(rule, "score_thr"))
    pre, most = whole(at(rule, "nms_pre")), whole(at(rule, "max_num"))
    if threshold is None or score is None or not pre or not most:
        return None
    return DecodeSpec(
        peak_kernel=1,
        top_k=pre,
        score_threshold=score,
        center_limit_m=EVERYWHERE_M,
        nms="rotate_by_class",
        nms_threshold=(threshold,),
        nms_pre=EVERY_CELL,
        nms_post=most,
        top_k_rule="cell",
    )
