"""The shipped teacher within RANGE_M of the car: its weights on a smaller grid, so that a comparison fits a CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fitting import score
from worlds import RUNS, VALIDATION, world

from kd3d.detectors.assets import shipped_teacher
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.runs.atomic import read_json, write_json
from kd3d.spec import DetectorSpec

RANGE_M, MAX_RANGE_M, BATCH = 25.6, 25.0, 2
_SCORED = RUNS / "search-gain"


def near(spec: DetectorSpec, name: str) -> DetectorSpec:
    """``spec`` on the smaller grid, called ``name``."""
    grid = replace(spec.grid, x_min_m=-RANGE_M, y_min_m=-RANGE_M, x_max_m=RANGE_M, y_max_m=RANGE_M)
    return replace(spec, name=name, grid=grid)


def near_teacher() -> Model:
    """The teacher on the smaller grid; its weights know nothing of it."""
    shipped = shipped_teacher()
    spec = near(shipped.spec, "near")
    module = build(spec)
    module.load_state_dict(shipped.module.state_dict())
    return Model(spec, module.eval().requires_grad_(False), {})


def near_teacher_scores() -> dict[str, Any]:
    """MAP and NDS (in points) and AP per class of that teacher, counted within MAX_RANGE_M; scored once per machine."""
    out = _SCORED / "teacher.json"
    if not out.exists():
        teacher = near_teacher()
        data = world(VALIDATION, sweeps=teacher.spec.points.sweeps)
        found = score(teacher.module, data, _SCORED / "teacher", max_range_m=MAX_RANGE_M)
        write_json(out, {"mAP": 100 * found["mAP"], "NDS": 100 * found["NDS"], "per_class": found["per_class"]})
    return dict(read_json(out))
