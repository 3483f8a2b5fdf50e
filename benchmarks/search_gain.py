"""Does the search earn its keep? A searched student against random ones and against uniform width scaling.

    python benchmarks/search_gain.py teacher                      scores the teacher in the range that is looked at
    python benchmarks/search_gain.py run --arm ARM --seed S       searched, uniform or random (8 students); resumes
    python benchmarks/search_gain.py short --seed S               short scores of that seed's random students
    python benchmarks/search_gain.py table                        -> results/search_gain.json

Every arm of a seed has the same budget of MACs (25 % of the teacher's) and of *training cost*: frames times three
student passes and one teacher pass, in MACs. The search pays for its own trainings and scorings out of it, so its
winner is taught for fewer steps than the others. `random` draws evenly from the students of the search's axes (in
coarser steps) that have at least 90 % of the budget; `uniform` narrows all widths alike, at the teacher's depth and
cell.

The shipped teacher has no part to spare, as its widths were chosen together. With six tasks, as nuScenes detectors have
them, two thirds of the MACs are in the head, and uniform widths leave them there.

To fit a CPU the shipped teacher is looked at within RANGE_M of the car: the same weights on a smaller grid, scored
within MAX_RANGE_M. All arms inherit and are distilled; the schedule is that of `fitting.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from comparing import paired
from fitting import AUGMENTATION, CYCLES, RULE, fit, settings
from near import BATCH, MAX_RANGE_M, RANGE_M, near_teacher, near_teacher_scores
from six_tasks import six_task_scores, six_task_teacher
from study_width_depth_resolution import MULTIPLE, along
from worlds import DEVICE, RESULTS, RUNS, TRAIN, VALIDATION, world

from kd3d.compress.data import CompressData
from kd3d.compress.distilling import DistillSettings, measured
from kd3d.compress.search.budget import Budgets, parse_budget
from kd3d.compress.search.cost import StatsTable, cost
from kd3d.compress.search.grid import Candidate
from kd3d.compress.search.holdout import hold_out
from kd3d.compress.search.optimise import optimise
from kd3d.compress.search.settings import SearchSettings
from kd3d.compress.search.space import Space
from kd3d.compress.search.students import find_students
from kd3d.compress.search.trial import CALIBRATION_FRAMES, TrialRunner, brief
from kd3d.datasets.base import SampleDataset
from kd3d.detectors.checkpoint import Model
from kd3d.runs import environment
from kd3d.runs.atomic import read_json, write_json
from kd3d.spec import DetectorSpec, to_json

BUDGET, NEAR = 0.25, 0.9
SEEDS, RANDOM = (1, 2, 3), 8
STEPS, MORE_STEPS = int(os.environ.get("KD3D_STEPS", "1600")), 3200
ARMS = ("searched", "uniform", "random")
TRIALS, RUNGS = 6, (60, 120)
COARSE = Space(backbone=(0.25, 0.375, 0.5, 0.625, 0.75, 1.0), neck=(0.25, 0.5, 0.75, 1.0), head=(0.25, 0.5, 0.75, 1.0))


@dataclass(frozen=True)
class Case:
    """Whose students are compared, and where runs and record lie.

    Args:
        of: the teacher, in words.
        teacher: makes or loads it.
        scores: its mAP and NDS in points.
        kept: run folders.
        record: the file of results.
        steps: that pay for everything.
        multiple: of the channels of uniform widths; the finer, the closer they come to the budget.
    """

    of: str
    teacher: Callable[[], Model]
    scores: Callable[[], dict[str, Any]]
    kept: Path
    record: Path
    steps: int
    multiple: int


SHIPPED = Case(
    "the shipped teacher",
    near_teacher,
    near_teacher_scores,
    RUNS / "search-gain",
    RESULTS / "search_gain.json",
    STEPS,
    MULTIPLE,
)
SIX_TASKS = Case(
    "a teacher with the six heads of nuScenes (`six_tasks.py`)",
    six_task_teacher,
    six_task_scores,
    RUNS / "search-gain-six-tasks",
    RESULTS / "search_gain_six_tasks.json",
    MORE_STEPS,
    1,
)


class Setting:
    """Teacher, data, and the students within the budget."""

    def __init__(self, case: Case) -> None:
        self.case, self.teacher = case, case.teacher()
        spec = self.teacher.spec
        self.train, self.validation = (world(which, sweeps=spec.points.sweeps) for which in (TRAIN, VALIDATION))
        self.stats = StatsTable(self.train, 20)
        self.whole = cost(spec, self.stats(spec)).macs
        budgets = Budgets(flops=parse_budget(f"{100 * BUDGET:g}%"))
        self.students = find_students(spec, budgets, Space(), stats=self.stats)

    def share(self, spec: DetectorSpec) -> float:
        """MACs of a student, of the teacher's."""
        return cost(spec, self.stats(spec)).macs / self.whole

    def steps(self, spec: DetectorSpec, spent: float = 0.0) -> int:
        """Steps that are left to a student when ``spent`` teacher passes have been paid for something else."""
        total = self.case.steps * BATCH * (3 * BUDGET + 1)
        return int((total - spent) / (BATCH * (3 * self.share(spec) + 1)))

    def randoms(self, seed: int) -> list[Candidate]:
        """The random students of a seed."""
        coarse = find_students(self.teacher.spec, self.students.budgets, COARSE, stats=self.stats)
        near = [item for item in coarse.found if item.cost.macs >= NEAR * BUDGET * self.whole]
        near.sort(key=lambda item: item.spec.name)
        return random.Random(seed).sample(near, RANDOM)

    def uniform(self) -> DetectorSpec:
        """All widths narrowed alike, as wide as the budget allows."""
        line = along("width", self.teacher.spec, self.stats, multiple=self.case.multiple)
        return max(
            (item for item in line if item[0].macs <= BUDGET * self.whole),
            key=lambda item: (item[0].macs, item[0].params),
        )[1]

    def runner(self, seed: int, run: Path) -> TrialRunner:
        """Short trainings as the search has them."""
        held = hold_out(data_of(self.train))
        known = measured(self.teacher, distil(seed), data=held.data, device=DEVICE)
        return TrialRunner(self.teacher, held.data, brief(distil(seed), RUNGS[-1], RUNGS[0]), run, DEVICE, known)


