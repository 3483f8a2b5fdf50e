"""What frames without labels are worth: 10 % of the scenes labelled, the teacher teaching on the rest.

    python benchmarks/labelfree_gain.py                              rows and seeds that are missing, then the table
    python benchmarks/labelfree_gain.py --near                       what fits a CPU: all within RANGE_M of the car
    python benchmarks/labelfree_gain.py --steps 12800 --teacher-steps 12800 --device cuda
    python benchmarks/labelfree_gain.py --rows ssad dense --seeds 1  some rows only
    python benchmarks/labelfree_gain.py --table-only                 from what has finished

Rows: ``control-part`` and ``control-all``, the student on the labels of the part (``--labelled``, whole scenes) and of
all scenes; ``ssad``, the recipe of that name with a teacher that has seen the labels of the part alone, and the frames
of the other scenes without theirs; ``dense``, the same with every cell and every frame alike, the baseline that
adaptive weights must beat; ``auto``, the recipe that takes the teacher's boxes as labels there; ``labelfree``, the
recipe that reads no label at all, with that same teacher;
``part-only``, the recipe ``ssad`` on the labelled frames alone; and apart from these ``full-teacher``, ``ssad`` with a
teacher that was trained on the labels of all scenes, which labels the others by proxy. Objects that are pasted
(``--paste``) come from the labelled scenes of each row. All students begin from scratch, and have equal steps, batches
and schedules.

The claim: ``ssad`` recovers at least half of the gap between ``control-part`` and ``control-all``; a gap under 3 mAP
decides nothing. Resumes; a CUDA device is used where there is one. Writes results/labelfree_gain.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from comparing import paired
from fitting import AUGMENTATION, CYCLES, Arm, fit
from near import BATCH, MAX_RANGE_M, RANGE_M, near
from worlds import FLEET, RESULTS, RUNS, VALIDATION, without_labels, world

from kd3d.compress.data import CompressData
from kd3d.compress.recipe_file import load_recipe
from kd3d.datasets.parts import labelled_part
from kd3d.datasets.paste import SampleDatabase, build_database
from kd3d.detectors.checkpoint import Model, load_model
from kd3d.detectors.presets import preset
from kd3d.runs import environment
from kd3d.runs.atomic import read_json, write_json
from kd3d.spec import DetectorSpec

LEAST_GAP = 3.0  # mAP points; a ratio over less says nothing


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        labelled: whether only the part has labels.
        teacher: ``part`` or ``all``: the labels it was trained on; ``None`` without one.
        unlabelled: whether the other scenes are there without labels.
        recipe: name of the recipe, or ``None``.
        dense: every cell and every frame alike.
    """

    labelled: bool
    teacher: str | None = None
    unlabelled: bool = False
    recipe: str | None = None
    dense: bool = False


ROWS = {
    "control-part": Row(labelled=True),
    "control-all": Row(labelled=False),
    "ssad": Row(True, "part", True, "ssad"),
    "auto": Row(True, "part", True, "auto"),
    "dense": Row(True, "part", True, "ssad", dense=True),
    "part-only": Row(True, "part", False, "ssad"),
    "labelfree": Row(True, "part", True, "labelfree"),
    "full-teacher": Row(True, "all", True, "ssad"),
}
USUAL = ("control-part", "control-all", "auto", "ssad", "dense", "full-teacher")


def detector(options: argparse.Namespace, role: str) -> DetectorSpec:
    """The specification of the ``teacher`` or the ``student``."""
    spec = preset(getattr(options, role))
    return near(spec, f"{spec.name}-near") if options.near else spec


def max_range_m(options: argparse.Namespace) -> float | None:
    """Scores count nothing farther than this."""
    return MAX_RANGE_M if options.near else None


