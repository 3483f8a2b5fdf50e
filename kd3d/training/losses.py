"""Task losses as (sum, mass); the one division is in ``kd3d.training.objective.total``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

ALPHA = 2  # exponent of the prediction's error
BETA = 4  # exponent of the distance to a centre


def focal_loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Penalty-reduced focal loss of CornerNet (arXiv 1808.01244, eq. 1), from logits.

    In fp32 whatever the input, and finite for any finite logit: log(sigmoid) is never formed from a rounded sigmoid.

    Args:
        logits: ``[B, C, H, W]``.
        target: ``[B, C, H, W]`` in 0..1, exactly 1 at centres.

    Returns:
        The sum over all cells, and the number of centres (0 in a frame without objects), both ``[]``.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = logits.float(), target.float()
        softplus = functional.softplus(logits)  # -log(1 - p)
        probability = torch.sigmoid(logits)
        positive = target == 1
        reduction = (1 - target).pow(BETA)  # exactly 0 at centres
        negative = (softplus * probability.square() * reduction).sum()
        at_centre, error = logits[positive], 1 - probability[positive]
        found = (functional.softplus(-at_centre) * error.pow(ALPHA)).sum()
        return negative + found, positive.sum().float()


def gather_cells(maps: Tensor, cell: Tensor) -> Tensor:
    """The columns of ``maps`` at ``cell``.

    Args:
        maps: ``[B, C, H, W]``, any memory format.
        cell: ``[M]`` int64, ``(frame * H + row) * W + column``.

    Returns:
        ``[M, C]``.
    """
    size = maps.shape[2] * maps.shape[3]
    return maps.flatten(2)[cell // size, :, cell % size]


def l1_loss(predicted: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """L1 at the objects, summed over codes.

    Args:
        predicted: ``[M, D]``, gathered at the objects' cells.
        values: ``[M, D]``.
        mask: ``[M, D]``, 0 where a value is unknown (velocity).

    Returns:
        The sum, and the number of objects ``M``, both ``[]`` fp32.
    """
    difference = (predicted.float() - values).abs() * mask
    return difference.sum(), torch.tensor(float(len(values)), device=predicted.device)
