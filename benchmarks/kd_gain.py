"""What do the teacher's weights bring, and what its answers? Three students, matched controls, three seeds.

    python benchmarks/kd_gain.py students                       the three students, nothing is trained
    python benchmarks/kd_gain.py run [--row ROW] [--seed S]     what is missing of it; resumes
    python benchmarks/kd_gain.py table                          -> results/kd_gain.json
    python benchmarks/kd_gain.py --long run|table               LONG steps instead of STEPS -> results/kd_gain_long.json

A row is a student, a rule of inheritance and how it is taught: `width-taylor-kd`. The students are the shipped teacher
narrowed alike in all parts (`width`), with fewer layers (`depth`; without any it still has 59 % of the MACs), on larger
cells (`resolution`), or on cells of twice the side (`half`). Taught: `plain` from the labels alone, `kd` by SparseKD's
recipe, `cached` by the same with DRAWS recorded augmentations per frame and the teacher's answers to them from its
cache, `crossscale` and `auto` by those recipes, `fleet` by `auto` with half of every batch from the scenes of FLEET
without their labels. All rows of a student but `fleet` have the same data, order, augmentation and steps. As in
`search_gain.py` the teacher is looked at within RANGE_M of the car, so that it fits a CPU.
With ``--long`` the controls have the time to converge, which `beats` asks for (CONTRIBUTING.md).
Finished rows that stand in the recorded file are not trained again, whichever machine they are of.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comparing import paired
from fitting import AUGMENTATION, Arm, fit
from near import BATCH, MAX_RANGE_M, RANGE_M, near_teacher, near_teacher_scores
from study_width_depth_resolution import along
from worlds import DEVICE, FLEET, RESULTS, RUNS, TRAIN, VALIDATION, without_labels, world

from kd3d.compress.data import CompressData
from kd3d.compress.recipe import Recipe
from kd3d.compress.recipe_file import load_recipe
from kd3d.compress.search.cost import StatsTable, cost
from kd3d.compress.search.space import Choice, scaled
from kd3d.runs import environment
from kd3d.runs.atomic import read_json, write_json
from kd3d.spec import DetectorSpec, to_json

SHARES = {"width": 0.25, "depth": 0.65, "resolution": 0.5}  # of the teacher's MACs, at most
SEEDS, STEPS, LONG = (1, 2, 3), 1600, 4800
FRESH, CACHED, FLEETS, DRAWS = "fresh", "cached", "fleet", 4
ROWS = (
    "width-taylor-kd",
    "width-l1-kd",
    "width-taylor-plain",
    "width-taylor-auto",
    "width-taylor-fleet",
    "resolution-taylor-kd",
    "resolution-taylor-plain",
    "resolution-taylor-auto",
    "depth-taylor-kd",
    "depth-taylor-plain",
    "depth-taylor-auto",
    "width-random-kd",
    "width-fresh-kd",
    "width-fresh-plain",
    "width-bn-kd",
    "width-first-kd",
    "width-taylor-cached",
    "half-taylor-crossscale",
    "half-taylor-auto",
    "half-taylor-kd",
    "half-taylor-plain",
)
COMPARED = (
    ("width-taylor-kd", "width-taylor-plain"),
    ("width-taylor-auto", "width-taylor-plain"),
    ("width-taylor-auto", "width-taylor-kd"),
    ("width-taylor-fleet", "width-taylor-plain"),
    ("width-taylor-fleet", "width-taylor-auto"),
    ("resolution-taylor-kd", "resolution-taylor-plain"),
    ("resolution-taylor-auto", "resolution-taylor-plain"),
    ("resolution-taylor-auto", "resolution-taylor-kd"),
    ("depth-taylor-kd", "depth-taylor-plain"),
    ("depth-taylor-auto", "depth-taylor-plain"),
    ("depth-taylor-auto", "depth-taylor-kd"),
    ("width-taylor-kd", "width-l1-kd"),
    ("width-taylor-kd", "width-random-kd"),
    ("width-taylor-kd", "width-fresh-kd"),
    ("width-taylor-plain", "width-fresh-plain"),
    ("width-taylor-kd", "width-bn-kd"),
    ("width-taylor-kd", "width-first-kd"),
    ("width-taylor-cached", "width-taylor-kd"),
    ("half-taylor-crossscale", "half-taylor-plain"),
    ("half-taylor-auto", "half-taylor-plain"),
    ("half-taylor-crossscale", "half-taylor-auto"),
    ("half-taylor-kd", "half-taylor-plain"),
)


def recipe(taught: str) -> Recipe | None:
    """What the rows of this name are taught."""
    if taught == "plain":
        return None
    named = {"crossscale": "crossscale", "auto": "auto", FLEETS: "auto"}
    return load_recipe(named[taught]) if taught in named else Recipe()


def with_fleet(sweeps: int) -> CompressData:
    """The usual training frames, and beside them those of the fleet without labels."""
    train = world(TRAIN, sweeps=sweeps)
    return CompressData(train, augmentation=AUGMENTATION, unlabelled=without_labels(FLEET, sweeps=sweeps, like=train))


def students() -> dict[str, tuple[DetectorSpec, float]]:
    """By axis the student with the most MACs within its share, and its share; the one at half the resolution."""
    teacher = near_teacher().spec
    stats = StatsTable(world(TRAIN, sweeps=teacher.points.sweeps), 20)
    whole, found = cost(teacher, stats(teacher)).macs, {}
    for axis, share in SHARES.items():
        within = [item for item in along(axis, teacher, stats) if item[0].macs <= share * whole]
        price, spec, _ = within[-1]
        found[axis] = (spec, price.macs / whole)
    coarse = scaled(teacher, Choice(cell=2))
    return {**found, "half": (coarse, cost(coarse, stats(coarse)).macs / whole)}


@dataclass(frozen=True)
class Length:
    """The steps of every row, and where runs and record of that length lie."""

    steps: int
    runs: Path
    record: Path

    def setting(self) -> dict[str, Any]:
        """What all rows share."""
        worlds = {"train": list(TRAIN), "validation": list(VALIDATION)}
        return {"steps": self.steps, "batch": BATCH, "range_m": RANGE_M, "max_range_m": MAX_RANGE_M, "worlds": worlds}

    def recorded(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Finished rows of the record, if it is of the same setting, and of this machine."""
        found: dict[tuple[str, int], dict[str, Any]] = {}
        if self.record.exists():
            before = read_json(self.record)
            if before["setting"] == self.setting():
                found = {(item["row"], item["seed"]): item for item in before["rows"]}
        for path in sorted(self.runs.glob("*/result.json")):
            item = read_json(path)
            found[item["row"], item["seed"]] = row_of(item)
        return found


