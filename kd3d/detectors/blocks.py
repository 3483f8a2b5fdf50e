"""Convolution, norm, activation: the pieces every BEV network is made of. They take numbers, never specifications."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TRUNK_EPS, TRUNK_MOMENTUM = 1e-3, 0.01  # encoder and backbone, in all three frameworks that kd3d imports from
HEAD_EPS, HEAD_MOMENTUM = 1e-5, 0.1  # the head keeps torch's defaults there


class ConvNorm(nn.Module):
    """A convolution (plain or transposed), batch norm and ReLU.

    ``fold`` turns the norm into an identity, so ``norm`` is a plain module here.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv = conv
        self.norm: nn.Module = norm

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C', H', W']``."""
        return torch.relu(self.norm(self.conv(x)))


def trunk_conv(inputs: int, outputs: int, *, stride: int = 1) -> ConvNorm:
    """A 3x3 convolution of the backbone, without bias."""
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return ConvNorm(conv, nn.BatchNorm2d(outputs, eps=TRUNK_EPS, momentum=TRUNK_MOMENTUM))


def up_branch(inputs: int, outputs: int, stride: float) -> ConvNorm:
    """The branch that brings a level to the output's resolution.

    Args:
        inputs: channels of the level.
        outputs: channels of the branch.
        stride: 1 or more is a transposed convolution of that kernel and stride (also 1, as in OpenPCDet);
            below 1 a convolution with kernel and stride ``1 / stride``.
    """
    conv: nn.Conv2d | nn.ConvTranspose2d
    if stride >= 1:
        size = int(stride)
        conv = nn.ConvTranspose2d(inputs, outputs, size, stride=size, bias=False)
    else:
        size = round(1 / stride)
        conv = nn.Conv2d(inputs, outputs, size, stride=size, bias=False)
    return ConvNorm(conv, nn.BatchNorm2d(outputs, eps=TRUNK_EPS, momentum=TRUNK_MOMENTUM))


def head_conv(inputs: int, outputs: int) -> ConvNorm:
    """A 3x3 convolution of the head, with bias and torch's default batch norm."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=True)
    return ConvNorm(conv, nn.BatchNorm2d(outputs, eps=HEAD_EPS, momentum=HEAD_MOMENTUM))


def scatter_to_bev(pillars: Tensor, cells: Tensor, *, batch_size: int, ny: int, nx: int) -> Tensor:
    """Place pillar features on the bird's-eye-view canvas.

    Args:
        pillars: ``[P, C]``.
        cells: ``[P]`` int64, ``frame * ny * nx + row * nx + column``; padding rows carry ``batch_size * ny * nx``.
        batch_size: frames.
        ny: rows of the grid.
        nx: columns of the grid.

    Returns:
        ``[B, C, ny, nx]``, channels-last in memory: the canvas is written row by row and never copied.
    """
    area = batch_size * ny * nx
    # One spare row takes the padding, so the graph needs no mask, no loop and no count of real pillars.
    canvas = pillars.new_zeros((area + 1, pillars.shape[1])).index_put((cells,), pillars)
    return canvas[:area].view(batch_size, ny, nx, pillars.shape[1]).permute(0, 3, 1, 2)
