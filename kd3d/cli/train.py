"""``kd3d train``"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli.console import TerminalProgress, emit, say
from kd3d.cli.labelling import Labelled, labelled_frames
from kd3d.cli.options import Data, Device, Force, Json, Out, Resume, Seed, Workers
from kd3d.errors import UsageError

Preset = Annotated[str, typer.Option("--preset", help="What to train: a preset's name (kd3d presets) or a spec.json.")]
Epochs = Annotated[
    float | None, typer.Option("--epochs", min=0.0, help="Passes over the data; 20 if --steps is not given.")
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Optimiser steps, instead of --epochs.")]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Frames per step.")]
Rate = Annotated[float, typer.Option("--lr", help="Peak learning rate of the one-cycle schedule.")]
Precision = Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16 (GPU only).")]
Every = Annotated[int, typer.Option("--checkpoint-every", min=1, help="Steps between checkpoints.")]
Validation = Annotated[int, typer.Option("--eval-every", min=0, help="Steps between validations; 0: at the end only.")]
NormMomentum = Annotated[
    float | None, typer.Option("--norm-momentum", help="Of every batch norm while training; 0.1 suits short runs.")
]
EvalSplit = Annotated[str, typer.Option("--eval-split", help="Frames that are scored: val, or train to test memory.")]
Paste = Annotated[
    int, typer.Option("--paste", min=0, help="Fill each frame up to this many objects per class; 0: none.")
]


def train(
    preset: Preset,
    data: Data,
    out: Out,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: Batch = 4,
    lr: Rate = 3e-3,
    seed: Seed = 0,
    workers: Workers = 1,
    precision: Precision = "fp32",
    eval_every: Validation = 0,
    eval_split: EvalSplit = "val",
    checkpoint_every: Every = 200,
    ema_decay: Annotated[float, typer.Option("--ema-decay", help="Of the averaged weights; 0: none.")] = 0.99,
    paste: Paste = 0,
    labelled: Labelled = None,
    norm_momentum: NormMomentum = None,
    augment: Annotated[bool, typer.Option("--augment/--no-augment", help="Random flips, rotation and scaling.")] = True,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
    json_line: Json = False,
) -> None:
    """Train a detector from scratch: a teacher, or a control."""
    settings = training_settings(
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        workers=workers,
        precision=precision,
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
        ema_decay=ema_decay,
        norm_momentum=norm_momentum,
    )
    request = {"preset": preset, "data": str(data), "paste": paste, "augment": augment, "eval_split": eval_split}
    if labelled is not None:
        request["labelled"] = labelled
    spec = read_spec(preset)
    open_run(out, {"command": "train", **request, **settings.identity()}, resume, force)
    from kd3d.report.table import number

    result = _train(spec, settings, out, request, device)
    scores = (f"{name} {number(result.metrics.get(name), '{:.4f}')}" for name in ("mAP", "NDS"))
    say(f"{result.model}: {', '.join(scores)}")
    emit({"model": str(result.model), "steps": result.steps, **_headline(result.metrics)}, as_json=json_line)


def training_settings(*, steps: int | None, epochs: float | None, **rest: Any) -> Any:
    """``TrainSettings``; 20 epochs where neither steps nor epochs are given."""
    from kd3d.training.settings import TrainSettings

    if steps and epochs:
        raise UsageError("give either --steps or --epochs.")
    return TrainSettings(
        steps=steps, epochs=None if steps else epochs or 20.0, **{"ema_decay": 0.99, "checkpoint_every": 200, **rest}
    )


def open_run(out: Path, settings: dict[str, Any], resume: bool, force: bool) -> None:
    """Open the run folder: new or empty, or that of a stopped run."""
    import json

    from kd3d.runs.folder import start_run

    start_run(out, json.loads(json.dumps(settings)), resume=resume, force=force)


def read_spec(text: str) -> Any:
    """A specification by preset name, or from a ``spec.json``, or of a model, run or export folder."""
    from kd3d.cli.models import find_model
    from kd3d.detectors.presets import preset
    from kd3d.runs.atomic import read_json
    from kd3d.spec import DetectorSpec
    from kd3d.spec.codec import from_json

    path = Path(text)
    if path.is_dir():
        path = (find_model(text).path or path) / "spec.json"
    if path.suffix == ".json":
        return from_json(DetectorSpec, read_json(path), where=str(path))
    return preset(text)


def _train(spec: Any, settings: Any, out: Path, request: dict[str, Any], device: str) -> Any:
    import torch

    from kd3d.cli.pipelines import torch_device
    from kd3d.datasets.open import open_dataset
    from kd3d.detectors.build import build
    from kd3d.training.loop import train as fit

    sweeps = spec.points.sweeps
    dataset = labelled_frames(Path(request["data"]), sweeps, request.get("labelled"))
    scored = open_dataset(Path(request["data"]), split=request["eval_split"], sweeps=sweeps)
    torch.manual_seed(settings.seed)
    module = build(spec).to(torch_device(device))
    paste = tuple((name, request["paste"]) for name in dataset.classes) if request["paste"] else ()
    with training_progress("train") as update:
        return fit(
            module,
            dataset,
            settings=settings,
            run=out,
            augmentation=augmentation(dataset.kind, paste) if request["augment"] or paste else None,
            database=_database(dataset, out) if paste else None,
            validate=validator(scored, out),
            progress=update,
        )


def augmentation(kind: str, paste: tuple[tuple[str, int], ...]) -> Any:
    """Flips, rotation and scaling as usual for a data set: KITTI is labelled ahead only, so x is not flipped."""
    import math

    from kd3d.datasets.augment import Augmentation

    return Augmentation(flip_x=kind != "kitti", flip_y=True, rotation_rad=math.pi / 4, scale=(0.95, 1.05), paste=paste)


def validator(dataset: Any, out: Path) -> Callable[[Any, int], dict[str, float]]:
    """A function that scores a network on ``dataset`` and keeps the metrics in the run."""
    from kd3d.datasets.frames import to_frame
    from kd3d.detectors.checkpoint import Model
    from kd3d.detectors.torch_pipeline import TorchPipeline
    from kd3d.evaluation.evaluate import evaluate
    from kd3d.runs.atomic import write_json

    def validate(module: Any, step: int) -> dict[str, float]:
        pipeline = TorchPipeline(Model(module.spec, module, {}), device=str(next(module.parameters()).device))
        metrics = evaluate(
            lambda sample: pipeline(to_frame(sample)),
            dataset,
            classes=module.spec.head.classes,
            out_dir=out / "evaluation",
        )
        found = metrics.to_json()
        write_json(out / "metrics.json", {"step": step, **found})
        return _headline(found)

    return validate


@contextmanager
def training_progress(label: str) -> Iterator[Callable[[Any], None]]:
    """Progress of a training loop, with the loss now and then."""
    progress = TerminalProgress()
    with progress.phase(label) as step:

        def update(news: Any) -> None:
            step(news.step, news.steps)
            if news.metrics:
                progress.line(
                    f"step {news.step}: loss {news.loss:.4f}, "
                    + ", ".join(f"{k} {v:.4f}" for k, v in news.metrics.items())
                )

        yield update


def _database(dataset: Any, out: Path) -> Any:
    from kd3d.datasets.paste import SampleDatabase, build_database

    folder = out / "objects"
    return SampleDatabase(folder) if folder.exists() else build_database(dataset, folder)


def _headline(metrics: Any) -> dict[str, float]:
    return {name: metrics[name] for name in ("mAP", "NDS") if metrics.get(name) is not None}