USUAL = Length(STEPS, RUNS / "kd-gain", RESULTS / "kd_gain.json")
LONGER = Length(LONG, RUNS / "kd-gain-long", RESULTS / "kd_gain_long.json")


def run(length: Length, rows: list[str], seeds: list[int], device: str) -> None:
    """Train what neither this machine nor the record has."""
    teacher, specs, known = near_teacher(), students(), length.recorded()
    teacher.module.to(device)
    for seed in seeds:
        for row in rows:
            if (row, seed) in known:
                continue
            axis, rule, taught = row.split("-")
            spec, share = specs[axis]
            draws = DRAWS if taught == CACHED else 0
            arm = Arm(row, None if rule == FRESH else rule, recipe(taught), draws)
            facts = {"row": row, "student": spec.name, "spec": to_json(spec), "macs_share": share}
            fit(
                teacher,
                spec,
                arm,
                seed=seed,
                steps=length.steps,
                out=length.runs / f"{row}-{seed}",
                about=facts,
                device=device,
                batch_size=BATCH,
                max_range_m=MAX_RANGE_M,
                scored=2,
                frames=with_fleet(spec.points.sweeps) if taught == FLEETS else None,
            )


def row_of(found: dict[str, Any]) -> dict[str, Any]:
    """What the record keeps of one training."""
    kept = {name: found[name] for name in ("row", "seed", "student", "macs_share", "step_s")}
    made = {name: found["environment"][name] for name in ("date", "commit")}
    curve = [100 * item["mAP"] for item in found["scores"]]
    return {**kept, "mAP": curve, "NDS": 100 * found["scores"][-1]["NDS"], "made": made}


def table(length: Length) -> None:
    """Put the finished rows together."""
    rows = length.recorded()
    curves: dict[str, dict[int, list[float]]] = {}
    for (row, seed), item in rows.items():
        curves.setdefault(row, {})[seed] = [value / 100 for value in item["mAP"]]
    compared = [
        {"row": ours, "control": other, **paired(curves.get(ours, {}), curves.get(other, {}))}
        for ours, other in COMPARED
    ]
    record = {
        "benchmark": "kd_gain",
        "setting": length.setting(),
        "teacher": near_teacher_scores(),
        "rows": sorted(rows.values(), key=lambda item: (ROWS.index(item["row"]), item["seed"])),
        "compared": compared,
        "environment": environment.record(),
    }
    write_json(length.record, record)
    print(json.dumps(record["compared"], indent=1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help=f"{LONG} steps")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("students")
    commands.add_parser("table")
    one = commands.add_parser("run")
    one.add_argument("--row", choices=ROWS, nargs="+", default=list(ROWS))
    one.add_argument("--seed", type=int, nargs="+", default=list(SEEDS))
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--device", default=DEVICE)
    options = parser.parse_args()
    length = LONGER if options.long else USUAL
    if options.command == "students":
        for axis, (spec, share) in students().items():
            print(f"{axis}: {spec.name}, {100 * share:.1f} % of the MACs")
    elif options.command == "table":
        table(length)
    else:
        torch.set_num_threads(options.threads)
        run(length, options.row, options.seed, options.device)


if __name__ == "__main__":
    main()
