"""Every distillation method beside matched controls: one table, three seeds with spread.

    python benchmarks/kd_table.py                                  all rows and seeds that are missing, then the table
    python benchmarks/kd_table.py --rows control inherit logits sparsekd --seeds 1 2 --steps 3200
    python benchmarks/kd_table.py --student near:width --steps 400 what fits a CPU: a student of kd_gain.py
    python benchmarks/kd_table.py --list                           the rows
    python benchmarks/kd_table.py --table-only                     from what has finished

Rows: ``control`` (from scratch on the labels alone), ``inherit`` (the teacher's weights, labels alone), each signal
alone with its default weight on top of ``inherit``, label distillation alone, and each recipe. Data, order,
augmentation, steps and schedule are equal within a seed. A run that was stopped resumes; several processes may work on
different rows. A CUDA device is used where there is one. With ``--draws K`` every row sees K recorded augmentations per
frame, and the teacher's answers are cached where its signals allow. Writes results/kd_table.json and
docs/images/kd_table.png.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from comparing import paired
from fitting import CYCLES, RULE, Arm, fit
from kd_gain import students
from near import BATCH, MAX_RANGE_M, near_teacher, near_teacher_scores
from worlds import RESULTS, RUNS, TRAIN, VALIDATION

from kd3d.compress.distill.registry import CROSS_SCALE, KINDS
from kd3d.compress.recipe import Recipe
from kd3d.compress.recipe_file import load_recipe, recipe_names
from kd3d.detectors.assets import shipped_teacher
from kd3d.detectors.presets import preset
from kd3d.runs import environment
from kd3d.runs.atomic import read_json, write_json

STUDENT, NEAR = "world-centerpoint-pillar-small", "near:"
ROOT = Path(__file__).resolve().parents[1]
ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")


def rows(draws: int = 0) -> dict[str, Arm]:
    """All rows by name."""
    empty = Recipe(logits=0, boxes=0, label_threshold=None)
    found = [Arm("control"), Arm("inherit", RULE), Arm("labels", RULE, replace(empty, label_threshold=0.6))]
    found += [Arm(kind, RULE, replace(empty, more=({"signal": kind},))) for kind in (*KINDS, CROSS_SCALE)]
    found += [Arm(f"recipe:{name}", RULE, load_recipe(name)) for name in recipe_names()]
    found = [arm for arm in found if "anchor" not in arm.name]  # these are for another head
    return {arm.name: replace(arm, draws=draws) for arm in found}


def run(arm: Arm, seed: int, options: argparse.Namespace) -> None:
    """Train and score one row with one seed."""
    name = f"{arm.name.replace(':', '-')}-{seed}-{options.steps}" + (f"-draws{arm.draws}" if arm.draws else "")
    out, given = options.runs / options.student.replace(":", "-") / name, {"about": {"student": options.student}}
    shared: dict[str, Any] = {"seed": seed, "steps": options.steps, "device": options.device, **given}
    axis = options.student.removeprefix(NEAR)
    if axis != options.student:
        spec, teacher = students()[axis][0], near_teacher()
        fit(teacher, spec, arm, out=out, batch_size=BATCH, max_range_m=MAX_RANGE_M, scored=1, **shared)
    else:
        fit(shipped_teacher(), preset(options.student), arm, out=out, **shared)


def table(results: Sequence[Mapping[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """One line per row: means and standard deviations over seeds, and the paired differences to both controls."""
    curves = {
        name: {item["seed"]: [score["mAP"] for score in item["scores"]] for item in results if item["arm"] == name}
        for name in order
    }
    found = []
    for name in order:
        items = [item for item in results if item["arm"] == name]
        if not items:
            continue
        final = [item["scores"][-1] for item in items]
        found.append(
            {
                "row": name,
                "seeds": sorted(item["seed"] for item in items),
                **{key: spread([score[key] for score in final]) for key in ("mAP", "NDS")},
                "tp_errors": {
                    key: spread([score["tp_errors"][key] for score in final])
                    for key in ERRORS
                    if all(score.get("tp_errors", {}).get(key) is not None for score in final)
                },
                "step_s": spread([item["step_s"] for item in items]),
                "runs": [run_of(item) for item in sorted(items, key=lambda item: item["seed"])],
                "versus": {other: paired(curves[name], curves[other]) for other in ("control", "inherit")},
            }
        )
    return found


def run_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """One training: its scores in points, and when and from what it was made."""
    final = {key: 100 * item["scores"][-1][key] for key in ("mAP", "NDS")}
    made = {key: item["environment"][key] for key in ("date", "commit")}
    return {"seed": item["seed"], **final, "step_s": item["step_s"], "made": made}


def teacher_scores(student: str) -> dict[str, float]:
    """Of the teacher, mAP and NDS (0..1) in the range in which its students are scored."""
    if not student.startswith(NEAR):
        return {key: shipped_teacher().meta["metrics"][key] for key in ("mAP", "NDS")}
    found = near_teacher_scores()
    return {key: found[key] / 100 for key in ("mAP", "NDS")}


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation; the latter is ``None`` for a single run."""
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def draw(lines: Sequence[Mapping[str, Any]], teacher: float, out: Path) -> None:
    """Bars of mAP with standard deviations; the teacher and the control with inheritance as lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.6 + 0.27 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    means = [100 * line["mAP"]["mean"] for line in lines]
    errors = [100 * (line["mAP"]["sd"] or 0.0) for line in lines]
    colours = ["0.6" if line["row"] in ("control", "inherit") else "tab:blue" for line in lines]
    axes.barh(range(len(lines)), means, xerr=errors, color=colours, height=0.7, ecolor="black", capsize=2)
    axes.set_yticks(range(len(lines)), [line["row"] for line in lines])
    axes.invert_yaxis()
    axes.axvline(100 * teacher, color="tab:green", linestyle="--", label="teacher")
    base = next((100 * line["mAP"]["mean"] for line in lines if line["row"] == "inherit"), None)
    if base is not None:
        axes.axvline(base, color="0.4", linestyle=":", label="inheritance, no distillation")
    axes.set_xlim(max(0.0, min(means) - 3), 100 * teacher + 1)
    axes.set_xlabel("mAP (mean and standard deviation over seeds)")
    axes.legend(fontsize="small", loc="upper right")
    FigureCanvasAgg(figure)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=[], metavar="ROW")
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--student", default=STUDENT, help="a preset, or near:width, near:resolution, near:half ...")
    parser.add_argument("--draws", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=RUNS / "kd-table")
    parser.add_argument("--out", type=Path, default=RESULTS / "kd_table.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "images" / "kd_table.png")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table-only", action="store_true")
    parser.add_argument("--no-table", action="store_true", help="only train")
    options = parser.parse_args()
    known = rows(options.draws)
    unknown = sorted(set(options.rows) - set(known))
    if unknown:
        raise SystemExit(f"there is no row {', '.join(unknown)}. Rows: {', '.join(known)}.")
    wanted = [known[name] for name in options.rows or known]
    if options.list:
        raise SystemExit("\n".join(known))
    torch.set_num_threads(options.threads)
    for seed, arm in [] if options.table_only else [(seed, arm) for seed in options.seeds for arm in wanted]:
        run(arm, seed, options)
    if not options.no_table:
        record(options, list(known))


def record(options: argparse.Namespace, order: Sequence[str]) -> None:
    """Write the table and the picture of all finished runs of this student and length."""
    results = [read_json(path) for path in sorted(options.runs.glob("*/*/result.json"))]
    results = [item for item in results if (item["student"], item["steps"]) == (options.student, options.steps)]
    if not results:
        raise SystemExit(f"{options.runs} has no finished run of {options.student} with {options.steps} steps.")
    teacher = teacher_scores(options.student)
    lines = table(results, order)
    write_json(
        options.out,
        {
            "benchmark": "kd_table",
            "student": options.student,
            "steps": options.steps,
            "cycles": CYCLES,
            "teacher": teacher,
            "worlds": {"train": TRAIN, "validation": VALIDATION, "validation_frames": VALIDATION[2] * 20},
            "rows": lines,
            "environment": environment.record(),
        },
    )
    draw(lines, teacher["mAP"], options.plot)
    for line in lines:
        errors = " ".join(f"{key[:-4]} {value['mean']:.3f}" for key, value in line["tp_errors"].items())
        print(
            f"{line['row']:24} mAP {100 * line['mAP']['mean']:5.2f} +- {100 * (line['mAP']['sd'] or 0):4.2f} "
            f"NDS {100 * line['NDS']['mean']:5.2f} {errors} {1e3 * line['step_s']['mean']:.0f} ms/step"
        )


if __name__ == "__main__":
    main()
