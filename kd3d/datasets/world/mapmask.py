"""The map: which ground is road, as the 0.1 m binary mask that nuScenes uses."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kd3d.datasets.world.roads import Terrain
from kd3d.optional import require

RESOLUTION_M = 0.1
_COARSE = 4


def write_map(path: Path, terrain: Terrain, extent_m: tuple[float, float]) -> None:
    """Write the drivable area as a PNG; row 0 is the largest y.

    Args:
        path: file to write.
        terrain: its roads are drawn.
        extent_m: width and height.
    """
    image = require("PIL.Image", extra="nuscenes")
    step = RESOLUTION_M * _COARSE
    width, height = (int(np.ceil(side / step)) for side in extent_m)
    x = (np.arange(width) + 0.5) * step
    y = (np.arange(height)[::-1] + 0.5) * step
    grid_x, grid_y = np.meshgrid(x, y)
    mask = np.where(terrain.on_road(grid_x, grid_y), 255, 0).astype(np.uint8)
    picture = image.fromarray(mask).resize((width * _COARSE, height * _COARSE), image.NEAREST)
    picture.save(path, format="PNG", optimize=False)
