"""Does distillation pay? One student of at most 25 % of the teacher's MACs, three seeds, matched controls.

    python benchmarks/kd_three_seeds.py run --arm kd --seed 1      one run; resumes; runs may go in parallel
    python benchmarks/kd_three_seeds.py table                      all finished runs -> results/kd_three_seeds.json

Arms: ``control`` trains the student from scratch on the ground truth alone; ``inherit`` is the same with inherited
weights; ``kd`` inherits and distils. Data, order, augmentation, steps and recipe are equal within a seed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from fitting import AUGMENTATION, score, settings, watch
from worlds import RESULTS, TRAIN, VALIDATION, world

from kd3d.compress.inherit.apply import apply_plan
from kd3d.compress.inherit.dataflow import plan
from kd3d.compress.recipe import Recipe
from kd3d.compress.search.cost import StatsTable, cost
from kd3d.detectors.assets import shipped_teacher
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.runs import environment
from kd3d.runs.atomic import read_json, write_json
from kd3d.training.loop import train
from kd3d.training.objective import DetectionObjective

ARMS = ("control", "inherit", "kd")
STUDENT = "world-centerpoint-pillar-small"
RULE = "l1"
# Shares of the steps, and peak rates. The rate is down at the end of each cycle, so the gain over the last quarter is
# that of a whole annealed cycle more: what longer training still brings, not what lowering the rate brings.
CYCLES = ((0.5625, 3e-3), (0.1875, 1e-3), (0.25, 5e-4))
RUNS = Path(__file__).resolve().parents[1] / "runs" / "kd-three-seeds"


def run(arm: str, seed: int, steps: int) -> None:
    """Train and score one arm with one seed; the result stays in its run folder."""
    teacher, spec = shipped_teacher(), preset(STUDENT)
    out = RUNS / f"{arm}-{seed}-{steps}"
    if (out / "result.json").exists():
        return
    data, validation = world(TRAIN, sweeps=spec.points.sweeps), world(VALIDATION, sweeps=spec.points.sweeps)
    torch.manual_seed(seed)
    student = build(spec)
    if arm != "control":
        weights = teacher.module.state_dict()
        made = plan(teacher.spec, spec, RULE, weights)
        student.load_state_dict(apply_plan(made, student.state_dict(), weights))
    recipe, scores = Recipe(), []
    objective = recipe.objective(teacher.module, spec) if arm == "kd" else DetectionObjective(spec)
    for cycle, (share, lr) in enumerate(CYCLES):
        result = train(
            student,
            data,
            settings=settings(round(share * steps), 10 * seed + cycle, lr=lr),
            run=out / f"cycle-{cycle}",
            objective=objective,
            augmentation=AUGMENTATION,
            teacher_spec=getattr(objective, "teacher_input", None),
            progress=watch(f"{arm}-{seed}, cycle {cycle}"),
        )
        student, found = result.module, out / f"scores-{cycle}.json"
        if not found.exists():
            write_json(found, score(student, validation, out / f"scores-{cycle}"))
        scores.append(read_json(found))
    write_json(
        out / "result.json",
        {
            "arm": arm,
            "seed": seed,
            "steps": steps,
            "recipe": repr(recipe) if arm == "kd" else None,
            "inherit": None if arm == "control" else RULE,
            "scores": scores,
            "environment": environment.record(),
        },
    )


def table() -> None:
    """Put the finished runs together and judge them by the rule of CONTRIBUTING.md."""
    teacher, spec = shipped_teacher(), preset(STUDENT)
    data = world(TRAIN, sweeps=spec.points.sweeps)
    stats = StatsTable(data, 40)
    runs = [read_json(path) for path in sorted(RUNS.glob("*/result.json"))]
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
    finals = {(item["arm"], item["seed"]): 100 * item["scores"][-1]["mAP"] for item in runs}
    seeds = sorted(seed for name, seed in finals if name == arm and ("control", seed) in finals)
    differences = [finals[arm, seed] - finals["control", seed] for seed in seeds]
    controls = [item for item in runs if item["arm"] == "control" and item["seed"] in seeds]
    gains = [100 * (item["scores"][-1]["mAP"] - item["scores"][-2]["mAP"]) for item in controls]
    if len(seeds) < 3:
        return {"arm": arm, "seeds": seeds, "differences": differences, "beats": None}
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    converged = max(gains) < 1.0
    return {
        "arm": arm,
        "seeds": seeds,
        "mAP": [finals[arm, seed] for seed in seeds],
        "control_mAP": [finals["control", seed] for seed in seeds],
        "differences": differences,
        "mean": mean,
        "standard_error": error,
        "control_gain_last_quarter": gains,
        "control_converged": converged,
        "beats": min(differences) > 0 and mean > 2 * error and converged,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--arm", choices=ARMS, required=True)
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--steps", type=int, default=1000)
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
