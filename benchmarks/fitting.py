"""Training and scoring as every benchmark does it, so that arms differ in nothing but what is compared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd3d.datasets.augment import Augmentation
from kd3d.datasets.base import SampleDataset
from kd3d.datasets.frames import to_frame
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.model import CenterPoint
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.evaluation.evaluate import evaluate
from kd3d.training.result import TrainUpdate
from kd3d.training.settings import TrainSettings

AUGMENTATION = Augmentation(flip_x=True, flip_y=True, rotation_rad=np.pi / 4, scale=(0.95, 1.05))


def settings(steps: int, seed: int, *, lr: float, eval_every: int = 0) -> TrainSettings:
    """The one recipe of all benchmark runs; scored at the end, and every ``eval_every`` steps if that is not 0."""
    return TrainSettings(
        steps=steps,
        batch_size=4,
        lr=lr,
        precision="bf16",
        ema_decay=0.998,
        seed=seed,
        workers=1,
        eval_every=eval_every,
        checkpoint_every=250,
        log_every=50,
    )


def score(module: CenterPoint, dataset: SampleDataset, out: Path) -> dict[str, Any]:
    """Official metrics of ``module`` on ``dataset``, as JSON values."""
    pipeline = TorchPipeline(Model(module.spec, module, {}))
    metrics = evaluate(
        lambda sample: pipeline(to_frame(sample)), dataset, classes=module.spec.head.classes, out_dir=out
    )
    return metrics.to_json()


def validator(dataset: SampleDataset, out: Path) -> Callable[[Any, int], dict[str, float]]:
    """For ``train(validate=)``: mAP and NDS; the whole metrics of the last call stay in ``out``."""

    def validate(module: Any, step: int) -> dict[str, float]:
        threads = torch.get_num_threads()
        found = score(module, dataset, out / "evaluation")
        torch.set_num_threads(threads)
        return {"mAP": found["mAP"], "NDS": found["NDS"]}

    return validate


def watch(label: str) -> Callable[[TrainUpdate], None]:
    """Progress in a log file: a line every 100 steps and at every validation."""

    def update(news: TrainUpdate) -> None:
        if news.metrics or news.step % 100 == 0:
            scores = " ".join(f"{name} {value:.4f}" for name, value in (news.metrics or {}).items())
            line = f"{label} {news.step}/{news.steps} loss {news.loss:.3f} eta {news.eta_s / 60:.1f} min {scores}"
            print(line, file=sys.stderr, flush=True)

    return update
