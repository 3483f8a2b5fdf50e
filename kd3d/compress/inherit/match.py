"""Which teacher layer stands for each student layer, and which layers share one choice of channels."""

from __future__ import annotations

from collections.abc import Mapping

from kd3d.compress.inherit.layers import Key
from kd3d.spec import DetectorSpec


def nearest_position(index: int, count: int, of: int) -> int:
    """Position among ``of`` equally spaced places that lies nearest to place ``index`` of ``count``; ends map to ends.

    >>> [nearest_position(i, 3, 5) for i in range(3)]
    [0, 2, 4]
    """
    if of <= 1 or count <= 1:
        return max(0, of - 1) // 2
    # Whole numbers, halves rounded up: the same answer on every machine.
    return (2 * index * (of - 1) + count - 1) // (2 * (count - 1))


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
    ours, theirs = len(student.pillar_encoder.filters), len(teacher.pillar_encoder.filters)
    for index in range(ours):
        differ = f"the encoder has {ours} layer(s), the teacher's has {theirs}"
        found["encoder", index] = ("encoder", index) if ours == theirs else differ
    for level, other in enumerate(match_levels(teacher, student)):
        count, of = student.backbone.layers[level], teacher.backbone.layers[other]
        found["level", level, 0] = ("level", other, 0)
        for position in range(count):
            # The first convolution of a level has a stride and other inputs: only further ones stand for each other.
            place: Key | str = ("level", other, 1 + nearest_position(position, count, of))
            found["level", level, 1 + position] = place if of else "the teacher's level has no further layers"
        found["up", level] = ("up", other)
    found["shared",] = ("shared",)
    for task, known in enumerate(match_tasks(teacher, student)):
        for name in [*(name for name, _ in student.center_head.branches), "hm"]:
            for kind in ("hidden", "out"):
                found[kind, task, name] = _head_match(teacher, student, task, known, (kind, name))
    return found


def _head_match(
    teacher: DetectorSpec, student: DetectorSpec, task: int, known: int | None, place: tuple[str, str]
) -> Key | str:
    kind, name = place
    if known is None:
        return f"the teacher knows none of the classes {', '.join(student.head.tasks[task])}"
    if name == "vel" and not teacher.head.velocity:
        return "the teacher does not predict velocity"
    return (kind, known, name)


def channel_groups(teacher: DetectorSpec, student: DetectorSpec) -> Mapping[Key, Key]:
    """For each teacher layer of a level the group whose choice it shares; layers that are not listed stand alone.

    Where a level's depth differs, a student layer may follow another layer than its teacher partner does, so all layers
    of that level must keep the same channels.
    """
    groups: dict[Key, Key] = {}
    for level, other in enumerate(match_levels(teacher, student)):
        of = teacher.backbone.layers[other]
        if student.backbone.layers[level] != of:
            groups.update({("level", other, position): ("level", other) for position in range(of + 1)})
    return groups
