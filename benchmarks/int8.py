"""What 8 bits cost in accuracy and bring in speed: the shipped teacher, the same artefacts for both.

    python benchmarks/int8.py [--calibration percentile] [--out runs/int8]

Exports fp32, int8 for a CPU and int8 for TensorRT (the rest in fp16), calibrated on frames of the training world;
scores each in ONNX Runtime on all frames of the validation world; times fp32 and int8 for the CPU in turns in one
process. TensorRT's form is scored only: its speed needs a GPU. Bars: NDS within 0.5 points of fp32, and at least 1.5
times its speed on the CPU, the network alone and end to end. A stopped run resumes in ``--out``. Writes
results/int8.json, whether the bars are met or not.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from worlds import RESULTS, TRAIN, VALIDATION, world

from kd3d.bench import bench
from kd3d.datasets.base import SampleDataset
from kd3d.datasets.frames import to_frame
from kd3d.detectors.assets import shipped_teacher
from kd3d.evaluation.evaluate import evaluate
from kd3d.export.int8 import Int8Settings
from kd3d.export.manifest import EXPORT_FILE, ONNX_FILE
from kd3d.export.onnx import export_onnx
from kd3d.runs.atomic import read_json, write_json
from kd3d.runtime.pipeline import load_pipeline

FORMS = {"fp32": ("fp32", None), "int8_cpu": ("int8", "cpu"), "int8_tensorrt": ("int8", "tensorrt")}
TIMED = ("fp32", "int8_cpu")
NDS_BAR, SPEED_BAR = 0.005, 1.5


def main() -> None:
    """Export, score, time, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", default="percentile")
    parser.add_argument("--calibration-frames", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument(
        "--scenes", type=int, default=VALIDATION[2], help="less for a trial: other figures, own --results"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/int8"))
    parser.add_argument("--results", type=Path, default=RESULTS / "int8.json")
    options = parser.parse_args()
    teacher = shipped_teacher()
    sweeps = teacher.spec.points.sweeps
    train, validation = (world(which, sweeps=sweeps) for which in (TRAIN, (*VALIDATION[:2], options.scenes)))
    frames = spread(train, options.calibration_frames)
    for name, (precision, device) in FORMS.items():
        folder = options.out / name
        if not (folder / EXPORT_FILE).is_file():
            settings = Int8Settings(options.calibration, device) if device else None
            export_onnx(teacher, folder, frames=frames, precision=precision, int8=settings)
        if not (options.out / f"{name}.json").is_file():
            write_json(options.out / f"{name}.json", scored(folder, validation, options.out / f"{name}-evaluation"))
    found = {name: read_json(options.out / f"{name}.json") for name in FORMS}
    timed = times(options.out, spread(validation, 50), options.iterations)
    write_json(options.results, record(found, timed, options, len(validation)))
    print({key: value for key, value in read_json(options.results).items() if key in ("bars", *FORMS)})


def spread(dataset: SampleDataset, count: int) -> list[Any]:
    """At most ``count`` frames, evenly over ``dataset``."""
    step = max(1, len(dataset) // count)
    return [to_frame(dataset[index]) for index in range(0, len(dataset), step)][:count]


def scored(folder: Path, dataset: SampleDataset, out: Path) -> dict[str, Any]:
    """Official metrics of one export on ``dataset``, its size, and what its int8 gate said."""
    with load_pipeline(folder) as pipeline:
        metrics = evaluate(
            lambda sample: pipeline(to_frame(sample)), dataset, classes=pipeline.spec.head.classes, out_dir=out
        )
    gates = {gate["name"]: gate for gate in read_json(folder / EXPORT_FILE)["gates"]}
    kept = ("layers", "weighted", "calibration", "kept", "errors")
    size = (folder / ONNX_FILE).stat().st_size / 1e6
    about = {key: gates["int8"][key] for key in kept} if "int8" in gates else None
    return {"mAP": metrics.mAP, "NDS": metrics.NDS, "size_mb": size, "int8": about}


def times(out: Path, frames: list[Any], iterations: int) -> dict[str, Any]:
    """Latencies of ``TIMED``, interleaved."""
    pipelines = {name: load_pipeline(out / name).__enter__() for name in TIMED}
    return bench(pipelines, frames, source={"source": "validation world"}, iterations=iterations).to_json()


def record(found: dict[str, Any], timed: dict[str, Any], options: argparse.Namespace, frames: int) -> dict[str, Any]:
    """All of it, and whether the bars are met."""
    for name, one in zip(TIMED, timed["models"], strict=True):
        found[name]["latency_ms"] = {key: one["e2e_ms"][key] for key in ("p50", "p99")}
        found[name]["network_ms_p50"] = one["stages"]["network"]["p50"]
    one, other = (found[name] for name in TIMED)
    speed = {
        "network": one["network_ms_p50"] / other["network_ms_p50"],
        "end_to_end": one["latency_ms"]["p50"] / other["latency_ms"]["p50"],
    }
    drops = {name: found["fp32"]["NDS"] - found[name]["NDS"] for name in FORMS if name != "fp32"}
    return {
        "benchmark": "int8",
        "validation_frames": frames,
        "calibration": {"method": options.calibration, "frames": options.calibration_frames, "world": TRAIN},
        **found,
        "speed": speed,
        "nds_drop": drops,
        "bars": {
            **{f"{name}_nds_within_0.5": drop <= NDS_BAR for name, drop in drops.items()},
            "cpu_speed_1.5_network": speed["network"] >= SPEED_BAR,
            "cpu_speed_1.5_end_to_end": speed["end_to_end"] >= SPEED_BAR,
        },
        "comparison": timed["comparison"],
        "warnings": timed["warnings"],
        "environment": timed["env"],
    }


if __name__ == "__main__":
    main()
