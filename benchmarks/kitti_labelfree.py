"""Real frames without labels: a student learns what the teacher says about 20 frames of KITTI, and no label is opened.

    python benchmarks/kitti_labelfree.py --out runs/kitti-labelfree [--teacher runs/kitti-overfit/teacher/model]

The teacher is that of kitti_overfit.py, which has learnt those 20 frames by heart (with labels); trained here unless it
is given. The student, of a quarter of its MACs, inherits from it and is distilled with the recipe ``labelfree``; the
folder of labels is not read. Agreement: of the teacher's boxes above the score threshold, the share that has a
student's box above it, of the same class, with its centre within 0.5 m on the ground (one to one); before the first
step and after the last, on the 20 frames and on 7 that neither has seen. Resumes where it was stopped. Reads
`$KD3D_SHARED/data/kitti` (or `../shared/data/kitti`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kitti_overfit import BUDGET, DATA, PRESET, SEED, fit_teacher, settings

from kd3d.compress.data import CompressData, predictor
from kd3d.compress.distilling import DistillSettings, distill, untaught
from kd3d.compress.recipe_file import load_recipe
from kd3d.compress.search.budget import Budgets
from kd3d.compress.search.cost import StatsTable
from kd3d.compress.search.space import Space
from kd3d.compress.search.students import find_students
from kd3d.compress.stages import StageUpdate, once
from kd3d.datasets.base import SampleDataset
from kd3d.datasets.kitti import KittiDataset
from kd3d.detectors.checkpoint import Model, load_model
from kd3d.detectors.model import CenterPoint
from kd3d.geometry.boxes import Boxes3D
from kd3d.runs import environment
from kd3d.runs.atomic import write_json

RESULTS = Path(__file__).resolve().parent / "results" / "kitti_labelfree.json"
REACH_M, SCORE = 0.5, 0.3
STATS_FRAMES = 20


def matches(boxes: Boxes3D, others: Boxes3D, reach_m: float = REACH_M) -> int:
    """How many of ``boxes`` have one of ``others`` of their class near, one to one: nearest pairs first."""
    if not len(boxes) or not len(others):
        return 0
    apart = np.linalg.norm(boxes.center_m[:, None, :2] - others.center_m[None, :, :2], axis=2)
    apart[boxes.label[:, None] != others.label[None]] = np.inf
    found = 0
    while apart.min() <= reach_m:
        row, column = np.unravel_index(apart.argmin(), apart.shape)
        apart[row], apart[:, column] = np.inf, np.inf
        found += 1
    return found


def confident(boxes: Boxes3D, score: float = SCORE) -> Boxes3D:
    """Those above the score threshold."""
    assert boxes.score is not None
    return boxes.select(boxes.score > score)


def agreement(theirs: Sequence[Boxes3D], ours: Sequence[Boxes3D]) -> dict[str, Any]:
    """Of frames: recall of the teacher's boxes, and the share of the student's that the teacher has, too."""
    found = sum(matches(a, b) for a, b in zip(theirs, ours, strict=True))
    said, wanted = sum(map(len, ours)), sum(map(len, theirs))
    return {
        "teacher_boxes": wanted,
        "student_boxes": said,
        "matched": found,
        "recall": found / wanted if wanted else None,
        "precision": found / said if said else None,
    }


def boxes_of(module: CenterPoint, frames: SampleDataset) -> list[Boxes3D]:
    """Confident boxes per frame."""
    predict = predictor(module.eval())
    return [confident(predict(frames[index])) for index in range(len(frames))]


def teacher_of(options: argparse.Namespace) -> Model:
    """The given one, or the one that kitti_overfit.py trains."""
    if options.teacher is not None:
        return load_model(options.teacher)
    return fit_teacher(KittiDataset(DATA, split="train"), options.out / "teacher", options.teacher_steps)


def report(news: StageUpdate) -> None:
    """Progress in a log file: a line every 100 steps."""
    if news.done % 100 == 0:
        print(
            f"{news.stage} {news.done}/{news.total} eta {(news.eta_s or 0.0) / 60:.1f} min", file=sys.stderr, flush=True
        )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--teacher-steps", type=int, default=900)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--recipe", default="labelfree")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = teacher_of(options)
    splits = {name: KittiDataset(DATA, split=name, labels=False) for name in ("train", "val")}
    data = CompressData(splits["train"])
    budget = Budgets.parse(flops=BUDGET)
    spec = find_students(teacher.spec, budget, Space(), stats=StatsTable(data.train, STATS_FRAMES)).found[0].spec
    recipe = load_recipe(options.recipe)
    if recipe.blend is not None:
        recipe = replace(recipe, blend=replace(recipe.blend, warmup_steps=min(500, options.steps // 10)))
    how = DistillSettings(settings(options.steps), recipe, "l1")  # a rule that needs no label
    theirs = {name: boxes_of(teacher.module, frames) for name, frames in splits.items()}

    def compared(module: CenterPoint) -> dict[str, Any]:
        return {name: agreement(theirs[name], boxes_of(module, frames)) for name, frames in splits.items()}

    before = once(
        options.out / "before.json",
        lambda: compared(untaught(teacher, spec, how, data=data, device="cpu")[0]),
    )
    result = distill(
        teacher,
        spec,
        data,
        settings=how,
        run=options.out / "distill",
        progress=report,
    )
    after = once(options.out / "after.json", lambda: compared(result.student.module))
    write_json(
        options.results,
        {
            "what": "boxes of teacher and student on KITTI frames, no label read by the student; 20 frames that both "
            "were trained on, and 7 that neither has seen",
            "preset": PRESET,
            "student": spec.name,
            "recipe": options.recipe,
            "seed": SEED,
            "steps": {"teacher": teacher.meta["training"]["steps"], "student": options.steps},
            "settings": settings(options.steps).identity(),
            "reach_m": REACH_M,
            "score": SCORE,
            "agreement": {"before": before, "after": after},
            "environment": environment.record(),
        },
    )
    for name in splits:
        first, last = (f"{one[name]['recall'] or 0:.1%}" for one in (before, after))
        print(f"{name}: recall of the teacher's {before[name]['teacher_boxes']} boxes {first} before, {last} after")


if __name__ == "__main__":
    main()
