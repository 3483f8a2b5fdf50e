"""The whole path on real KITTI frames: a teacher learns 20 frames by heart, is compressed, exported and timed.

    python benchmarks/kitti_overfit.py --out runs/kitti-overfit [--teacher-steps 900] [--student-steps 400]

Twenty frames prove only that training works: the scores on the training frames say that the data, the losses, the
decoding and the evaluation fit together; those on the seven validation frames say nothing about accuracy.
Resumes where it was stopped. Reads `$KD3D_SHARED/data/kitti` (or `../shared/data/kitti`).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from fitting import score, watch

from kd3d.bench import bench
from kd3d.compress.pipeline import CompressData, CompressSettings, DistillSettings, compress
from kd3d.compress.search.budget import Budgets
from kd3d.datasets.frames import to_frame
from kd3d.datasets.kitti import KittiDataset
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model, load_model
from kd3d.detectors.presets import preset
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.export.onnx import export_onnx
from kd3d.export.parity import compare
from kd3d.runs import environment
from kd3d.runs.atomic import write_json
from kd3d.runtime.frames import Frame
from kd3d.runtime.pipeline import load_pipeline
from kd3d.training.loop import train
from kd3d.training.result import TrainUpdate
from kd3d.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("KD3D_SHARED", ROOT.parent / "shared")) / "data" / "kitti"
RESULTS = Path(__file__).resolve().parent / "results" / "kitti_overfit.json"
PRESET, BUDGET, SEED = "kitti-centerpoint-pillar-small", "25%", 0
GOAL = 0.80  # moderate BEV AP (R40) for Car on the frames the teacher was trained on


def settings(steps: int) -> TrainSettings:
    """No augmentation, and batch norm statistics that keep up with a short run."""
    return TrainSettings(
        steps=steps,
        batch_size=2,
        lr=4e-3,
        precision="bf16",
        ema_decay=0.99,
        norm_momentum=0.1,
        seed=SEED,
        workers=0,
        checkpoint_every=50,
        log_every=20,
    )


def fit_teacher(frames: KittiDataset, out: Path, steps: int) -> Model:
    """Train the preset, or go on with it, or load it."""
    torch.manual_seed(SEED)
    result = train(build(preset(PRESET)), frames, settings=settings(steps), run=out, progress=watch("teacher"))
    return load_model(result.model)


def fit_student(teacher: Model, data: CompressData, out: Path, steps: int) -> tuple[Model, dict[str, Any]]:
    """Compress the teacher; also returns what ``metrics.json`` says."""
    report = watch("student")
    result = compress(
        teacher,
        data,
        budgets=Budgets.parse(flops=BUDGET),
        settings=CompressSettings(DistillSettings(settings(steps)), candidates=1),
        run=out,
        progress=lambda news: report(TrainUpdate(news.done, news.total, float("nan"), 0.0, news.eta_s or 0.0)),
    )
    return result.student, result.metrics


def scores(model: Model, data: CompressData, out: Path) -> dict[str, Any]:
    """``ap_r40[metric][class][difficulty]`` and ``objects``, the labels counted, on both splits."""
    model.module.eval()
    found = {name: score(model.module, getattr(data, name), out / name) for name in ("train", "val")}
    return {name: value["extras"] for name, value in found.items()}


def ship(model: Model, out: Path, frames: list[Frame]) -> dict[str, Any]:
    """Export with every gate, and parity over the real frames alone."""
    export_onnx(model, out, frames=frames)
    with load_pipeline(out) as shipped:
        return compare(TorchPipeline(model, padded=True), shipped, frames).to_json()


def main() -> None:
    """See the module; ends with 1 where the teacher does not reach the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher-steps", type=int, default=900)
    parser.add_argument("--student-steps", type=int, default=400)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    data = CompressData(KittiDataset(DATA, split="train"), KittiDataset(DATA, split="val"))
    out = options.out
    teacher = fit_teacher(data.train, out / "teacher", options.teacher_steps)
    reached = scores(teacher, data, out / "teacher-scores")
    goal = reached["train"]["ap_r40"]["bev"]["Car"]["moderate"]
    print(f"teacher: Car BEV moderate on the training frames {goal:.4f}", flush=True)
    student, metrics = fit_student(teacher, data, out / "compress", options.student_steps)
    frames = [to_frame(split[i]) for split in (data.train, data.val) for i in range(len(split))]
    models = {"teacher": teacher, "student": student}
    parity = {name: ship(model, out / f"{name}-onnx", frames) for name, model in models.items()}
    with load_pipeline(out / "teacher-onnx") as first, load_pipeline(out / "student-onnx") as second:
        times = bench({"teacher": first, "student": second}, frames, iterations=270, source={"source": "kitti"})
    write_json(
        options.results,
        {
            "what": "20 training and 7 validation frames of KITTI; AP R40; a class with n < 41 counted labels cannot "
            "reach more than (n - 1) / 40",
            "preset": PRESET,
            "seed": SEED,
            "steps": {"teacher": options.teacher_steps, "student": options.student_steps},
            "settings": settings(options.teacher_steps).identity(),
            "budget": metrics["budget"],
            "models": {
                name: {
                    "name": model.spec.name,
                    **{key: metrics[name][key] for key in ("params", "macs", "macs_thop")},
                    "scores": reached if name == "teacher" else scores(model, data, out / "student-scores"),
                    "parity_on_27_real_frames": parity[name],
                }
                for name, model in models.items()
            },
            "bench": times.to_json(),
            "environment": environment.record(),
        },
    )
    if goal <= GOAL:
        raise SystemExit(f"the teacher reached {goal:.4f}, not {GOAL}")


if __name__ == "__main__":
    main()
