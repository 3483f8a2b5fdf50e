"""Generated frames that an export must get right: empty, sparse, crowded and full."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd3d.geometry.grid import BevGrid
from kd3d.runtime.frames import Frame
from kd3d.spec import DetectorSpec, VoxelEncoderSpec

_CORNER = 24  # cells along a side
_MAX_POINTS = 600_000  # a frame with more than any LiDAR gives only costs time
_RANGES = {"intensity": (0.0, 255.0), "time_lag": (0.0, 0.5), "elongation": (0.0, 1.5), "ring": (0.0, 31.0)}


def probe_frames(spec: DetectorSpec, *, seed: int = 0) -> list[Frame]:
    """Frames for ``spec``, the same for the same seed.

    They are: no points; all points out of range; one point per pillar; crowded pillars with more points than fit;
    and as many pillars as the detector keeps. Of voxels the last fills a corner of the range from bottom to top.
    """
    rng = np.random.default_rng(seed)
    grid, encoder = spec.grid, spec.encoder
    area = grid.nx * grid.ny
    sparse = rng.choice(area, min(area, encoder.rows, 500), replace=False)
    crowded = np.repeat(rng.choice(area, min(area, 300), replace=False), encoder.max_points + 3)
    if isinstance(encoder, VoxelEncoderSpec):
        # Voxels above voxels: every tap of the kernels is met, also along z.
        corner = (np.arange(_CORNER)[:, None] * grid.nx + np.arange(_CORNER)).ravel()
        full = np.repeat(corner, 2 * encoder.z_sizes(grid)[0])[: encoder.rows + 10]
    else:
        full = rng.permutation(area)[: min(area, encoder.rows + 10, _MAX_POINTS)]
    return [
        _frame("empty", np.zeros(0, np.int64), spec, rng),
        _outside(spec, rng),
        _frame("sparse", sparse, spec, rng),
        _frame("crowded", np.concatenate([rng.permutation(crowded), sparse]), spec, rng),
        _frame("full", full, spec, rng),
    ]


def _frame(name: str, cells: NDArray[np.int64], spec: DetectorSpec, rng: np.random.Generator) -> Frame:
    grid, count = spec.grid, len(cells)
    inside = rng.uniform(0.05, 0.95, (count, 3))
    x = grid.x_min_m + (cells % grid.nx + inside[:, 0]) * grid.cell_m
    y = grid.y_min_m + (cells // grid.nx + inside[:, 1]) * grid.cell_m
    z = grid.z_min_m + inside[:, 2] * grid.height_m
    columns = [x, y, z, *(rng.uniform(*_RANGES[name_i], count) for name_i in spec.points.features[3:])]
    return _as_frame(f"generated-{name}", np.stack(columns, axis=1).astype(np.float32), spec)


def _outside(spec: DetectorSpec, rng: np.random.Generator) -> Frame:
    grid: BevGrid = spec.grid
    points = np.zeros((20, len(spec.points.features)), np.float32)
    points[:, 0] = grid.x_max_m + rng.uniform(1, 20, 20)
    return _as_frame("generated-outside", points, spec)


def _as_frame(token: str, points: NDArray[np.float32], spec: DetectorSpec) -> Frame:
    return Frame(
        token=token,
        points=points,
        features=spec.points.features,
        boxes=None,
        classes=spec.head.classes,
        lidar2ego=np.eye(4),
        ego2global=np.eye(4),
        lidar2image=None,
        image_size_px=None,
    )
