"""Bird's-eye-view maps from one grid to another, by metric position."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kd3d.errors import UsageError
from kd3d.geometry.grid import BevGrid

_SAME_M = 1e-3  # ranges closer than a millimetre are the same


def same_range(a: BevGrid, b: BevGrid) -> bool:
    """Whether two grids cover the same rectangle of the same frame."""
    edges = ("x_min_m", "y_min_m", "x_max_m", "y_max_m")
    return a.frame == b.frame and all(abs(getattr(a, edge) - getattr(b, edge)) < _SAME_M for edge in edges)


def same_cells(a: BevGrid, b: BevGrid) -> bool:
    """Whether two grids have the same cells."""
    return same_range(a, b) and (a.nx, a.ny) == (b.nx, b.ny)


def resample(maps: Tensor, have: BevGrid, want: BevGrid) -> Tensor:
    """Bilinear interpolation at the cell centres of ``want``.

    With equal ranges it is ``F.interpolate(..., align_corners=False)``. Outside the range of ``have`` the values at its
    border continue; ``inside`` tells where.

    Args:
        maps: ``[B, C, have.ny, have.nx]``.
        have: the grid of ``maps``.
        want: the grid of the result.

    Returns:
        ``[B, C, want.ny, want.nx]``.

    Raises:
        UsageError: the grids are of different frames.
    """
    _check(maps, have, want)
    if same_cells(have, want):
        return maps
    if same_range(have, want):
        return functional.interpolate(maps, size=(want.ny, want.nx), mode="bilinear", align_corners=False)
    x, y = (_normalised(want, have, axis, maps.device) for axis in "xy")
    where = torch.stack([x.expand(want.ny, -1), y[:, None].expand(-1, want.nx)], -1)
    where = where.to(maps.dtype)[None].expand(len(maps), -1, -1, -1)
    return functional.grid_sample(maps, where, mode="bilinear", padding_mode="border", align_corners=False)


def inside(have: BevGrid, want: BevGrid, device: torch.device | str = "cpu") -> Tensor:
    """``[want.ny, want.nx]`` bool: which cell centres of ``want`` lie in the range of ``have``."""
    x, y = (_normalised(want, have, axis, device).abs() <= 1 for axis in "xy")
    return y[:, None] & x[None, :]


def pool_and_resample(maps: Tensor, have: BevGrid, want: BevGrid, *, pool: Literal["mean", "max"] = "mean") -> Tensor:
    """Like ``resample``, but to coarser cells pool first by the nearest whole factor, so that nothing falls between.

    Args:
        maps: ``[B, C, have.ny, have.nx]``.
        have: the grid of ``maps``.
        want: the grid of the result.
        pool: ``mean`` for features, ``max`` where peaks must stay (masks, heatmaps).
    """
    _check(maps, have, want)
    factor = min(int(want.cell_m / have.cell_m + 0.5), have.nx, have.ny)
    if factor >= 2:
        maps = functional.avg_pool2d(maps, factor) if pool == "mean" else functional.max_pool2d(maps, factor)
        rows, columns = maps.shape[2:]
        cell = have.cell_m * factor
        have = replace(  # cells past the last whole window are dropped
            have, cell_m=cell, x_max_m=have.x_min_m + columns * cell, y_max_m=have.y_min_m + rows * cell
        )
    return resample(maps, have, want)


def _check(maps: Tensor, have: BevGrid, want: BevGrid) -> None:
    if have.frame != want.frame:
        raise UsageError(
            f"a map in the {have.frame} frame cannot be resampled to the {want.frame} frame. Use models of one frame."
        )
    if tuple(maps.shape[-2:]) != (have.ny, have.nx):
        raise UsageError(f"a map of {tuple(maps.shape[-2:])} cells is not on a grid of {have.ny} x {have.nx}.")


def _normalised(want: BevGrid, have: BevGrid, axis: str, device: torch.device | str) -> Tensor:
    """Cell centres of ``want`` along ``axis``, where -1 and 1 are the edges of ``have``."""
    count = want.nx if axis == "x" else want.ny
    low, high = getattr(have, f"{axis}_min_m"), getattr(have, f"{axis}_max_m")
    centre = getattr(want, f"{axis}_min_m") + (torch.arange(count, dtype=torch.float64) + 0.5) * want.cell_m
    normalised: Tensor = 2 * (centre - low) / (high - low) - 1
    return normalised.float().to(device)