def data_of(train: SampleDataset) -> CompressData:
    """Training frames, augmented, and scored within the range that is looked at."""
    return CompressData(train, augmentation=AUGMENTATION, max_range_m=MAX_RANGE_M)


def distil(seed: int) -> DistillSettings:
    """How trials are taught: as the students at the end are."""
    return DistillSettings(settings(RUNGS[-1], seed, lr=CYCLES[0][1], batch_size=BATCH), inherit=RULE)


def run(case: Case, arm: str, seed: int, chosen: list[int]) -> None:
    """Train what is not there yet, here or in the record."""
    if f"{arm}-{seed}" in recorded(case):
        return
    setting = Setting(case)
    if arm == "searched":
        spec, spent, about = search(setting, seed)
        teach(setting, spec, arm, seed, {"search": about}, spent=spent)
    elif arm == "uniform":
        teach(setting, setting.uniform(), arm, seed, {})
    else:
        for place in chosen:
            teach(setting, setting.randoms(seed)[place].spec, f"random-{place}", seed, {})


def search(setting: Setting, seed: int) -> tuple[DetectorSpec, float, dict[str, Any]]:
    """The searched student, what finding it cost in teacher passes, and how it was found."""
    out, asked = setting.case.kept / f"search-{seed}", SearchSettings("tpe", trials=TRIALS, seed=seed, rungs=RUNGS)
    data = data_of(setting.train)
    found = optimise(
        setting.teacher, data, setting.students, settings=asked, distill=distil(seed), run=out, device=DEVICE
    )
    held = hold_out(data).data.val
    assert held is not None
    spent = float(len(held))  # the teacher is scored once
    for trial in found.trials:
        share = setting.share(trial.candidate.spec)
        scoring = len(trial.scores) * (len(held) + CALIBRATION_FRAMES) * share
        spent += (trial.steps or 0) * BATCH * (3 * share + 1) + scoring
    about = {"trials": len(found.trials), "rungs": RUNGS, "steps": found.record["steps_spent"], "cost": spent}
    return found.best.candidate.spec, spent, about


def teach(
    setting: Setting, spec: DetectorSpec, name: str, seed: int, about: dict[str, Any], *, spent: float = 0.0
) -> None:
    """The full training of one student, unless the record has it."""
    if f"{name}-{seed}" in recorded(setting.case):
        return
    steps = setting.steps(spec, spent)
    facts = {"name": name, "spec": to_json(spec), "macs_share": setting.share(spec), **about}
    out = setting.case.kept / f"{name}-{seed}"
    fit(
        setting.teacher,
        spec,
        "kd",
        seed=seed,
        steps=steps,
        out=out,
        about=facts,
        batch_size=BATCH,
        max_range_m=MAX_RANGE_M,
        scored=2,
        device=DEVICE,
    )


def short(case: Case, seed: int) -> None:
    """Short scores of the random students of a seed, as the search would give them; not charged to any arm."""
    setting = Setting(case)
    runner = setting.runner(seed, case.kept / f"short-{seed}")
    for place, candidate in enumerate(setting.randoms(seed)):
        found = {str(steps): runner(candidate, steps)["mAP"] for steps in RUNGS}
        write_json(case.kept / f"random-{place}-{seed}" / "short.json", found)
        print(seed, candidate.spec.name, found, flush=True)