def frames(options: argparse.Namespace, *, labelled: bool, unlabelled: bool) -> CompressData:
    """What a row is trained on; labels of frames without labels are never read."""
    which = (*FLEET[:2], options.scenes)
    sweeps = preset(options.student).points.sweeps
    whole = world(which, sweeps=sweeps)
    mine = labelled_part(whole, options.labelled if labelled else None)
    augmentation, database = AUGMENTATION, None
    if options.paste:
        cut = options.runs / f"objects-{len(mine)}-of-{len(whole)}"
        database = SampleDatabase(cut) if cut.exists() else build_database(mine, cut)
        counts = tuple((name, options.paste) for name in database.classes if database.counts[name])
        augmentation = replace(augmentation, paste=counts)
    others = without_labels(which, sweeps=sweeps, like=mine) if unlabelled else None
    return CompressData(
        mine, None, augmentation, database, unlabelled=others, unlabelled_share=options.unlabelled_share
    )


def name_of(options: argparse.Namespace, *parts: object) -> str:
    """The folder of a run: what decides its result."""
    more = (f"-paste{options.paste}" if options.paste else "") + ("-near" if options.near else "")
    share = options.labelled.replace("%", "pct").replace("/", "-")
    return "-".join(str(part) for part in parts) + f"-{options.scenes}scenes-{share}-b{options.batch_size}{more}"


def teacher_of(options: argparse.Namespace, labels: str) -> Model:
    """The teacher that was trained on the labels of the part, or of all; trained now if it is not there."""
    out = options.runs / name_of(options, "teacher", labels, options.teacher, options.teacher_steps)
    spec = detector(options, "teacher")
    given = {"seed": 0, "steps": options.teacher_steps, "device": options.device, "batch_size": options.batch_size}
    given |= {"about": {"role": "teacher"}, "max_range_m": max_range_m(options), "scored": 1}
    data = frames(options, labelled=labels == "part", unlabelled=False)
    fit(None, spec, Arm("teacher"), out=out, frames=data, **given)  # type: ignore[arg-type]
    return load_model(out / f"cycle-{len(CYCLES) - 1}" / "model")


