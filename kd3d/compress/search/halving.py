"""Successive halving as a pure function of what was done: who goes on, and what is to be done next.

All students are trained to the first rung before the best go on to the second (Jamieson and Talwalkar,
arXiv:1502.07943), so who goes on does not depend on how many workers there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kd3d.compress.search.settings import SearchSettings
from kd3d.compress.search.study import Job

MAX_DEATHS = 3  # a student whose workers died this often (out of memory, say) is given up
TrialState = Literal["running", "complete", "pruned", "failed"]


@dataclass
class Standing:
    """How far one student has come.

    Args:
        name: of the student.
        jobs: its jobs, in order.
        values: of each rung it was trained to.
    """

    name: str
    jobs: list[Job] = field(default_factory=list)
    values: dict[int, tuple[float, ...]] = field(default_factory=dict)

    def open_rung(self) -> int | None:
        """The rung that a lost worker left unfinished and nobody has taken up."""
        last = self._last()
        return last.rung if last.state == "lost" and not self.failed else None

    @property
    def running(self) -> bool:
        """Whether somebody works on it."""
        return self._last().state == "running"

    @property
    def failed(self) -> str:
        """Why it cannot be trained; empty if it can."""
        last = self._last()
        if last.state == "failed":
            return last.reason
        deaths = sum(job.reason == "its worker died" for job in self.jobs if job.rung == last.rung)
        return f"its worker died {deaths} times" if last.state == "lost" and deaths >= MAX_DEATHS else ""

    def _last(self) -> Job:
        return max(self.jobs, key=lambda job: (job.rung, job.number))


@dataclass(frozen=True)
class Todo:
    """What a worker should do.

    Args:
        kind: ``train`` a student to a rung, begin a ``new`` one, ``wait`` for others, or nothing: ``done``.
        name: the student, for ``train``.
        rung: how far, for ``train``.
    """

    kind: Literal["train", "new", "wait", "done"]
    name: str = ""
    rung: int = 0


Ranking = Callable[[Sequence[tuple[float, ...]]], Sequence[int]]
"""Places of the given values, best first."""


def standings(jobs: Sequence[Job]) -> list[Standing]:
    """Every student that was begun, in that order."""
    found: dict[str, Standing] = {}
    for job in sorted(jobs, key=lambda job: job.number):
        if job.state == "withdrawn":
            continue
        standing = found.setdefault(job.name, Standing(job.name))
        standing.jobs.append(job)
        if job.values is not None:
            standing.values[job.rung] = job.values
    return list(found.values())


def next_todo(students: Sequence[Standing], total: int, settings: SearchSettings, ranking: Ranking) -> Todo:
    """What to do next.

    Args:
        students: as they stand.
        total: how many are to be begun.
        settings: rungs and how many go on.
        ranking: of the values of a rung.
    """
    for student in students:
        rung = student.open_rung()
        if rung is not None:
            return Todo("train", student.name, rung)
    if len(students) < total:
        return Todo("new")
    for rung in range(len(settings.rungs)):
        entered = entrants(students, rung, total, settings=settings, ranking=ranking)
        for student in entered:
            if rung not in student.values and not student.running and not student.failed:
                return Todo("train", student.name, rung)
        if any(student.running for student in entered):
            return Todo("wait")
    return Todo("done")


def entrants(
    students: Sequence[Standing], rung: int, total: int, *, settings: SearchSettings, ranking: Ranking
) -> list[Standing]:
    """The students that are trained to ``rung``: all to the first, then the best of those trained to the one before."""
    if rung == 0:
        return list(students)
    scored = [student for student in students if rung - 1 in student.values]
    order = ranking([student.values[rung - 1] for student in scored])
    return [scored[place] for place in order[: settings.survivors(total)[rung]]]


def state_of(student: Standing, settings: SearchSettings, *, ended: bool) -> TrialState:
    """How a trial ended, or that it has not.

    Args:
        student: its standing.
        settings: its rungs.
        ended: whether the search is over.
    """
    if len(settings.rungs) - 1 in student.values:
        return "complete"
    if student.failed:
        return "failed"
    return "pruned" if ended else "running"


def by_score(values: Sequence[tuple[float, ...]]) -> list[int]:
    """Highest first value (mAP) first; of equals the one that began earlier."""
    return sorted(range(len(values)), key=lambda place: (-values[place][0], place))


def by_front(values: Sequence[tuple[float, ...]]) -> list[int]:
    """Front by front (Deb et al., NSGA-II: fast non-dominated sorting), best score first within each.

    The first value is to be high, all others low.
    """
    left, order = by_score(values), []
    while left:
        front = [one for one in left if not any(_beats(values[other], values[one]) for other in left)]
        order += front
        left = [one for one in left if one not in set(front)]
    return order


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    signed = [(one[0], other[0]), *((-a, -b) for a, b in zip(one[1:], other[1:], strict=True))]
    return all(a >= b for a, b in signed) and any(a > b for a, b in signed)
