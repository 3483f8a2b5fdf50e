"""The main job on a generated world: the shipped teacher, its student, exports, latency, accuracy, a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.bench import bench
from kd3d.compress.data import CompressData
from kd3d.compress.distilling import DistillSettings
from kd3d.compress.pipeline import CompressSettings, compress
from kd3d.compress.recipe_file import DEFAULT, load_recipe
from kd3d.compress.search.budget import Budgets
from kd3d.compress.search.space import Space
from kd3d.compress.stages import StageUpdate
from kd3d.datasets.augment import Augmentation
from kd3d.datasets.frames import portable_frames, to_frame
from kd3d.datasets.open import open_dataset
from kd3d.datasets.world import write_world
from kd3d.detectors.checkpoint import Model
from kd3d.evaluation.evaluate import evaluate
from kd3d.export.onnx import export_onnx
from kd3d.report.pareto import write_report
from kd3d.report.picture import draw
from kd3d.report.table import comparison
from kd3d.runs.atomic import write_json, write_text
from kd3d.runs.progress import Progress
from kd3d.runtime.frames import read_frames, write_frames
from kd3d.runtime.pipeline import Pipeline, load_pipeline
from kd3d.training.settings import TrainSettings

NAMES = ("teacher", "student")


@dataclass(frozen=True)
class DemoSettings:
    """How big the demo is; the defaults take less than ten minutes on two cores.

    Args:
        scenes: of the generated world, about a fifth of them for validation.
        samples: key frames per scene.
        seed: of the world (no other world of this project uses it) and of the training.
        steps: optimiser steps of the student.
        batch_size: frames per step.
        budget: of the student's MACs.
        frames: timed on.
        iterations: timed frames per model.
    """

    scenes: int = 10
    samples: int = 20
    seed: int = 424242
    steps: int = 400
    batch_size: int = 4
    budget: str = "25%"
    frames: int = 20
    iterations: int = 100


def run_demo(
    teacher: Model, out: Path, *, settings: DemoSettings, progress: Progress, workers: int = 2
) -> dict[str, Any]:
    """Compress, export, time and score; returns ``teacher`` and ``student`` with their figures, and the files written.

    ``out`` receives ``world/``, ``compress/``, ``teacher-onnx/``, ``student-onnx/``, ``frames/``, ``bench/``,
    ``demo.json``, ``table.md``, ``boxes.png`` and ``report.html``.

    Raises:
        OutputError: ``out`` is not writable.
        GateError: an export differs from its model.
    """
    sweeps = teacher.spec.points.sweeps
    with progress.phase("world") as step:
        write_world(
            out / "world",
            scenes=settings.scenes,
            seed=settings.seed,
            samples_per_scene=settings.samples,
            cameras=False,
            workers=workers,
            progress=step,
            force=True,
        )
    val = open_dataset(out / "world", split="val", sweeps=sweeps)
    write_frames(portable_frames(val, min(settings.frames, len(val))), out / "frames")
    student, cost = _compress(teacher, out, val, settings=settings, progress=progress)
    pipelines = _export({"teacher": teacher, "student": student}, out, progress)
    figures = {name: {**cost[name], "size_mb": _size_mb(out / f"{name}-onnx")} for name in NAMES}
    for name, numbers in _bench(pipelines, out, settings, progress).items():
        figures[name].update(numbers)
    for name in NAMES:
        figures[name].update(_score(name, pipelines[name], val, out, progress))
    return _finish(figures, pipelines, out, val)


def _compress(
    teacher: Model, out: Path, val: Any, *, settings: DemoSettings, progress: Progress
) -> tuple[Model, dict[str, Any]]:
    import math

    train = open_dataset(out / "world", split="train", sweeps=teacher.spec.points.sweeps)
    data = CompressData(
        train, None, Augmentation(flip_x=True, flip_y=True, rotation_rad=math.pi / 4, scale=(0.95, 1.05))
    )
    training = TrainSettings(
        steps=settings.steps,
        batch_size=settings.batch_size,
        seed=settings.seed,
        workers=1,
        precision="bf16",
        ema_decay=0.98,
        norm_momentum=0.1,
        lr=2e-3,
    )
    # Same cells as the teacher's: a short training cannot move what was inherited to another resolution.
    distill = DistillSettings(training, load_recipe(DEFAULT))
    plan = CompressSettings(distill, Space(cell=(1.0,)), candidates=1, stats_frames=5)
    with progress.phase("compress") as step:
        result = compress(
            teacher,
            data,
            budgets=Budgets.parse(flops=settings.budget),
            settings=plan,
            run=out / "compress",
            progress=_steps(step),
        )
    return result.student, {name: _costs(result.metrics[name]) for name in NAMES}


def _steps(step: Callable[[int, int], None]) -> Callable[[StageUpdate], None]:
    def update(news: StageUpdate) -> None:
        if news.stage == "distil":
            step(news.done, news.total)

    return update


def _costs(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": metrics["name"], "macs": metrics["macs"], "params": metrics["params"]}


def _export(models: Mapping[str, Model], out: Path, progress: Progress) -> dict[str, Pipeline]:
    recorded = read_frames(out / "frames")
    pipelines = {}
    for name, model in models.items():
        made = export_onnx(model, out / f"{name}-onnx", frames=[recorded[0], recorded[len(recorded) - 1]])
        progress.line(f"export: {made.artifact}, {made.parity.matched} of {made.parity.boxes} boxes as in torch")
        pipelines[name] = load_pipeline(out / f"{name}-onnx").__enter__()
    return pipelines


def _bench(
    pipelines: Mapping[str, Pipeline], out: Path, settings: DemoSettings, progress: Progress
) -> dict[str, dict[str, Any]]:
    recorded = read_frames(out / "frames")
    with progress.phase("bench") as step:
        report = bench(
            pipelines,
            [recorded[index] for index in range(len(recorded))],
            models={name: {"runtime": "onnxruntime", "device": "cpu"} for name in pipelines},
            source={"source": "world", "synthetic": False},
            warmup=5,
            iterations=settings.iterations,
            progress=step,
        )
    report.write(out / "bench")
    return {
        model["name"]: {
            "latency_ms_p50": model["e2e_ms"]["p50"],
            "latency_ms_p99": model["e2e_ms"]["p99"],
            "network_ms_p50": model["stages"]["network"]["p50"],
            "fps": model["fps"],
        }
        for model in report.record["models"]
    }


def _score(name: str, pipeline: Pipeline, val: Any, out: Path, progress: Progress) -> dict[str, Any]:
    """Accuracy of the artefact that was timed, not of the torch model it came from."""
    with progress.phase(f"evaluate {name}") as step:
        metrics = evaluate(
            lambda sample: pipeline(to_frame(sample)),
            val,
            classes=pipeline.spec.head.classes,
            out_dir=out / "evaluation" / name,
            progress=step,
        ).to_json()
    return {"mAP": metrics["mAP"], "NDS": metrics["NDS"]}


def _size_mb(folder: Path) -> float:
    return (folder / "model.onnx").stat().st_size / 1e6


def _finish(
    figures: dict[str, dict[str, Any]], pipelines: Mapping[str, Pipeline], out: Path, val: Any
) -> dict[str, Any]:
    frame = to_frame(val[len(val) // 2])
    captions = {name: f"mAP {figures[name]['mAP']:.3f}, {figures[name]['latency_ms_p50']:.1f} ms" for name in NAMES}
    predictions = {name: pipelines[name](frame) for name in NAMES}
    picture = draw(out / "boxes.png", frame.points, predictions, truth=frame.boxes, captions=captions)
    for pipeline in pipelines.values():
        pipeline.__exit__(None, None, None)
    result = {
        **figures,
        "speedup": figures["teacher"]["latency_ms_p50"] / figures["student"]["latency_ms_p50"],
        "macs_ratio": figures["student"]["macs"] / figures["teacher"]["macs"],
        "picture": str(picture),
        "report": str(out / "report.html"),
    }
    write_json(out / "demo.json", result)
    write_text(out / "table.md", comparison("", {name: figures[name] for name in NAMES}).markdown() + "\n")
    write_report(out, data=str(out / "world"))
    return result
