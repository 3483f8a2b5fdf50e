"""Trains the teacher that kd3d ships, on generated scenes that no other world contains, and scores it.

    python benchmarks/train_world_teacher.py --out runs/world-teacher

Resumes where it was stopped. The result is copied to kd3d/assets/world-teacher.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from fitting import AUGMENTATION, score, settings, validator, watch
from worlds import TEACHER, VALIDATION, world

import kd3d
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import save_model
from kd3d.detectors.presets import preset
from kd3d.runs import environment
from kd3d.training.loop import train

SEED = 1
CYCLES = ((2400, 3e-3), (1200, 1.5e-3))  # steps and peak rate; one cycle had not converged: docs/log.md


def main() -> None:
    """Train, score, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="world-centerpoint-pillar")
    parser.add_argument("--asset", type=Path, default=Path(kd3d.__file__).parent / "assets" / "world-teacher")
    options = parser.parse_args()
    spec = preset(options.preset)
    dataset = world(TEACHER, sweeps=spec.points.sweeps)
    validation = world(VALIDATION, sweeps=spec.points.sweeps)
    torch.manual_seed(SEED)
    module, steps = build(spec), 0
    for cycle, (length, lr) in enumerate(CYCLES):
        run = options.out / f"cycle-{cycle}"
        result = train(
            module,
            dataset,
            settings=settings(length, SEED + cycle, lr=lr, eval_every=3 * length // 4),
            run=run,
            augmentation=AUGMENTATION,
            validate=validator(validation, run),
            progress=watch(f"{spec.name}, cycle {cycle}"),
        )
        module, steps = result.module, steps + result.steps
    metrics = score(result.module, validation, options.out / "final")
    meta = {
        "made_by": "benchmarks/train_world_teacher.py",
        "steps": steps,
        "cycles": CYCLES,
        "seed": SEED,
        "train_world": dict(zip(("seed", "split", "scenes"), TEACHER, strict=True)),
        "validation_world": dict(zip(("seed", "split", "scenes"), VALIDATION, strict=True)),
        "metrics": metrics,
        "environment": environment.record(),
    }
    save_model(options.asset, result.module, meta)
    print(f"mAP {metrics['mAP']:.4f} NDS {metrics['NDS']:.4f}")


if __name__ == "__main__":
    main()
