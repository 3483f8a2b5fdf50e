"""Does automatic gradient blending replace the search for a loss weight? One run of it against a sweep of 14.

    python benchmarks/blend_sweep.py run [--combination NAME ...]   what is missing; resumes
    python benchmarks/blend_sweep.py table                          -> results/blend_sweep.json

A combination is a student of `kd_gain.py` and one signal. Its weight is swept on seed A: 14 runs, half a decade apart,
from 3e-4 to 1e3 times the weight that the signal has by default. The best weight is then used on seeds B and C, where
it meets blending (settings fixed beforehand) and the student without distillation: so the sweep does not report the
score by which it chose. All runs inherit alike and have the same data, order and steps.

`as good`: blending is not lower than the chosen weight by more than 2 standard errors of the paired differences. Two
seeds make a poor standard error; the differences stand in the record. Step times are medians of what every run logged.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from fitting import CYCLES, RULE, Arm, fit
from kd_gain import students
from near import BATCH, MAX_RANGE_M, RANGE_M, near_teacher, near_teacher_scores
from worlds import DEVICE, RESULTS, RUNS, TRAIN, VALIDATION

from kd3d.compress.distill.coefs import BlendSettings
from kd3d.compress.distill.registry import KINDS
from kd3d.compress.recipe import Recipe
from kd3d.runs import environment
from kd3d.runs.atomic import read_json, write_json
from kd3d.spec import to_json
from kd3d.training.log import read_metrics

COMBINATIONS = ("width-logits", "width-fitnet", "resolution-responses", "resolution-attention")
MORE = ("width-responses", "depth-logits", "depth-fitnet", "resolution-logits")  # where there is a GPU
FACTORS = tuple(10 ** ((place - 7) / 2) for place in range(14))
SWEPT, JUDGED = 1, (2, 3)
STEPS = 800  # within 400 no weight of the logits brought anything (docs/log.md), so there was nothing to choose
KEPT, RECORD = RUNS / f"blend-sweep-{STEPS}", RESULTS / "blend_sweep.json"
BLEND = BlendSettings()
NOTHING = Recipe(logits=0, boxes=0, label_threshold=None)


@dataclass(frozen=True)
class Run:
    """One training: a combination, what it is given (``sweep-PLACE``, ``chosen``, ``blend``, ``plain``), and a seed."""

    combination: str
    given: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder; students without distillation are shared by the combinations of an axis."""
        axis = self.combination.partition("-")[0]
        return f"{axis if self.given == 'plain' else self.combination}-{self.given}-{self.seed}"


def runs(combination: str) -> Iterator[Run]:
    """Those of a combination, in an order in which ``chosen`` comes after the sweep."""
    yield from (Run(combination, f"sweep-{place}", SWEPT) for place in range(len(FACTORS)))
    yield from (Run(combination, given, seed) for given in ("chosen", "blend", "plain") for seed in JUDGED)


def weight(kind: str, place: int) -> float:
    """A weight of the sweep."""
    return float(KINDS[kind]().weight * FACTORS[place])


def recipe(run: Run) -> Recipe | None:
    """What the student is taught."""
    kind = run.combination.partition("-")[2]
    if run.given == "plain":
        return None
    if run.given == "blend":
        return replace(NOTHING, more=({"signal": kind},), blend=BLEND)
    place = best_place(run.combination) if run.given == "chosen" else int(run.given.rpartition("-")[2])
    return replace(NOTHING, more=({"signal": kind, "weight": weight(kind, place)},))


def best_place(combination: str) -> int:
    """The weight with the highest mAP on the seed of the sweep; the sweep must be complete."""
    found = recorded()
    scores = [found[Run(combination, f"sweep-{place}", SWEPT).name]["mAP"] for place in range(len(FACTORS))]
    return max(range(len(FACTORS)), key=lambda place: scores[place])


def train(combinations: list[str], device: str, only: list[str]) -> None:
    """Train what neither this machine nor the record has; with ``only`` runs of these names alone."""
    teacher, specs = near_teacher(), students()
    teacher.module.to(device)
    for run in (run for combination in combinations for run in runs(combination)):
        if run.name in recorded() or (only and run.name not in only):
            continue
        spec, share = specs[run.combination.partition("-")[0]]
        facts = {"name": run.name, "student": spec.name, "spec": to_json(spec), "macs_share": share}
        shared: dict[str, Any] = {"device": device, "batch_size": BATCH, "max_range_m": MAX_RANGE_M, "scored": 1}
        arm = Arm(run.given, RULE, recipe(run))
        fit(teacher, spec, arm, seed=run.seed, steps=STEPS, out=KEPT / run.name, about=facts, **shared)


