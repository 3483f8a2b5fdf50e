"""Does distillation pay? One student of at most 25 % of the teacher's MACs, three seeds, matched controls.

    python benchmarks/kd_three_seeds.py run --arm kd --seed 1      one run; resumes; runs may go in parallel
    python benchmarks/kd_three_seeds.py table                      all finished runs -> results/kd_three_seeds.json

Arms: ``control`` trains the student from scratch on the ground truth alone; ``inherit`` is the same with inherited
weights; ``kd`` inherits and distils. Data, order, augmentation, steps and recipe are equal within a seed.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from comparing import paired
from fitting import CYCLES, fit
from worlds import DEVICE, RESULTS, RUNS, TRAIN, VALIDATION, world

from kd3d.compress.search.cost import StatsTable, cost
from kd3d.detectors.assets import shipped_teacher
from kd3d.detectors.presets import preset
from kd3d.runs import environment
from kd3d.runs.atomic import read_json, write_json

ARMS = ("control", "inherit", "kd")
STUDENT = "world-centerpoint-pillar-small"
KEPT = RUNS / "kd-three-seeds"


def run(arm: str, seed: int, steps: int) -> None:
    """Train and score one arm with one seed; the result stays in its run folder."""
    fit(
        shipped_teacher(),
        preset(STUDENT),
        arm,
        seed=seed,
        steps=steps,
        out=KEPT / f"{arm}-{seed}-{steps}",
        about={},
        device=DEVICE,
    )


def table() -> None:
    """Put the finished runs together and judge them by the rule of CONTRIBUTING.md."""
    teacher, spec = shipped_teacher(), preset(STUDENT)
    data = world(TRAIN, sweeps=spec.points.sweeps)
    stats = StatsTable(data, 40)
    runs = [read_json(path) for path in sorted(KEPT.glob("*/result.json"))]
    prices = {name: cost(item, stats(item)) for name, item in (("teacher", teacher.spec), ("student", spec))}
    record: dict[str, Any] = {
        "benchmark": "kd_three_seeds",
        "teacher": {"mAP": teacher.meta["metrics"]["mAP"], "NDS": teacher.meta["metrics"]["NDS"]},
        "student": STUDENT,
        "macs_share": prices["student"].macs / prices["teacher"].macs,
        "macs": {name: price.macs for name, price in prices.items()},
        "params": {name: price.params for name, price in prices.items()},
        "worlds": {"train": TRAIN, "validation": VALIDATION, "validation_frames": VALIDATION[2] * 20},
        "cycles": CYCLES,
        "runs": [
            {
                **{key: item[key] for key in ("arm", "seed", "steps", "recipe", "inherit")},
                "scores": [{key: score[key] for key in ("mAP", "NDS", "tp_errors")} for score in item["scores"]],
            }
            for item in runs
        ],
        "comparisons": [compare(runs, arm) for arm in ("inherit", "kd")],
        "environment": environment.record(),
    }
    write_json(RESULTS / "kd_three_seeds.json", record)
    print(json.dumps(record["comparisons"], indent=2))


def compare(runs: list[dict[str, Any]], arm: str) -> dict[str, Any]:
    """Paired differences of ``arm`` to the control, in mAP points, and whether they count as 'beats'."""
    ours, control = (
        {item["seed"]: [score["mAP"] for score in item["scores"]] for item in runs if item["arm"] == name}
        for name in (arm, "control")
    )
    return {"arm": arm, **paired(ours, control)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--arm", choices=ARMS, required=True)
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--steps", type=int, default=3200)
    one.add_argument("--threads", type=int, default=1)
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "run":
        torch.set_num_threads(options.threads)
        run(options.arm, options.seed, options.steps)
    else:
        table()


if __name__ == "__main__":
    main()
