"""Width, depth or resolution? Students of the shipped teacher that shrink along one axis each, at matched MACs.

    python benchmarks/study_width_depth_resolution.py students    the matched students, nothing is trained
    python benchmarks/study_width_depth_resolution.py run         all trainings; resumes; see --help for a part of them
    python benchmarks/study_width_depth_resolution.py table       -> results/study_width_depth_resolution.json
    python benchmarks/study_width_depth_resolution.py plot        -> docs/images/study_width_depth_resolution.png

With ``--near`` all of them look at the teacher within RANGE_M of the car (`near.py`), which fits a CPU.

SparseKD's question (its section on width, depth and input resolution) for this teacher and world: `width` narrows all
parts alike, `depth` leaves out further layers of the levels, `resolution` takes larger cells. Each axis gives the
student that is closest below a share of the teacher's MACs; how far below is in the table, and an axis that cannot
reach a share says so. Every student is distilled (`kd`) and trained without the teacher (`control`), with equal data,
steps and seeds. CPR is formula A of `kd3d.compress.search.cpr`, which is recollected, not verified against the paper.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch
from comparing import paired
from fitting import CYCLES, fit
from near import BATCH, MAX_RANGE_M, RANGE_M, near_teacher, near_teacher_scores
from worlds import DEVICE, RESULTS, RUNS, TRAIN, VALIDATION, world

from kd3d.compress.search.cost import Cost, StatsTable, cost
from kd3d.compress.search.cpr import cpr
from kd3d.compress.search.space import Choice, scaled
from kd3d.detectors.assets import shipped_teacher
from kd3d.errors import UsageError
from kd3d.report.study_plot import draw_study
from kd3d.runs import environment
from kd3d.runs.atomic import read_json, write_json
from kd3d.spec import DetectorSpec, to_json

NAME = "study_width_depth_resolution"
AXES = ("width", "depth", "resolution")
ARMS = ("control", "kd")
SHARES, SEEDS, STEPS = (0.6, 0.44, 0.35, 0.25), (1, 2, 3), 1000
MULTIPLE = 4  # of channels: the search's eights are too coarse to match all parts of a small teacher at once
FAR = 0.05  # a student that misses its share of the teacher's MACs by more than this share is not matched
ROOT = Path(__file__).resolve().parents[1]
KEPT = RUNS / "study-width-depth-resolution"


@dataclass(frozen=True)
class Student:
    """The student of one axis and share; ``spec`` is ``None`` where the axis does not get that small."""

    axis: str
    share: float
    spec: DetectorSpec | None
    choice: Choice
    price: Cost
    reached: float

    @property
    def matched(self) -> bool:
        """Whether its MACs are close enough to the share to be compared with another axis at it."""
        return self.spec is not None and self.share - self.reached <= FAR


def choices(axis: str, teacher: DetectorSpec) -> Iterator[Choice]:
    """All students along one axis."""
    if axis == "width":
        for percent in range(20, 400):
            yield Choice(*(percent / 400,) * 4)
    elif axis == "depth":
        for layers in product(*(range(count + 1) for count in teacher.backbone.layers)):
            yield Choice(layers=layers)
    else:
        for percent in range(105, 801, 5):
            yield Choice(cell=percent / 100)


def along(
    axis: str, teacher: DetectorSpec, stats: StatsTable, *, multiple: int = MULTIPLE
) -> list[tuple[Cost, DetectorSpec, Choice]]:
    """The students of ``axis`` with their costs, cheapest first; of equal MACs the evenest in depth is last.

    Channels are multiples of ``multiple``.
    """
    found = []
    for choice in choices(axis, teacher):
        try:
            spec = scaled(teacher, choice, multiple=multiple)
        except UsageError:  # this cell does not tile the range
            continue
        found.append((cost(spec, stats(spec)), spec, choice))
    return sorted(found, key=lambda item: (item[0].macs, -spread(item[2], teacher), item[0].params))


def spread(choice: Choice, teacher: DetectorSpec) -> float:
    """How unevenly a choice thins the levels."""
    full = teacher.backbone.layers
    return statistics.pstdev(kept / layers for kept, layers in zip(choice.layers or full, full, strict=True) if layers)


def students(teacher: DetectorSpec, stats: StatsTable) -> list[Student]:
    """For every axis and share, the student with the most MACs that are not above the share."""
    whole, found = cost(teacher, stats(teacher)).macs, []
    for axis in AXES:
        line = along(axis, teacher, stats)
        for share in SHARES:
            within = [item for item in line if item[0].macs <= share * whole]
            price, spec, choice = within[-1] if within else line[0]
            found.append(Student(axis, share, spec if within else None, choice, price, price.macs / whole))
    return found


def matched(near: bool) -> tuple[Any, list[Student], Cost]:
    """The teacher, the students, and the teacher's cost, on the training world."""
    teacher = near_teacher() if near else shipped_teacher()
    stats = StatsTable(world(TRAIN, sweeps=teacher.spec.points.sweeps), 40)
    return teacher, students(teacher.spec, stats), cost(teacher.spec, stats(teacher.spec))


def run(options: argparse.Namespace) -> None:
    """Train what was asked for and is not there yet."""
    teacher, found, _ = matched(options.near)
    sized: dict[str, Any] = {"batch_size": BATCH, "max_range_m": MAX_RANGE_M, "scored": 2} if options.near else {}
    wanted = [item for item in found if item.axis in options.axis and item.share in options.share]
    for seed, student, arm in product(options.seed, wanted, options.arm):
        if student.spec is None:
            print(
                f"{student.axis}: nothing below {student.share:.0%}; its smallest has {student.reached:.1%}", flush=True
            )
            continue
        about = {"axis": student.axis, "share": student.share, "spec": to_json(student.spec)}
        out = runs_of(options.near) / f"{student.axis}-{student.share:g}-{arm}-{seed}-{options.steps}"
        fit(teacher, student.spec, arm, seed=seed, steps=options.steps, out=out, about=about, device=DEVICE, **sized)


