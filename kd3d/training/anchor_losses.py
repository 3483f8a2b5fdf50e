"""The losses of SECOND (Yan et al., Sensors 2018) and PointPillars (arXiv 1812.05784), as (sum, mass).

The one division is in ``kd3d.training.objective.total``: by the anchors that stand for objects in all frames of a step.
OpenPCDet divides frame by frame and takes the mean of the frames; mmdetection3d divides as here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kd3d.runtime.heads import AnchorMaps
from kd3d.training.anchor_targets import AnchorBatchTargets

ALPHA = 0.25  # of the focal loss: share of the positives; its exponent gamma is 2
BETA = 1 / 9  # residual at which the smooth L1 loss becomes linear
YAW = 6  # its place among the box codes


@dataclass(frozen=True)
class AnchorWeights:
    """Weights of an anchor head's losses, those of SECOND.

    Args:
        cls: of the focal loss.
        box: of the smooth L1 loss.
        direction: of the heading bins' cross-entropy.
        codes: of x, y, z, length, width, height and yaw within the smooth L1 loss.
    """

    cls: float = 1.0
    box: float = 2.0
    direction: float = 0.2
    codes: tuple[float, float, float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


def anchor_losses(maps: AnchorMaps, targets: AnchorBatchTargets, weights: AnchorWeights) -> list[tuple[Tensor, Tensor]]:
    """Focal, box and direction loss of a batch, unweighted but for ``weights.codes``; (sum, mass) each, in fp32.

    Args:
        maps: ``[B, C, H, W]``.
        targets: on the device of the maps.
        weights: of the box codes.
    """
    anchors = targets.label.shape[1] // (maps.cls.shape[2] * maps.cls.shape[3])
    with torch.autocast(maps.cls.device.type, enabled=False):
        mass = torch.tensor(float(len(targets.place)), device=maps.cls.device)
        focal = sigmoid_focal_loss(by_anchor(maps.cls, anchors), label_maps(targets.label, maps.cls, anchors))
        boxes = gather_anchors(maps.box, targets.place, anchors)
        apart = code_differences(boxes, targets.codes) * boxes.new_tensor(weights.codes)
        bins = gather_anchors(maps.dir, targets.place, anchors)
        heading = functional.cross_entropy(bins, targets.direction, reduction="sum")
        return [(focal, mass), (smooth_l1(apart).sum(), mass), (heading, mass)]


def sigmoid_focal_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Focal loss (arXiv 1708.02002, eq. 5) of one sigmoid per class, summed; from logits, finite for any finite one.

    Args:
        logits: ``[B, A, C, H, W]`` fp32.
        label: ``[B, A, H, W]``: class + 1; 0 for background; negative for anchors that do not count.

    Returns:
        ``sum -alpha_t (1 - p_t)^2 log p_t``, ``[]``.
    """
    classes = torch.arange(1, logits.shape[2] + 1, device=label.device).view(-1, 1, 1)
    wanted = label[:, :, None] == classes
    background = (label[:, :, None] >= 0) & ~wanted
    probability, softplus = logits.sigmoid(), functional.softplus(logits)  # softplus: -log(1 - p)
    missed = ((1 - ALPHA) * softplus * probability.square() * background).sum()
    there = logits[wanted]
    return missed + (ALPHA * functional.softplus(-there) * (1 - there.sigmoid()).square()).sum()


def code_differences(predicted: Tensor, wanted: Tensor) -> Tensor:
    """``[M, 7]`` differences of box codes; of yaw the sine of the difference, so that a box and its reverse are equal
    (SECOND, eq. 5): the heading bins tell them apart.
    """
    apart = predicted - wanted
    return torch.cat([apart[:, :YAW], apart[:, YAW:].sin()], 1)


def smooth_l1(apart: Tensor) -> Tensor:
    """``0.5 d^2 / beta`` below ``beta``, else ``|d| - beta / 2``, elementwise."""
    return functional.smooth_l1_loss(apart, torch.zeros_like(apart), beta=BETA, reduction="none")


def by_anchor(maps: Tensor, anchors: int) -> Tensor:
    """``[B, A * codes, H, W]`` as fp32 ``[B, A, codes, H, W]``."""
    frames, channels, height, width = maps.shape
    return maps.float().reshape(frames, anchors, channels // anchors, height, width)


def label_maps(label: Tensor, like: Tensor, anchors: int) -> Tensor:
    """``[B, H * W * A]`` as ``[B, A, H, W]``, ``H`` and ``W`` those of ``like``."""
    return label.reshape(len(label), like.shape[2], like.shape[3], anchors).movedim(-1, 1)


def gather_anchors(maps: Tensor, place: Tensor, anchors: int) -> Tensor:
    """The codes of single anchors.

    Args:
        maps: ``[B, A * codes, H, W]``.
        place: ``[M]`` int64, ``frame * N + (row * W + column) * A + anchor``.
        anchors: ``A``.

    Returns:
        ``[M, codes]`` fp32.
    """
    area = maps.shape[2] * maps.shape[3]
    cells, anchor = place // anchors, place % anchors
    found: Tensor = by_anchor(maps, anchors).flatten(3)[cells // area, anchor, :, cells % area]
    return found
