"""Frames for timing where there are no recorded ones. They say so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd3d.geometry.boxes import Floats
from kd3d.spec.detector import DetectorSpec


@dataclass(frozen=True)
class SyntheticFrame:
    """Random points in the shape of a portable frame."""

    token: str
    points: Floats
    features: tuple[str, ...]
    lidar2image: Floats | None = None
    image_size_px: tuple[int, int] | None = None


def synthetic_frames(spec: DetectorSpec, *, count: int, points: int, seed: int = 0) -> list[SyntheticFrame]:
    """``count`` clouds whose density falls with range, as a spinning sensor's does: uniform in range and azimuth.

    Args:
        spec: gives the range and the point features.
        count: frames.
        points: per frame.
        seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    grid = spec.grid
    reach = max(abs(grid.x_min_m), abs(grid.x_max_m), abs(grid.y_min_m), abs(grid.y_max_m))
    frames = []
    for index in range(count):
        distance, azimuth = rng.uniform(1.0, reach, points), rng.uniform(-np.pi, np.pi, points)
        columns = {
            "x": distance * np.cos(azimuth),
            "y": distance * np.sin(azimuth),
            "z": rng.uniform(grid.z_min_m, grid.z_max_m, points),
            "intensity": rng.uniform(0, 1, points),
        }
        stack = [columns.get(name, np.zeros(points)) for name in spec.points.features]
        frames.append(
            SyntheticFrame(f"synthetic-{index:06d}", np.stack(stack, 1).astype(np.float32), spec.points.features)
        )
    return frames