def kendall(first: list[float], second: list[float]) -> float:
    """Kendall's tau (a): pairs in the same order less pairs in the other, of all pairs."""
    signs = [
        ((first[one] > first[two]) - (first[one] < first[two]))
        * ((second[one] > second[two]) - (second[one] < second[two]))
        for one, two in combinations(range(len(first)), 2)
    ]
    return sum(signs) / len(signs)


def table(case: Case) -> None:
    """Put the finished runs together."""
    rows = list(recorded(case).values())
    curves = {f"{item['name']}-{item['seed']}": item["mAP"] for item in rows}
    searched, uniform = (
        {s: [v / 100 for v in curves[f"{arm}-{s}"]] for s in SEEDS if f"{arm}-{s}" in curves} for arm in ARMS[:2]
    )
    average = {seed: values for seed in SEEDS if (values := random_mean(curves, seed))}
    record = {
        "benchmark": "search_gain",
        "of": case.of,
        "teacher": case.scores(),
        **setting(case),
        "worlds": {"train": TRAIN, "validation": VALIDATION},
        "rows": rows,
        "searched_over_random_mean": paired(searched, average),
        "searched_over_uniform": paired(searched, uniform),
        "kendall_tau": tau(rows),
        "environment": environment.record(),
    }
    write_json(case.record, record)
    print(json.dumps({key: value for key, value in record.items() if key not in ("environment",)}, indent=1))


def recorded(case: Case) -> dict[str, dict[str, Any]]:
    """Trained students by name and seed: of the record, if it is of this setting, and of this machine."""
    found, before = {}, read_json(case.record) if case.record.exists() else {}
    if all(before.get(key) == value for key, value in setting(case).items()):
        found = {f"{item['name']}-{item['seed']}": item for item in before["rows"]}
    for path in sorted(case.kept.glob("*/result.json")):
        found[path.parent.name] = row(path.parent)
    return found


def setting(case: Case) -> dict[str, Any]:
    """What all arms share."""
    budget = {"budget": BUDGET, "inherit": RULE, "steps": case.steps, "batch": BATCH}
    return {**budget, "range_m": RANGE_M, "max_range_m": MAX_RANGE_M}


def row(folder: Path) -> dict[str, Any]:
    """One student trained here."""
    found, scores = read_json(folder / "result.json"), folder / "short.json"
    curve = [100 * item["mAP"] for item in found["scores"]]
    return {
        "name": found["name"],
        "seed": found["seed"],
        "steps": found["steps"],
        "student": found["spec"]["name"],
        "macs_share": found["macs_share"],
        "mAP": curve,
        "NDS": 100 * found["scores"][-1]["NDS"],
        "short": read_json(scores) if scores.exists() else None,
        "search": found.get("search"),
    }


def random_mean(curves: dict[str, list[float]], seed: int) -> list[float]:
    """Mean over the random students of a seed, after every cycle (0..1); empty unless all are there."""
    found = [curves.get(f"random-{place}-{seed}") for place in range(RANDOM)]
    if not all(found):
        return []
    return [mean(values) / 100 for values in zip(*(item for item in found if item), strict=True)]


def tau(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlation of the short with the full score of the random students: by seed, and of all."""
    scored = [item for item in rows if item["short"]]
    found: dict[str, Any] = {"candidates": len(scored)}
    for steps in map(str, RUNGS):
        by_seed = []
        for seed in SEEDS:
            mine = [item for item in scored if item["seed"] == seed]
            if len(mine) > 1:
                by_seed.append(kendall([item["short"][steps] for item in mine], [item["mAP"][-1] for item in mine]))
        everything = [item["short"][steps] for item in scored], [item["mAP"][-1] for item in scored]
        found[steps] = {"by_seed": by_seed, "all": kendall(*everything) if len(scored) > 1 else None}
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--six-tasks", action="store_true", help="the teacher of six_tasks.py")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--arm", choices=ARMS, required=True)
    one.add_argument("--place", type=int, nargs="+", default=range(RANDOM), help="which of the random students")
    for command in (one, commands.add_parser("short")):
        command.add_argument("--seed", type=int, required=True)
        command.add_argument("--threads", type=int, default=1)
    commands.add_parser("teacher")
    commands.add_parser("table")
    options = parser.parse_args()
    torch.set_num_threads(getattr(options, "threads", 1))
    case = SIX_TASKS if options.six_tasks else SHIPPED
    if options.command == "run":
        run(case, options.arm, options.seed, list(options.place))
    elif options.command == "short":
        short(case, options.seed)
    elif options.command == "teacher":
        print(case.scores())
    else:
        table(case)


if __name__ == "__main__":
    main()