def runs_of(near: bool) -> Path:
    """Where trainings are."""
    return KEPT / ("near" if near else "whole")


def table(steps: int, near: bool) -> None:
    """Put the finished runs of ``steps`` steps together."""
    teacher, found, whole = matched(near)
    runs = [item for item in map(read_json, sorted(runs_of(near).glob("*/result.json"))) if item["steps"] == steps]
    whole_map = near_teacher_scores()["mAP"] / 100 if near else teacher.meta["metrics"]["mAP"]
    rows = [row(student, runs, whole, whole_map) for student in found]
    record = {
        "benchmark": NAME,
        "teacher": {"name": teacher.spec.name, "mAP": whole_map, "macs": whole.macs, "acts": whole.acts},
        "steps": steps,
        "range_m": RANGE_M if near else None,
        "cycles": CYCLES,
        "worlds": {"train": TRAIN, "validation": VALIDATION, "validation_frames": VALIDATION[2] * 20},
        "cpr": "formula A of kd3d.compress.search.cpr: recollected, not verified against the paper",
        "students": rows,
        "comparisons": [*(axes_compared(runs, found, *pair) for pair in combinations(AXES, 2))],
        "environment": environment.record(),
    }
    write_json(RESULTS / f"{NAME}.json", record)
    print(
        json.dumps([{key: row[key] for key in ("axis", "share", "macs_share", "kd", "cpr")} for row in rows], indent=2)
    )


def row(student: Student, runs: list[dict[str, Any]], whole: Cost, whole_map: float) -> dict[str, Any]:
    """One student: what it is, what it costs, what it reached."""
    facts = {"axis": student.axis, "share": student.share, "macs_share": student.reached, "matched": student.matched}
    if student.spec is None:
        return {**facts, "reason": "the axis gets no smaller", "kd": None, "control": None, "cpr": None}
    price = student.price
    reached = {arm: scores(runs, student, arm) for arm in ARMS}
    kd = [values[-1] for values in reached["kd"].values()]
    ratio = None
    if kd:
        ratio = cpr(
            student_acts=price.acts,
            teacher_acts=whole.acts,
            student_accuracy=statistics.mean(kd),
            teacher_accuracy=whole_map,
        )
    return {
        **facts,
        "name": student.spec.name,
        "choice": to_json(student.choice),
        "macs": price.macs,
        "params": price.params,
        "acts_share": price.acts / whole.acts,
        **{arm: {str(seed): values for seed, values in found.items()} for arm, found in reached.items()},
        "kd_minus_control": paired(reached["kd"], reached["control"]),
        "cpr": ratio,
    }


def scores(runs: list[dict[str, Any]], student: Student, arm: str) -> dict[int, list[float]]:
    """Scores (mAP) after every cycle, by seed; only of runs of this very student."""
    assert student.spec is not None
    asked = json.loads(json.dumps(to_json(student.spec)))
    return {
        item["seed"]: [score["mAP"] for score in item["scores"]]
        for item in runs
        if (item["arm"], item["spec"]) == (arm, asked)
    }


def axes_compared(runs: list[dict[str, Any]], found: list[Student], one: str, other: str) -> dict[str, Any]:
    """Distilled students of two axes at every share where both are matched."""
    at_shares = []
    for share in SHARES:
        pair = [next(item for item in found if (item.axis, item.share) == (axis, share)) for axis in (one, other)]
        if all(item.matched for item in pair):
            mine, theirs = (scores(runs, item, "kd") for item in pair)
            both_ways = {f"{one}_over_{other}": paired(mine, theirs), f"{other}_over_{one}": paired(theirs, mine)}
            at_shares.append({"share": share, **both_ways})
        else:
            at_shares.append({"share": share, "reason": "not both axes reach it"})
    return {"axes": [one, other], "shares": at_shares}


def listing(near: bool) -> None:
    """Print the matched students."""
    for item in matched(near)[1]:
        said = "out of reach; the smallest" if item.spec is None else item.spec.name
        print(f"{item.axis:10} {item.share:.0%}: {item.reached:6.1%} of the MACs  {said}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--axis", choices=AXES, nargs="+", default=AXES)
    one.add_argument("--share", type=float, choices=SHARES, nargs="+", default=SHARES)
    one.add_argument("--arm", choices=ARMS, nargs="+", default=ARMS)
    one.add_argument("--seed", type=int, nargs="+", default=SEEDS)
    one.add_argument("--threads", type=int, default=1)
    for command in (one, commands.add_parser("table")):
        command.add_argument("--steps", type=int, default=STEPS)
    for command in (one, commands.choices["table"], commands.add_parser("students")):
        command.add_argument("--near", action="store_true")
    commands.add_parser("plot")
    options = parser.parse_args()
    if options.command == "run":
        torch.set_num_threads(options.threads)
        run(options)
    elif options.command == "table":
        table(options.steps, options.near)
    elif options.command == "students":
        listing(options.near)
    else:
        draw_study(read_json(RESULTS / f"{NAME}.json"), ROOT / "docs" / "images" / f"{NAME}.png")


if __name__ == "__main__":
    main()
