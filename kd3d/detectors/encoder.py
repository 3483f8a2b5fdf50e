"""The pillar encoder: PointNet over the points of each pillar (PointPillars, arXiv:1812.05784)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from kd3d.detectors.blocks import TRUNK_EPS, TRUNK_MOMENTUM


class PointLayer(nn.Module):
    """A linear map and batch norm over points; the activation is left to the encoder."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm: nn.Module = nn.BatchNorm1d(outputs, eps=TRUNK_EPS, momentum=TRUNK_MOMENTUM)

    def forward(self, points: Tensor) -> Tensor:
        """``[M, D]`` to ``[M, C]``."""
        return self.norm(self.linear(points))


class PillarEncoder(nn.Module):
    """Decorated points to one vector per pillar.

    Args:
        inputs: channels of a decorated point.
        filters: output width of each layer; every layer but the last puts out half of it and appends the pillar's
            maximum.
        mode: ``hard``: unused slots are zero rows that take part in batch norm and maximum, as in OpenPCDet's PillarVFE
            (a model trained that way relies on it). ``dynamic``: they count for nothing, as in DynPillarVFE.
    """

    def __init__(self, inputs: int, filters: Sequence[int], mode: Literal["hard", "dynamic"]) -> None:
        super().__init__()
        self.mode = mode
        last = len(filters) - 1
        layers, width = [], inputs
        for index, filters_i in enumerate(filters):
            layers.append(PointLayer(width, filters_i if index == last else filters_i // 2))
            width = filters_i
        self.layers = nn.ModuleList(layers)
        self.out_channels = width

    def forward(self, features: Tensor, counts: Tensor) -> Tensor:
        """Encode padded pillars.

        Args:
            features: ``[P, N, D]`` float, zero where a slot is unused.
            counts: ``[P]`` integer, used slots.

        Returns:
            ``[P, C]``, not negative.
        """
        pillars, slots = features.shape[0], features.shape[1]
        used = None
        if self.mode == "dynamic":
            used = (torch.arange(slots, device=features.device) < counts[:, None])[..., None]
        x = features
        for index, layer in enumerate(self.layers):
            x = layer(x.reshape(pillars * slots, x.shape[2]))
            x = x.view(pillars, slots, x.shape[1])
            if used is not None:
                x = x * used.to(x.dtype)  # zero never beats the maximum of what ReLU lets through
            if index == len(self.layers) - 1:
                break
            x = torch.relu(x)
            x = torch.cat([x, self._highest(x)[:, None].expand(-1, slots, -1)], dim=2)
        return torch.relu(self._highest(x))  # ReLU after the maximum is the same and touches N times less

    def _highest(self, x: Tensor) -> Tensor:
        """The maximum over slots, ``[P, N, C]`` to ``[P, C]``.

        Values are the same either way. ``max`` (OpenPCDet's) knows its indices, so that forward and backward take half
        the time of ``amax``; ``amax`` is the faster one without gradients, and the one that exports as ReduceMax alone.
        Their gradients differ only on ties, and slots that tie are alike: to the weights it is the same.
        """
        return x.max(1).values if self.training else x.amax(1)

    def forward_flat(self, features: Tensor, pillar: Tensor, pillars: int) -> Tensor:
        """Encode points without padding (``dynamic`` only).

        Args:
            features: ``[M, D]`` float.
            pillar: ``[M]`` int64, the pillar of each point.
            pillars: how many there are.

        Returns:
            ``[pillars, C]``, not negative.
        """
        x = features
        for index, layer in enumerate(self.layers):
            x = torch.relu(layer(x))
            place = pillar[:, None].expand(-1, x.shape[1])
            highest = x.new_zeros((pillars, x.shape[1])).scatter_reduce(0, place, x, "amax", include_self=True)
            if index == len(self.layers) - 1:
                break
            x = torch.cat([x, highest[pillar]], dim=1)
        return highest
