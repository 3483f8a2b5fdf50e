"""What float16 costs in accuracy: the shipped teacher, its fp16 export judged as float16 hardware would compute it.

    python benchmarks/precision.py [--out runs/precision]

Exports fp32 and fp16 (ranges from frames of the training world) and scores on all frames of the validation world: the
fp32 file; the fp16 file in ONNX Runtime, whose CPU provider computes it in fp32 between casts; and the fp16 file node
by node, every float16 tensor rounded and overflow infinite. On ``--parity-frames`` of them the rounded boxes are
compared with torch's, and the largest float16 value is taken. Bars: NDS within 0.1 points of fp32, every box matched
(those whose heading comes from a short vector are counted), no float16 value above 32,000. A stopped run resumes in
``--out``. Writes results/precision.json, whether the bars are met or not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from int8 import spread
from worlds import RESULTS, TRAIN, VALIDATION, world

from kd3d.datasets.base import SampleDataset
from kd3d.datasets.frames import to_frame
from kd3d.detectors.assets import shipped_teacher
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.evaluation.evaluate import evaluate
from kd3d.export.emulate import emulated
from kd3d.export.half import check_overflow
from kd3d.export.manifest import EXPORT_FILE, ONNX_FILE
from kd3d.export.onnx import export_onnx
from kd3d.export.parity import compare
from kd3d.export.parity_match import FP16_TOLERANCE
from kd3d.export.precision_plan import LIMIT
from kd3d.export.ranges import GraphRunner
from kd3d.runs import environment
from kd3d.runs.atomic import read_json, write_json
from kd3d.runtime.pipeline import Pipeline, load_pipeline
from kd3d.runtime.runners import OrtRunner

NDS_BAR = 0.001


def main() -> None:
    """Export, score, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration-frames", type=int, default=16)
    parser.add_argument("--parity-frames", type=int, default=100)
    parser.add_argument(
        "--scenes", type=int, default=VALIDATION[2], help="less for a trial: other figures, own --results"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/precision"))
    parser.add_argument("--results", type=Path, default=RESULTS / "precision.json")
    options = parser.parse_args()
    teacher = shipped_teacher()
    sweeps = teacher.spec.points.sweeps
    train, validation = (world(which, sweeps=sweeps) for which in (TRAIN, (*VALIDATION[:2], options.scenes)))
    for precision in ("fp32", "fp16"):
        if not (options.out / precision / EXPORT_FILE).is_file():
            frames = spread(train, options.calibration_frames)
            export_onnx(teacher, options.out / precision, frames=frames, precision=precision)
    found = {name: scored(open_one, name, validation, options.out) for name, open_one in forms(options.out).items()}
    parity = judged(teacher, options.out / "fp16", spread(validation, options.parity_frames))
    write_json(options.results, record(found, parity, options, len(validation)))
    print({key: value for key, value in read_json(options.results).items() if key in ("bars", "nds_drop", *found)})


def forms(out: Path) -> dict[str, Callable[[], Pipeline]]:
    """What is scored, by name."""
    return {
        "fp32": lambda: load_pipeline(out / "fp32"),
        "fp16_onnxruntime": lambda: load_pipeline(out / "fp16"),
        "fp16_rounded": lambda: rounded(out / "fp16"),
    }


def rounded(folder: Path) -> Pipeline:
    """The fp16 export with every float16 tensor rounded, in ONNX Runtime without any optimisation."""
    with OrtRunner(folder / ONNX_FILE) as runner:
        spec = load_pipeline(folder, runner).spec
    return Pipeline(spec, GraphRunner(emulated(onnx.load(folder / ONNX_FILE))))


def scored(open_one: Callable[[], Pipeline], name: str, dataset: SampleDataset, out: Path) -> dict[str, float]:
    """Official metrics of one form on ``dataset``; computed once."""
    path = out / f"{name}.json"
    if not path.is_file():
        with open_one() as pipeline:
            metrics = evaluate(
                lambda sample: pipeline(to_frame(sample)),
                dataset,
                classes=pipeline.spec.head.classes,
                out_dir=out / f"{name}-evaluation",
            )
        write_json(path, {"mAP": metrics.mAP, "NDS": metrics.NDS})
    return dict(read_json(path))


def judged(teacher: Model, folder: Path, frames: list[Any]) -> dict[str, Any]:
    """Boxes of the rounded network against torch's, and its largest float16 value."""
    candidate = rounded(folder)
    report = compare(TorchPipeline(teacher, padded=True), candidate, frames, tolerance=FP16_TOLERANCE)
    peak = check_overflow(onnx.load(folder / ONNX_FILE), [candidate.pre(frame) for frame in frames])
    return {**report.to_json(), "peak": peak, "limit": LIMIT}


def record(
    found: dict[str, dict[str, float]], parity: dict[str, Any], options: argparse.Namespace, frames: int
) -> dict[str, Any]:
    """All of it, and whether the bars are met."""
    drops = {name: found["fp32"]["NDS"] - found[name]["NDS"] for name in found if name != "fp32"}
    return {
        "benchmark": "precision",
        "validation_frames": frames,
        "calibration": {"frames": options.calibration_frames, "world": TRAIN},
        **found,
        "nds_drop": drops,
        "parity": parity,
        "bars": {
            **{f"{name}_nds_within_0.1": abs(drop) <= NDS_BAR for name, drop in drops.items()},
            "boxes_matched": parity["passed"],
            "peak_below_limit": parity["peak"] <= LIMIT,
        },
        "environment": environment.record(),
    }


if __name__ == "__main__":
    main()