def recorded() -> dict[str, dict[str, Any]]:
    """Finished runs by name: of the record, if it is of the same setting, and of this machine."""
    found: dict[str, dict[str, Any]] = {}
    if RECORD.exists():
        before = read_json(RECORD)
        if before["setting"] == setting():
            found = {item["name"]: item for item in before["runs"]}
    for path in sorted(KEPT.glob("*/result.json")):
        found[path.parent.name] = row(read_json(path), path.parent.name)
    return found


def setting() -> dict[str, Any]:
    """What all runs share."""
    worlds = {"train": list(TRAIN), "validation": list(VALIDATION)}
    ranges = {"range_m": RANGE_M, "max_range_m": MAX_RANGE_M}
    cycles = [list(cycle) for cycle in CYCLES]
    return {"steps": STEPS, "batch": BATCH, **ranges, "cycles": cycles, "worlds": worlds, "blend": to_json(BLEND)}


def row(item: dict[str, Any], name: str) -> dict[str, Any]:
    """What the record keeps of one run; of blending also the medians of what it logged."""
    kept = {key: item[key] for key in ("seed", "student", "macs_share", "step_s")}
    made = {key: item["environment"][key] for key in ("date", "commit")}
    logs = [line for path in sorted((KEPT / name).glob("cycle-*/metrics.jsonl")) for line in read_metrics(path)]
    blends = [line["blend"] for line in logs if "blend" in line]
    seen = {key: statistics.median(one[key] for one in blends if key in one) for key in {k for b in blends for k in b}}
    score = item["scores"][-1]
    told = {"mAP": 100 * score["mAP"], "NDS": 100 * score["NDS"], **({"blend": seen} if seen else {})}
    return {"name": name, **kept, **told, "made": made}


def verdict(combination: str, found: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Blending against the chosen weight and against none; ``None`` until all runs are there."""
    needed = {run.given + str(run.seed): run.name for run in runs(combination)}
    if not all(name in found for name in needed.values()):
        return None
    sweep = [found[needed[f"sweep-{place}{SWEPT}"]] for place in range(len(FACTORS))]
    place, kind = best_place(combination), combination.partition("-")[2]
    ours, chosen, plain = (
        [found[needed[given + str(seed)]]["mAP"] for seed in JUDGED] for given in ("blend", "chosen", "plain")
    )
    behind = differences(ours, chosen)
    step = statistics.mean(found[needed[f"blend{seed}"]]["step_s"] for seed in JUDGED)
    return {
        "combination": combination,
        "weights": [weight(kind, at) for at in range(len(FACTORS))],
        "sweep_mAP": [item["mAP"] for item in sweep],
        "chosen_weight": weight(kind, place),
        "blend_mAP": ours,
        "chosen_mAP": chosen,
        "plain_mAP": plain,
        "over_chosen": behind,
        "over_plain": differences(ours, plain),
        "as_good": behind["mean"] >= -2 * behind["standard_error"],
        "step_time_of_the_sweep": step / sum(item["step_s"] for item in sweep),
    }


def differences(ours: list[float], others: list[float]) -> dict[str, Any]:
    """Paired, with mean and standard error."""
    found = [one - other for one, other in zip(ours, others, strict=True)]
    error = statistics.stdev(found) / len(found) ** 0.5
    return {"differences": found, "mean": statistics.mean(found), "standard_error": error}


def table() -> None:
    """Put the finished runs together."""
    found = recorded()
    verdicts = [told for combination in COMBINATIONS + MORE if (told := verdict(combination, found)) is not None]
    wins = [told["as_good"] for told in verdicts]
    record = {
        "benchmark": "blend_sweep",
        "setting": setting(),
        "teacher": near_teacher_scores(),
        "combinations": verdicts,
        "as_good": f"{sum(wins)} of {len(wins)}",
        "runs": [found[name] for name in sorted(found)],
        "environment": environment.record(),
    }
    write_json(RECORD, record)
    print(json.dumps({"combinations": verdicts, "as_good": record["as_good"]}, indent=1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--combination", choices=COMBINATIONS + MORE, nargs="+", default=list(COMBINATIONS))
    one.add_argument("--only", metavar="NAME", nargs="+", default=[], help="single runs, by the names of their folders")
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--device", default=DEVICE)
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "table":
        table()
    else:
        torch.set_num_threads(options.threads)
        train(options.combination, options.device, options.only)


if __name__ == "__main__":
    main()
