"""How much faster the student is than its teacher: both exported, timed interleaved in ONNX Runtime on the CPU.

    python benchmarks/student_speed.py [--student FOLDER]

Frames are those of the validation world. Accuracy is that of the same artefacts on all validation frames. Writes
results/student_speed.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from worlds import RESULTS, TRAIN, VALIDATION, world

from kd3d.bench import bench
from kd3d.compress.search.cost import StatsTable, cost
from kd3d.datasets.frames import to_frame
from kd3d.detectors.assets import shipped_teacher
from kd3d.detectors.checkpoint import load_model
from kd3d.evaluation.evaluate import evaluate
from kd3d.export.onnx import export_onnx
from kd3d.runs.atomic import write_json
from kd3d.runtime.pipeline import load_pipeline

STUDENT = Path(__file__).resolve().parents[1] / "runs" / "kd-three-seeds" / "kd-1-3200" / "cycle-2" / "model"
FRAMES, ITERATIONS = 50, 200


def main() -> None:
    """Export, time, score, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, default=STUDENT)
    models = {"teacher": shipped_teacher(), "student": load_model(parser.parse_args().student)}
    sweeps = models["teacher"].spec.points.sweeps
    validation, stats = world(VALIDATION, sweeps=sweeps), StatsTable(world(TRAIN, sweeps=sweeps), 40)
    frames = [to_frame(validation[index]) for index in range(0, len(validation), len(validation) // FRAMES)]
    record: dict[str, Any] = {"benchmark": "student_speed"}
    with tempfile.TemporaryDirectory() as folder:
        exports = {name: Path(folder) / name for name in models}
        made = {name: export_onnx(model, exports[name], frames=frames) for name, model in models.items()}
        pipelines = {name: load_pipeline(export).__enter__() for name, export in exports.items()}
        report = bench(pipelines, frames, source={"source": "validation world"}, iterations=ITERATIONS).to_json()
        for name, timed in zip(models, report["models"], strict=True):
            pipeline = pipelines[name]
            metrics = evaluate(
                lambda sample, run=pipeline: run(to_frame(sample)),
                validation,
                classes=pipeline.spec.head.classes,
                out_dir=Path(folder) / f"{name}-evaluation",
            )
            price = cost(models[name].spec, stats(models[name].spec))
            record[name] = {
                "mAP": metrics.mAP,
                "NDS": metrics.NDS,
                "macs": price.macs,
                "params": price.params,
                "size_mb": (exports[name] / "model.onnx").stat().st_size / 1e6,
                "latency_ms": {key: timed["e2e_ms"][key] for key in ("p50", "p99")},
                "network_ms_p50": timed["stages"]["network"]["p50"],
                "stages_ms_p50": {stage: values["p50"] for stage, values in timed["stages"].items()},
                "fps": timed["fps"],
                "parity": f"{made[name].parity.matched} of {made[name].parity.boxes} boxes",
            }
    record |= {
        "ratio_p50": record["teacher"]["latency_ms"]["p50"] / record["student"]["latency_ms"]["p50"],
        "macs_share": record["student"]["macs"] / record["teacher"]["macs"],
        "comparison": report["comparison"],
        "warnings": report["warnings"],
        "environment": report["env"],
    }
    write_json(RESULTS / "student_speed.json", record)
    print({key: record[key] for key in ("ratio_p50", "macs_share", "teacher", "student")})


if __name__ == "__main__":
    main()
