"""Whether a teacher can teach a student: all that stands against it at once, and what is bridged."""

from __future__ import annotations

from collections.abc import Sequence

from kd3d.errors import UsageError
from kd3d.geometry.grid import BevGrid
from kd3d.spec import CenterHeadSpec, DetectorSpec


def check_pair(student: DetectorSpec, teacher: DetectorSpec, refused: Sequence[str] = ()) -> None:
    """Refuse a pair of models that cannot be joined, with every reason and every difference in one text.

    Args:
        student: the one model.
        teacher: the other.
        refused: what signals object to.

    Raises:
        UsageError: there is a reason.
    """
    reasons = list(dict.fromkeys([*obstacles(student, teacher), *refused]))
    if not reasons:
        return
    numbered = " ".join(f"({place}) {reason}" for place, reason in enumerate(reasons, 1))
    rest = bridged(student, teacher)
    tail = f" These differences are no obstacle: {'; '.join(rest)}." if rest else ""
    raise UsageError(f"{student.name} cannot learn from {teacher.name}: {numbered}{tail}")


def obstacles(student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
    """What no signal can bridge."""
    found = []
    ours, theirs = student.head.classes, teacher.head.classes
    if student.grid.frame != teacher.grid.frame:
        found.append(f"the student is in the {student.grid.frame} frame, the teacher in {teacher.grid.frame}.")
    if not set(ours) & set(theirs):
        found.append(f"teacher and student have no class in common: {', '.join(theirs)} and {', '.join(ours)}.")
    if not _overlap(student.grid, teacher.grid):
        found.append(f"their ranges do not meet: {_range(student.grid)} and {_range(teacher.grid)}.")
    return found


def bridged(student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
    """What differs and is met by position, by name, or by an adapter; the student's value first."""
    found = []
    ours, theirs = student.head.classes, teacher.head.classes
    for side, more in (("student", set(ours) - set(theirs)), ("teacher", set(theirs) - set(ours))):
        if more:
            found.append(f"classes that only the {side} knows ({', '.join(sorted(more))}) are not taught")
    if type(student.head) is not type(teacher.head):
        found.append("a centre head and an anchor head meet in labels and feature maps only")
    elif _tasks(student) != _tasks(teacher):
        found.append("task groups are met by class name")
    if student.output_grid.cell_m != teacher.output_grid.cell_m:
        cells = f"{student.output_grid.cell_m:g} and {teacher.output_grid.cell_m:g} m"
        found.append(f"output cells of {cells} are met by metric position")
    if _range(student.grid) != _range(teacher.grid):
        found.append(f"ranges {_range(student.grid)} and {_range(teacher.grid)} are compared where both see")
    if _velocity(student) != _velocity(teacher):
        found.append("velocity, which one of them does not predict, is left out")
    if student.points != teacher.points:
        found.append("points or sweeps differ, and each model gets its own")
    if student.backbone != teacher.backbone:
        found.append("feature maps of other channels are met through adapters")
    return found


def _overlap(a: BevGrid, b: BevGrid) -> bool:
    return max(a.x_min_m, b.x_min_m) < min(a.x_max_m, b.x_max_m) and max(a.y_min_m, b.y_min_m) < min(
        a.y_max_m, b.y_max_m
    )


def _range(grid: BevGrid) -> str:
    return f"x {grid.x_min_m:g}..{grid.x_max_m:g}, y {grid.y_min_m:g}..{grid.y_max_m:g} m"


def _tasks(spec: DetectorSpec) -> object:
    return spec.head.tasks if isinstance(spec.head, CenterHeadSpec) else spec.head.classes


def _velocity(spec: DetectorSpec) -> bool:
    return isinstance(spec.head, CenterHeadSpec) and spec.head.velocity
