"""A near teacher with the six heads of nuScenes, as CenterPoint has them: two thirds of its MACs are in the head.

    python benchmarks/six_tasks.py      trains it where it is not there yet; resumes

The trunk is the shipped teacher's, and so are the weights it begins with (every task's branches begin as the one
task's); it learns the labels of FLEET within RANGE_M of the car.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from fitting import AUGMENTATION, CYCLES, Arm, fit
from near import BATCH, MAX_RANGE_M, near, near_teacher
from worlds import DEVICE, FLEET, RUNS, world

from kd3d.compress.data import CompressData
from kd3d.detectors.checkpoint import Model, load_model
from kd3d.detectors.presets import preset
from kd3d.runs.atomic import read_json
from kd3d.spec import CenterHeadSpec, DetectorSpec

STEPS = 3200
KEPT = RUNS / "six-tasks"


def six_task_spec() -> DetectorSpec:
    """The shipped teacher's widths and depth, with six tasks, within RANGE_M."""
    trunk, six = preset("world-centerpoint-pillar"), preset("world-centerpoint-pillar-six-tasks")
    assert isinstance(trunk.head, CenterHeadSpec)
    assert isinstance(six.head, CenterHeadSpec)
    head = replace(trunk.head, tasks=six.head.tasks)
    # Peaks alone, as the shipped teacher's: suppression within a task would let trucks and buses compete again.
    return near(replace(trunk, head=head, decode=replace(six.decode, nms="none")), "near-six-tasks")


def six_task_teacher() -> Model:
    """That teacher; trained now if it is not there."""
    spec = six_task_spec()
    fit(
        near_teacher(),
        spec,
        Arm("teacher", "first"),
        seed=0,
        steps=STEPS,
        out=KEPT / "teacher",
        about={"role": "teacher"},
        device=DEVICE,
        batch_size=BATCH,
        max_range_m=MAX_RANGE_M,
        scored=1,
        frames=CompressData(world(FLEET, sweeps=spec.points.sweeps), augmentation=AUGMENTATION),
    )
    found = load_model(KEPT / "teacher" / f"cycle-{len(CYCLES) - 1}" / "model")
    found.module.eval().requires_grad_(False)
    return found


def six_task_scores() -> dict[str, Any]:
    """MAP and NDS of that teacher, in points, counted within MAX_RANGE_M."""
    six_task_teacher()
    score = read_json(KEPT / "teacher" / "result.json")["scores"][-1]
    return {"mAP": 100 * score["mAP"], "NDS": 100 * score["NDS"], "per_class": score["per_class"]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    six_task_teacher()
