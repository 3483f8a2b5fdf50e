"""The generated worlds of the benchmarks. Their scenes are disjoint: each has a seed of its own.

- shipped teacher, seed 1000: the teacher in the package is trained on it
- train, seed 2000: students and controls are trained on it
- validation, seed 3000: everything is scored on it
- fleet, seed 5000: what a fleet brings home, mostly without labels
- demo, seed 4000: ``kd3d demo``
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kd3d.datasets.base import SampleDataset
from kd3d.datasets.open import open_dataset
from kd3d.datasets.unlabelled import open_unlabelled
from kd3d.datasets.world.write import write_world

ROOT = Path(os.environ.get("KD3D_WORLDS", Path(__file__).resolve().parents[1] / "worlds"))
TEACHER, TRAIN, VALIDATION, FLEET = (1000, "train", 60), (2000, "train", 10), (3000, "val", 20), (5000, "train", 60)
SAMPLES_PER_SCENE = int(os.environ.get("KD3D_WORLD_SAMPLES", "20"))
if "KD3D_WORLD_SCENES" in os.environ:  # a trial of the scripts themselves
    TEACHER, TRAIN, VALIDATION, FLEET = (
        (seed, split, int(os.environ["KD3D_WORLD_SCENES"])) for seed, split, _ in (TEACHER, TRAIN, VALIDATION, FLEET)
    )
SWEEPS = 2  # all that the detectors here read; `kd3d data synth` writes all nine
# Where a device is lent for a while, its session keeps these elsewhere (see gpu_session.py).
RESULTS = Path(os.environ.get("KD3D_RESULTS", Path(__file__).resolve().parent / "results"))
RUNS = Path(os.environ.get("KD3D_RUNS", Path(__file__).resolve().parents[1] / "runs"))
DEVICE = os.environ.get("KD3D_DEVICE", "cpu")  # that benchmarks train on


def folder(which: tuple[int, str, int]) -> Path:
    """Where the world ``(seed, split, scenes)`` is."""
    seed, split, scenes = which
    return ROOT / f"seed-{seed}-{split}-{scenes}"


def world(which: tuple[int, str, int], *, sweeps: int) -> SampleDataset:
    """The data set of ``(seed, split, scenes)``, written first where it is missing (LiDAR only)."""
    seed, split, scenes = which
    root = folder(which)
    if not root.exists():
        write_world(
            root,
            scenes=scenes,
            seed=seed,
            version="v1.0-trainval",
            samples_per_scene=SAMPLES_PER_SCENE,
            cameras=False,
            workers=os.cpu_count() or 2,
            split=split,
            sweeps=SWEEPS,
            progress=lambda done, total: print(f"\r{root.name}: {done}/{total} scenes", end="", file=sys.stderr),
        )
    return open_dataset(root, split=split, sweeps=sweeps)


def without_labels(which: tuple[int, str, int], *, sweeps: int, like: SampleDataset) -> SampleDataset:
    """The frames of that data set which are not among ``like``, without their labels; written first where missing."""
    world(which, sweeps=sweeps)
    return open_unlabelled(folder(which), split=which[1], sweeps=sweeps, like=like).dataset