def run(name: str, seed: int, options: argparse.Namespace) -> None:
    """Train and score one row with one seed."""
    row, recipe = ROWS[name], None
    out = options.runs / name_of(options, name, seed, options.student, options.steps)
    if (out / "result.json").exists():
        return
    if row.recipe is not None:
        recipe = load_recipe(row.recipe)
        blend = recipe.blend and replace(recipe.blend, warmup_steps=min(500, options.steps // 10))
        recipe = replace(recipe, blend=blend)
    if recipe is not None and row.dense:
        entries = tuple(
            {**entry, "weighting": "dense"} if entry["signal"] == "soft-heatmap" else entry
            for entry in recipe.more or ()
        )
        recipe = replace(recipe, frames=None, more=entries)
    teacher = None if row.teacher is None else teacher_of(options, row.teacher)
    about = {"role": "student", "student": options.student, "settings": asked(options)}
    fit(
        teacher,  # type: ignore[arg-type]  # unused by the controls
        detector(options, "student"),
        Arm(name, None, recipe),
        seed=seed,
        steps=options.steps,
        out=out,
        about=about,
        device=options.device,
        batch_size=options.batch_size,
        max_range_m=max_range_m(options),
        scored=2,
        frames=frames(options, labelled=row.labelled, unlabelled=row.unlabelled),
    )


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that results must share to stand in one table."""
    names = ("scenes", "labelled", "student", "teacher", "steps", "teacher_steps", "batch_size", "paste", "near")
    return {name: getattr(options, name) for name in (*names, "unlabelled_share")}


def gap(curves: Mapping[str, Mapping[int, Sequence[float]]], name: str) -> dict[str, Any] | None:
    """How much of the gap between the controls a row recovers, over the seeds that all three have."""
    low, high, ours = (curves.get(each, {}) for each in ("control-part", "control-all", name))
    seeds = sorted(low.keys() & high.keys() & ours.keys())
    if not seeds:
        return None
    between = [100 * (high[seed][-1] - low[seed][-1]) for seed in seeds]
    gained = [100 * (ours[seed][-1] - low[seed][-1]) for seed in seeds]
    wide = statistics.mean(between) >= LEAST_GAP
    return {
        "seeds": seeds,
        "gap_mAP": between,
        "gained_mAP": gained,
        "recovered": statistics.mean(gained) / statistics.mean(between) if wide else None,
        "half": statistics.mean(gained) >= statistics.mean(between) / 2 if wide and len(seeds) >= 3 else None,
    }


def table(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line per row that has finished."""
    curves = {
        name: {item["seed"]: [score["mAP"] for score in item["scores"]] for item in results if item["arm"] == name}
        for name in ROWS
    }
    lines = []
    for name, runs in curves.items():
        items = [item for item in results if item["arm"] == name]
        if not items:
            continue
        finals = {key: [item["scores"][-1][key] for item in items] for key in ("mAP", "NDS")}
        means = {
            key: {"mean": statistics.mean(found), "sd": statistics.stdev(found) if len(found) > 1 else None}
            for key, found in finals.items()
        }
        lines.append(
            {
                "row": name,
                "seeds": sorted(runs),
                **means,
                "step_s": statistics.median(item["step_s"] for item in items),
                "gap": gap(curves, name),
                "versus_control": paired(runs, curves["control-part"]),
                "versus_dense": paired(runs, curves["dense"]) if curves["dense"] else None,
            }
        )
    return lines


def record(options: argparse.Namespace) -> None:
    """Write the table of all finished runs with these settings."""
    results = [read_json(path) for path in sorted(options.runs.glob("*/result.json"))]
    mine = [item for item in results if item["role"] == "student" and item["settings"] == asked(options)]
    if not mine:
        raise SystemExit(f"{options.runs} has no finished run with these settings.")
    sizes = {name: frames(options, labelled=name == "part", unlabelled=False) for name in ("part", "all")}
    lines = table(mine)
    teachers = {}
    for labels in ("part", "all"):
        path = options.runs / name_of(options, "teacher", labels, options.teacher, options.teacher_steps)
        if (path / "result.json").exists():
            score = read_json(path / "result.json")["scores"][-1]
            teachers[labels] = {key: score[key] for key in ("mAP", "NDS")}
    write_json(
        options.out,
        {
            "benchmark": "labelfree_gain",
            "settings": asked(options),
            "cycles": CYCLES,
            "range_m": RANGE_M if options.near else None,
            "labelled_frames": {name: len(data.train) for name, data in sizes.items()},
            "worlds": {"train": [*FLEET[:2], options.scenes], "validation": VALIDATION},
            "teachers": teachers,
            "rows": lines,
            "environment": environment.record(),
        },
    )
    for line in lines:
        share = (line["gap"] or {}).get("recovered")
        print(
            f"{line['row']:13} mAP {100 * line['mAP']['mean']:5.2f} +- {100 * (line['mAP']['sd'] or 0):4.2f} "
            f"NDS {100 * line['NDS']['mean']:5.2f} {1e3 * line['step_s']:.0f} ms/step"
            + ("" if share is None else f", {share:.0%} of the gap")
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=[], metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--scenes", type=int, default=FLEET[2], help="of the training world")
    parser.add_argument("--near", action="store_true", help="everything within RANGE_M of the car (near.py)")
    parser.add_argument("--labelled", default="10%", help="of these scenes")
    parser.add_argument("--steps", type=int, default=1600, help="of a student")
    parser.add_argument("--teacher-steps", type=int, default=1600)
    parser.add_argument("--student", default="world-centerpoint-pillar-small")
    parser.add_argument("--teacher", default="world-centerpoint-pillar")
    parser.add_argument("--batch-size", type=int, default=0, help="0: 2 with --near, else 4")
    parser.add_argument("--unlabelled-share", type=float, default=0.5)
    parser.add_argument("--paste", type=int, default=0, help="fill each labelled frame up to so many objects a class")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=RUNS / "labelfree-gain")
    parser.add_argument("--out", type=Path, default=RESULTS / "labelfree_gain.json")
    parser.add_argument("--table-only", action="store_true")
    options = parser.parse_args()
    unknown = sorted(set(options.rows) - set(ROWS))
    if unknown:
        raise SystemExit(f"there is no row {', '.join(unknown)}. Rows: {', '.join(ROWS)}.")
    options.batch_size = options.batch_size or (BATCH if options.near else 4)
    torch.set_num_threads(options.threads)
    for seed in [] if options.table_only else options.seeds:
        for name in options.rows or USUAL:
            run(name, seed, options)
    record(options)


if __name__ == "__main__":
    main()
