"""The gate of the generated world: hard enough to tell detectors apart, not so hard that none works.

    python benchmarks/world_gate.py

Needs the shipped teacher and the control runs of kd_three_seeds.py. On the validation world the teacher must reach 45
to 75 mAP, a converged student of 25 % of its MACs trained without it must be at least 5 mAP below, and clustering with
a class-size look-up must stay under 15 mAP. Writes results/world_gate.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from clustering import cluster_boxes
from fitting import score
from worlds import RESULTS, VALIDATION, world

from kd3d.detectors.assets import shipped_teacher
from kd3d.evaluation.evaluate import evaluate
from kd3d.runs import environment
from kd3d.runs.atomic import read_json, write_json

KEYS = ("mAP", "NDS", "per_class")


def main() -> None:
    """Score everything, judge, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--controls-only", action="store_true", help="Keep the other scores that are recorded.")
    kept = parser.parse_args().controls_only
    record = read_json(RESULTS / "world_gate.json") if kept else scored()
    teacher, blind, controls = record["teacher"], record["clustering"], control_scores()
    record["student_no_kd"] = controls
    record["gate"] = {
        "teacher_45_to_75": 0.45 <= teacher["mAP"] <= 0.75,
        "student_5_below": None
        if controls is None
        else bool(controls["converged"]) and teacher["mAP"] - controls["mAP"] >= 0.05,
        "clustering_under_15": blind["mAP"] < 0.15,
    }
    write_json(RESULTS / "world_gate.json", record)
    print(record["gate"], teacher["mAP"], blind["mAP"], controls)


def scored() -> dict[str, Any]:
    """Teacher and clustering on the validation world."""
    teacher = shipped_teacher()
    validation = world(VALIDATION, sweeps=teacher.spec.points.sweeps)
    with tempfile.TemporaryDirectory() as folder:
        found = score(teacher.module, validation, Path(folder) / "teacher")
        single = world(VALIDATION, sweeps=0)
        blind = evaluate(cluster_boxes, single, classes=single.classes, out_dir=Path(folder) / "clustering").to_json()
    return {
        "benchmark": "world_gate",
        "frames": len(validation),
        "validation_world": VALIDATION,
        "teacher": {key: found[key] for key in KEYS},
        "clustering": {key: blind[key] for key in KEYS},
        "environment": environment.record(),
    }


def control_scores() -> dict[str, float] | None:
    """Mean of the controls in results/kd_three_seeds.json, or ``None`` before they are recorded."""
    path = RESULTS / "kd_three_seeds.json"
    if not path.exists():
        return None
    recorded = read_json(path)
    finals = [run["scores"][-1] for run in recorded["runs"] if run["arm"] == "control"]
    if not finals:
        return None
    means = {key: sum(final[key] for final in finals) / len(finals) for key in ("mAP", "NDS")}
    converged = any(item.get("control_converged", False) for item in recorded["comparisons"])
    return {**means, "converged": float(converged)}


if __name__ == "__main__":
    main()
