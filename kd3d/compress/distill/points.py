"""Feature maps sampled at metric points of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kd3d.geometry.boxes import Boxes3D
from kd3d.geometry.grid import BevGrid


def nine_points(boxes: Boxes3D) -> Tensor:
    """``[N, 9, 2]`` x and y in metres: four corners, the centre, the middles of the four edges (UniDistill)."""
    corners = torch.tensor([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]])
    middles = (corners + corners.roll(-1, 0)) / 2
    return in_boxes(boxes, torch.cat([corners, torch.zeros(1, 2), middles]))


def roi_grid(boxes: Boxes3D, size: int = 7) -> Tensor:
    """``[N, size * size, 2]`` centres of equal parts of the boxes' footprints."""
    steps = (torch.arange(size) + 0.5) / size - 0.5
    return in_boxes(boxes, torch.cartesian_prod(steps, steps))


def in_boxes(boxes: Boxes3D, relative: Tensor) -> Tensor:
    """Points ``[P, 2]`` in shares of length and width from the centre, as metres ``[N, P, 2]``."""
    array = torch.from_numpy(boxes.array)
    local = relative[None] * array[:, None, 3:5]
    cosine, sine = array[:, 6].cos()[:, None], array[:, 6].sin()[:, None]
    turned = [local[..., 0] * cosine - local[..., 1] * sine, local[..., 0] * sine + local[..., 1] * cosine]
    return torch.stack(turned, -1) + array[:, None, :2]


def sample_points(maps: Tensor, grid: BevGrid, points: Sequence[Tensor], *, swap: bool = False) -> Tensor:
    """Bilinear samples; zero outside of the map.

    Args:
        maps: ``[B, C, ny, nx]`` over ``grid``.
        grid: where the maps lie.
        points: per frame ``[N, P, 2]``, metres.
        swap: exchange x and y, the defect of UniDistill's release.

    Returns:
        ``[sum of N, P, C]`` fp32.
    """
    low = torch.tensor([grid.x_min_m, grid.y_min_m])
    size = torch.tensor([grid.x_max_m - grid.x_min_m, grid.y_max_m - grid.y_min_m])
    found = []
    for frame, where in zip(maps.float(), points, strict=True):
        place = (2 * (where - low) / size - 1).to(frame.device)
        place = place.flip(-1) if swap else place
        sampled = functional.grid_sample(frame[None], place[None], padding_mode="zeros", align_corners=False)
        found.append(sampled[0].permute(1, 2, 0))
    return torch.cat(found)
