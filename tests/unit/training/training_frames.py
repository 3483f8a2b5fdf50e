"""Frames in memory: ground, and boxes filled with points; enough for a detector to learn by heart."""

from __future__ import annotations

import numpy as np

from kd3d.datasets.sample import Sample
from kd3d.detectors.preset_world import NUSCENES_CLASSES
from kd3d.geometry.boxes import Boxes3D

FEATURES = ("x", "y", "z", "intensity", "time_lag")
SIZES = {"car": (4.5, 1.9, 1.7), "truck": (8.0, 2.6, 3.0), "pedestrian": (0.8, 0.8, 1.8)}


def boxes_of(rng: np.random.Generator, count: int = 8) -> Boxes3D:
    names = list(SIZES)
    kinds = rng.integers(0, len(names), count)
    array = np.zeros((count, 9), np.float32)
    cells = rng.choice(49, count, replace=False)  # a coarse lattice keeps the boxes apart
    array[:, 0] = (cells % 7 - 3) * 13 + rng.uniform(-2, 2, count)
    array[:, 1] = (cells // 7 - 3) * 13 + rng.uniform(-2, 2, count)
    array[:, 3:6] = [SIZES[names[kind]] for kind in kinds]
    array[:, 2] = array[:, 5] / 2 - 1.8
    array[:, 6] = rng.uniform(-3.1, 3.1, count)
    array[:, 7:9] = rng.uniform(-5, 5, (count, 2))
    array[0, 7:9] = np.nan  # a velocity that nobody knows
    return Boxes3D(array, np.array([NUSCENES_CLASSES.index(names[kind]) for kind in kinds]))


def points_of(rng: np.random.Generator, boxes: Boxes3D, *, per_box: int = 120, ground: int = 1500) -> np.ndarray:
    flat = np.concatenate([rng.uniform(-50, 50, (ground, 2)), np.full((ground, 1), -1.8)], 1)
    parts = [flat]
    for box in boxes.array:
        local = rng.uniform(-0.5, 0.5, (per_box, 3)) * box[3:6]
        cos, sin = np.cos(box[6]), np.sin(box[6])
        parts.append(local @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) + box[:3])
    xyz = np.concatenate(parts)
    return np.concatenate([xyz, rng.uniform(0, 255, (len(xyz), 1)), np.zeros((len(xyz), 1))], 1).astype(np.float32)


def frame_of(seed: int, *, boxes: Boxes3D | None = None) -> Sample:
    rng = np.random.default_rng(seed)
    boxes = boxes_of(rng) if boxes is None else boxes
    return Sample(f"frame-{seed}", points_of(rng, boxes), FEATURES, boxes, NUSCENES_CLASSES)


class MemoryDataset:
    """A ``SampleDataset`` over a list."""

    kind = "nuscenes"
    split = "train"
    classes = NUSCENES_CLASSES

    def __init__(self, frames: list[Sample]) -> None:
        self.frames = frames
        self.tokens = [frame.token for frame in frames]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        return self.frames[index]


def memory_dataset(count: int = 4) -> MemoryDataset:
    return MemoryDataset([frame_of(seed) for seed in range(count)])
