"""The anchor head of SECOND and PointPillars (arXiv:1812.05784): three 1x1 convolutions of the neck."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from kd3d.runtime.heads import AnchorMaps

_PRIOR = 0.01  # of a foreground anchor: the focal loss begins small


class AnchorHead(nn.Module):
    """Class logits, box residuals and heading bins of every anchor.

    Args:
        inputs: channels of the neck.
        maps: names (``cls``, ``box``, ``dir``) and channels.
    """

    def __init__(self, inputs: int, *, maps: Sequence[tuple[str, int]]) -> None:
        super().__init__()
        for name, channels in maps:
            self.add_module(name, nn.Conv2d(inputs, channels, 1))
        for name, value in (("cls", -math.log((1 - _PRIOR) / _PRIOR)), ("box", None)):
            conv = self.get_submodule(name)
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            if value is None:
                nn.init.normal_(conv.weight, std=0.001)
            else:
                nn.init.constant_(conv.bias, value)

    def forward(self, neck: Tensor) -> tuple[AnchorMaps, ...]:
        """``[B, C, H, W]`` to the maps of the one task."""
        return (AnchorMaps(*(self.get_submodule(name)(neck) for name in AnchorMaps._fields)),)
