"""The teacher's objects: peaks of its heatmap, how sure it is that they are there, and how sure of their boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kd3d.errors import UsageError
from kd3d.geometry.iou import paired_iou
from kd3d.training.losses import gather_cells

if TYPE_CHECKING:
    from kd3d.compress.distill.context import SignalContext

LOWEST = 0.1  # peaks below this are no objects
MOST = 200  # objects of a frame
READ = 0.45 * LOWEST  # cells below this are no peak, nor the neighbour of one that has a say in its box
_NEIGHBOURS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]


@dataclass(frozen=True)
class Proposals:
    """Peaks of a batch, without gradient.

    Args:
        score: ``[N]`` classification scores.
        quality: ``[N]`` agreement of the boxes around, 0..1; -1 where there is none to agree with.
        kind: ``[N]`` classes, as the context orders them.
        cell: ``[N]`` ``(frame * H + row) * W + column`` on the teacher's grid.
    """

    score: Tensor
    quality: Tensor
    kind: Tensor
    cell: Tensor

    def confidence(self, localisation: float = 0.5) -> Tensor:
        """``[N]``: ``score^(1 - a) quality^a`` with the exponent ``a`` of localisation; the score where no neighbour
        says how good the box is.
        """
        joint = self.score.pow(1 - localisation) * self.quality.clamp(min=0).pow(localisation)
        return torch.where(self.quality < 0, self.score, joint)


def check_localisation(localisation: float) -> None:
    """Refuse an exponent that is none.

    Raises:
        UsageError: it is not in 0..1.
    """
    if not 0 <= localisation <= 1:
        raise UsageError(f"the exponent of localisation must be in 0..1, not {localisation:g}.")


def peaks(heatmap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Objects of a heatmap ``[B, C, H, W]``: score, class, cell ``(frame * H + row) * W + column``.

    Local maxima of 3 x 3 cells of at least 0.1, of each frame the 200 best.
    """
    found = heatmap * (is_peak(heatmap) & (heatmap >= LOWEST))
    if found[0].numel() > MOST:
        least = found.flatten(1).topk(MOST, 1).values[:, -1]
        found = found * (found >= least[:, None, None, None])
    frame, kind, row, column = found.nonzero(as_tuple=True)
    rows, columns = heatmap.shape[2:]
    return heatmap[frame, kind, row, column], kind, (frame * rows + row) * columns + column


def is_peak(heatmap: Tensor) -> Tensor:
    """``[B, C, H, W]`` bool: not below any of the eight cells around."""
    return heatmap == functional.max_pool2d(heatmap, 3, stride=1, padding=1)


def proposals(context: SignalContext) -> Proposals:
    """The teacher's peaks. A box is as good as the boxes at those of the eight cells around agree with it whose score
    is at least half of the peak's: the mean IoU in the ground plane, weighted by their scores (our own measure; these
    models predict no IoU).
    """
    score, kind, cell = peaks(context.teacher_heatmap)
    quality = torch.full_like(score, -1.0)
    for index, name in enumerate(context.classes):
        mine = (kind == index).nonzero()[:, 0]
        if len(mine):
            quality[mine] = _agreement(context, name, index, cell[mine])
    return Proposals(score, quality, kind, cell)


def teacher_boxes(context: SignalContext, name: str, cell: Tensor) -> Tensor:
    """``[N, 5]`` boxes of class ``name`` at cells of the teacher: x, y, length, width (metres), yaw; all finite."""
    grid = context.teacher_spec.output_grid
    codes, place = gather_cells(context.teacher_codes(name), cell), cell % (grid.nx * grid.ny)
    row = torch.div(place, grid.nx, rounding_mode="floor")
    x = grid.x_min_m + (place % grid.nx + codes[:, 0]) * grid.cell_m
    y = grid.y_min_m + (row + codes[:, 1]) * grid.cell_m
    size = codes[:, 3:5].clamp(-5, 5).exp()
    return torch.cat([torch.stack([x, y], 1), size, torch.atan2(codes[:, 6], codes[:, 7])[:, None]], 1).nan_to_num()


def _agreement(context: SignalContext, name: str, kind: int, cell: Tensor) -> Tensor:
    """``[N]`` weighted mean IoU with the boxes around, -1 without any."""
    grid = context.teacher_spec.output_grid
    scores = context.teacher_heatmap[:, kind].flatten()
    row, column = torch.div(cell, grid.nx, rounding_mode="floor") % grid.ny, cell % grid.nx
    peak, near, weight = [], [], []
    for down, right in _NEIGHBOURS:
        inside = (row + down >= 0) & (row + down < grid.ny) & (column + right >= 0) & (column + right < grid.nx)
        other = (cell + down * grid.nx + right).clamp(0, len(scores) - 1)
        says = (inside & (scores[other] >= scores[cell] / 2)).nonzero()[:, 0]
        peak.append(says)
        near.append(other[says])
        weight.append(scores[other[says]])
    which, by = torch.cat(peak), torch.cat(weight)
    boxes = [teacher_boxes(context, name, cells).cpu().numpy() for cells in (cell[which], torch.cat(near))]
    overlap = torch.from_numpy(paired_iou(*boxes).astype(np.float32)).to(by)
    total = by.new_zeros(len(cell)).index_add_(0, which, by)
    agreed = by.new_zeros(len(cell)).index_add_(0, which, by * overlap)
    return torch.where(total > 0, agreed / total.clamp(min=1e-9), torch.full_like(total, -1.0))
