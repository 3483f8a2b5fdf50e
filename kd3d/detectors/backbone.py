"""The BEV backbone: strided levels, each brought to one resolution, concatenated (SECOND's and OpenPCDet's)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd3d.detectors.blocks import trunk_conv, up_branch


class BevBackbone(nn.Module):
    """Levels of 3x3 convolutions with an up branch each.

    Args:
        inputs: channels of the canvas.
        strides: of the first convolution of each level.
        layers: further convolutions per level.
        channels: per level.
        up_strides: per branch.
        up_channels: per branch.
    """

    def __init__(
        self,
        inputs: int,
        *,
        strides: Sequence[int],
        layers: Sequence[int],
        channels: Sequence[int],
        up_strides: Sequence[float],
        up_channels: Sequence[int],
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        self.ups = nn.ModuleList()
        for stride, extra, width, up, up_width in zip(strides, layers, channels, up_strides, up_channels, strict=True):
            convs = [trunk_conv(inputs, width, stride=stride), *(trunk_conv(width, width) for _ in range(extra))]
            self.levels.append(nn.Sequential(*convs))
            self.ups.append(up_branch(width, up_width, up))
            inputs = width
        self.out_channels = sum(up_channels)

    def forward(self, canvas: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run all levels.

        Args:
            canvas: ``[B, C, ny, nx]``.

        Returns:
            The output of each level, and the concatenated branches ``[B, sum(up_channels), H, W]``.
        """
        found, x = [], canvas
        for level in self.levels:
            x = level(x)
            found.append(x)
        raised = [up(tensor) for up, tensor in zip(self.ups, found, strict=True)]
        return found, torch.cat(raised, dim=1)
