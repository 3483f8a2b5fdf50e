"""Batch norm folded into the layer before it: fewer passes over memory, and nothing for a runtime to fuse."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from kd3d.detectors.blocks import ConvNorm
from kd3d.detectors.encoder import PointLayer
from kd3d.detectors.model import CenterPoint
from kd3d.detectors.sparse import PackedSparseConv, SparseConv
from kd3d.detectors.voxel_encoder import SparseConvNorm


def folded(module: CenterPoint) -> CenterPoint:
    """A copy of ``module`` in evaluation mode whose norms are identities; ``module`` stays as it was.

    The result gives the same maps to rounding. It cannot be trained further as the same architecture.
    """
    twin = copy.deepcopy(module).eval().requires_grad_(False)
    for part in twin.modules():
        if isinstance(part, ConvNorm) and isinstance(part.norm, nn.BatchNorm2d):
            _fold(part.conv, part.norm, outputs_first=not isinstance(part.conv, nn.ConvTranspose2d))
            part.norm = nn.Identity()
        elif isinstance(part, PointLayer) and isinstance(part.norm, nn.BatchNorm1d):
            _fold(part.linear, part.norm, outputs_first=True)
            part.norm = nn.Identity()
        elif isinstance(part, SparseConvNorm) and isinstance(part.norm, nn.BatchNorm1d):
            _fold(part.conv, part.norm, outputs_first=True)
            part.norm = nn.Identity()
    return twin


def packed(module: CenterPoint) -> CenterPoint:
    """``folded``, and every sparse convolution one gather and one product with one matrix: what exports have."""
    twin = folded(module)
    for part in twin.modules():
        if isinstance(part, SparseConvNorm) and isinstance(part.conv, SparseConv):
            part.conv = PackedSparseConv(part.conv)
    return twin


def _fold(layer: nn.Module, norm: nn.BatchNorm1d | nn.BatchNorm2d, *, outputs_first: bool) -> None:
    assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, SparseConv))
    assert norm.running_mean is not None and norm.running_var is not None
    # In double precision: the variance may be tiny, and the product is rounded once.
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.double()
    shape = [-1 if axis == (0 if outputs_first else 1) else 1 for axis in range(layer.weight.ndim)]
    layer.weight = _frozen(layer.weight.double() * scale.view(shape), layer.weight)
    layer.bias = _frozen((bias - norm.running_mean.double()) * scale + norm.bias.double(), layer.weight)


def _frozen(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype).contiguous(), requires_grad=False)
