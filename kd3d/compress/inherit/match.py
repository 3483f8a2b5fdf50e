"""Which teacher layer stands for each student layer, and which layers share one choice of channels."""

from __future__ import annotations

from collections.abc import Mapping

from kd3d.compress.inherit.layers import Key
from kd3d.compress.inherit.match_encoder import encoder_groups, match_encoder
from kd3d.compress.inherit.positions import nearest_position
from kd3d.spec import AnchorHeadSpec, DetectorSpec


def match_levels(teacher: DetectorSpec, student: DetectorSpec) -> tuple[int, ...]:
    """For each student level the teacher's level: the same index, or the nearest position where the counts differ."""
    count, of = len(student.backbone.layers), len(teacher.backbone.layers)
    if count == of:
        return tuple(range(count))
    return tuple(nearest_position(index, count, of) for index in range(count))


def match_tasks(teacher: DetectorSpec, student: DetectorSpec) -> tuple[int | None, ...]:
    """For each student task the teacher's task that knows most of its classes (the earliest of equals), or ``None``."""
    found: list[int | None] = []
    for classes in student.head.tasks:
        known = [len(set(classes) & set(task)) for task in teacher.head.tasks]
        best = max(range(len(known)), key=lambda task: (known[task], -task))
        found.append(best if known[best] else None)
    return tuple(found)


def match_layers(teacher: DetectorSpec, student: DetectorSpec) -> Mapping[Key, Key | str]:
    """For each student layer the key of its teacher layer, or the reason why there is none."""
    found: dict[Key, Key | str] = {}
    found.update(match_encoder(teacher, student))
    for level, other in enumerate(match_levels(teacher, student)):
        count, of = student.backbone.layers[level], teacher.backbone.layers[other]
        found["level", level, 0] = ("level", other, 0)
        for position in range(count):
            # The first convolution of a level has a stride and other inputs: only further ones stand for each other.
            place: Key | str = ("level", other, 1 + nearest_position(position, count, of))
            found["level", level, 1 + position] = place if of else "the teacher's level has no further layers"
        found["up", level] = ("up", other)
    found.update(_match_head(teacher, student))
    return found


def _match_head(teacher: DetectorSpec, student: DetectorSpec) -> Mapping[Key, Key | str]:
    found: dict[Key, Key | str] = {}
    ours, theirs = (isinstance(spec.head, AnchorHeadSpec) for spec in (student, teacher))
    if ours:
        keys: list[Key] = [("head", name) for name, _ in student.anchor_head.maps]
        return {key: key if theirs else "the teacher has a centre head" for key in keys}
    found["shared",] = "the teacher has an anchor head" if theirs else ("shared",)
    for task, known in enumerate(match_tasks(teacher, student)):
        for name in [*(name for name, _ in student.center_head.branches), "hm"]:
            for kind in ("hidden", "out"):
                found[kind, task, name] = _head_match(teacher, student, task, known, (kind, name))
    return found


def _head_match(
    teacher: DetectorSpec, student: DetectorSpec, task: int, known: int | None, place: tuple[str, str]
) -> Key | str:
    kind, name = place
    if isinstance(teacher.head, AnchorHeadSpec):
        return "the teacher has an anchor head"
    if known is None:
        return f"the teacher knows none of the classes {', '.join(student.head.tasks[task])}"
    if name == "vel" and not teacher.head.velocity:
        return "the teacher does not predict velocity"
    return (kind, known, name)


def channel_groups(teacher: DetectorSpec, student: DetectorSpec) -> Mapping[Key, Key]:
    """For each teacher layer of a level the group whose choice it shares; layers that are not listed stand alone.

    Where a level's depth differs, a student layer may follow another layer than its teacher partner does, so all layers
    of that level must keep the same channels. The same holds in a stage of a voxel encoder; there the sums of residual
    blocks join the layers that write them whatever the depth.
    """
    groups: dict[Key, Key] = dict(encoder_groups(teacher, student))
    for level, other in enumerate(match_levels(teacher, student)):
        of = teacher.backbone.layers[other]
        if student.backbone.layers[level] != of:
            groups.update({("level", other, position): ("level", other) for position in range(of + 1)})
    return groups
