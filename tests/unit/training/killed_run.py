"""A training run in a process of its own, for the test that kills it: ``killed_run.py RUN``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from training_frames import memory_dataset

from kd3d.datasets.augment import Augmentation
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.training.loop import TrainResult, train
from kd3d.training.settings import TrainSettings

STEPS = 24


def validate(module, step: int) -> dict[str, float]:
    torch.rand(step)  # whatever validation draws must not change the run
    return {"weight": float(next(module.parameters()).sum())}


def whole_run(
    run: Path, *, workers: int = 0, progress=None, validate=validate, precision="bf16", **changes
) -> TrainResult:
    torch.manual_seed(5)
    module = build(preset("world-centerpoint-pillar-tiny"))
    defaults = {
        "steps": STEPS,
        "batch_size": 2,
        "checkpoint_every": 5,
        "eval_every": 7,
        "log_every": 1,
        "ema_decay": 0.9,
    }
    settings = TrainSettings(**{**defaults, "workers": workers, "precision": precision, "seed": 11, **changes})
    turn = Augmentation(flip_x=True, flip_y=True, rotation_rad=0.5, scale=(0.95, 1.05))
    return train(
        module,
        memory_dataset(5),
        settings=settings,
        run=run,
        augmentation=turn,
        validate=validate,
        progress=progress,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    whole_run(Path(sys.argv[1]), workers=1)
