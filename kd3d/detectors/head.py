"""CenterPoint's head (arXiv:2006.11275): a shared convolution, then per task one branch per quantity."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd3d.detectors.blocks import head_conv
from kd3d.runtime.heads import HEAD_NAMES, TaskMaps

HEATMAP_BIAS = -2.19  # sigmoid(-2.19) = 0.1: few false alarms at the start keep the focal loss small


class Branch(nn.Module):
    """Hidden 3x3 convolution, norm, ReLU; then a 3x3 convolution to ``outputs`` channels."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = head_conv(inputs, hidden)
        self.out = nn.Conv2d(hidden, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, outputs, H, W]``."""
        return self.out(self.hidden(x))


class CenterHead(nn.Module):
    """Dense maps of heatmaps and box parameters.

    Args:
        inputs: channels of the neck.
        task_classes: number of classes of each task.
        branches: regression branches and their channels.
        shared_channels: width of the shared convolution.
        branch_channels: hidden width of each branch.
    """

    def __init__(
        self,
        inputs: int,
        *,
        task_classes: Sequence[int],
        branches: Sequence[tuple[str, int]],
        shared_channels: int,
        branch_channels: int,
    ) -> None:
        super().__init__()
        self.shared = head_conv(inputs, shared_channels)
        self.tasks = nn.ModuleList()
        for classes in task_classes:
            sizes = [*branches, ("hm", classes)]
            made = {name: Branch(shared_channels, branch_channels, channels) for name, channels in sizes}
            self.tasks.append(nn.ModuleDict(made))
        self._initialise()

    def _initialise(self) -> None:
        for task in self.tasks:
            assert isinstance(task, nn.ModuleDict)
            for name, branch in task.items():
                assert isinstance(branch, Branch)
                if name == "hm":
                    _fill(branch.out.bias, HEATMAP_BIAS)
                    continue
                for conv in (branch.hidden.conv, branch.out):
                    nn.init.kaiming_normal_(conv.weight)
                    _fill(conv.bias, 0.0)

    def forward(self, neck: Tensor) -> tuple[TaskMaps, ...]:
        """``[B, C, H, W]`` to the maps of each task, each ``[B, channels, H, W]``."""
        x = self.shared(neck)
        found = []
        for task in self.tasks:
            assert isinstance(task, nn.ModuleDict)
            found.append(TaskMaps(**{name: task[name](x) if name in task else None for name in HEAD_NAMES}))
        return tuple(found)


def _fill(bias: Tensor | None, value: float) -> None:
    assert bias is not None
    nn.init.constant_(bias, value)
