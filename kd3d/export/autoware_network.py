"""The two networks of Autoware's layout: a detector's own, with the node's conventions folded into its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd3d.detectors.backbone import BevBackbone
from kd3d.detectors.blocks import ConvNorm
from kd3d.detectors.encoder import PillarEncoder, PointLayer
from kd3d.detectors.fold import folded
from kd3d.detectors.head import Branch, CenterHead
from kd3d.detectors.model import CenterPoint
from kd3d.export.autoware_rules import Decoration
from kd3d.runtime.autoware_rules import PILLAR_CHANNELS, POINTS_PER_PILLAR


class VoxelEncoder(nn.Module):
    """Points as the node decorates them to pillar vectors.

    The node says nothing of which slots are used; unused ones are rows of zeros, and no used one is: a point at its
    pillar's centre is not at the origin's. So where they must count for nothing, that is read from the rows.

    Args:
        module: the detector; its norms must be folded.
        decoration: what the node feeds.
        slots: points per pillar that the network looks at, the first ones.
    """

    shift: Tensor

    def __init__(self, module: CenterPoint, decoration: Decoration, *, slots: int) -> None:
        super().__init__()
        self.slots = slots
        assert isinstance(module.encoder, PillarEncoder)
        self.masked = module.encoder.mode == "dynamic"
        linears = []
        for layer in module.encoder.layers:
            assert isinstance(layer, PointLayer)
            linears.append(layer.linear)
        shift = _fold_decoration(linears[0], decoration)
        _pad_outputs(linears[-1], PILLAR_CHANNELS)
        missing = linears[0].out_features - len(shift)
        self.register_buffer("shift", torch.cat([shift, shift.new_zeros(missing)]))
        self.shifted = bool(shift.any())
        self.layers = nn.ModuleList(linears)

    def forward(self, input_features: Tensor) -> Tensor:
        """``[V, 32, F]`` to ``[V, 32]``, not negative."""
        x = input_features if self.slots >= POINTS_PER_PILLAR else input_features[:, : self.slots]
        used = (x.abs().amax(2, keepdim=True) > 0).to(x.dtype) if self.masked or self.shifted else None
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if used is not None and self.shifted and index == 0:
                x = x + used * self.shift
            if used is not None and self.masked:
                x = x * used
            if index == len(self.layers) - 1:
                break
            x = torch.relu(x)
            x = torch.cat([x, x.amax(1, keepdim=True).expand(-1, x.shape[1], -1)], dim=2)
        return torch.relu(x.amax(1))


class BackboneNeckHead(nn.Module):
    """The canvas to the node's six maps.

    Args:
        module: the detector, of one task; its norms must be folded.
    """

    def __init__(self, module: CenterPoint) -> None:
        super().__init__()
        self.backbone: BevBackbone = module.backbone
        assert isinstance(module.head, CenterHead)  # the export asks for one first
        self.head: CenterHead = module.head
        _pad_inputs(module.backbone, PILLAR_CHANNELS)
        task = self._task()
        _reorder(_branch(task, "dim").out, (1, 0, 2), 1.0)
        _reorder(_branch(task, "rot").out, (1, 0), -1.0)
        if "vel" not in task:  # the node binds six outputs, whether it publishes velocities or not
            self.still = nn.Conv2d(module.spec.center_head.shared_channels, 2, 1).requires_grad_(False)
            nn.init.zeros_(self.still.weight)
            assert self.still.bias is not None
            nn.init.zeros_(self.still.bias)

    def forward(self, spatial_features: Tensor) -> tuple[Tensor, ...]:
        """``[1, 32, Y, X]`` to heatmap logits, offset, height, log (w, l, h), -(cos, sin) of yaw, velocity."""
        _, neck = self.backbone(spatial_features)
        x = self.head.shared(neck)
        task = self._task()
        velocity = task["vel"](x) if "vel" in task else self.still(x)
        return (*(task[name](x) for name in ("hm", "center", "center_z", "dim", "rot")), velocity)

    def _task(self) -> nn.ModuleDict:
        task = self.head.tasks[0]
        assert isinstance(task, nn.ModuleDict)
        return task


def autoware_networks(module: CenterPoint, decoration: Decoration) -> tuple[VoxelEncoder, BackboneNeckHead]:
    """Both networks, in evaluation mode on the CPU; ``module`` stays as it is."""
    twin = folded(module).float().cpu()
    slots = POINTS_PER_PILLAR
    if module.encoder.mode == "hard":  # a full pillar has no empty row: the network was trained to rely on that
        slots = min(slots, module.spec.pillar_encoder.max_points)
    return VoxelEncoder(twin, decoration, slots=slots).eval(), BackboneNeckHead(twin).eval()


def _fold_decoration(layer: nn.Linear, decoration: Decoration) -> Tensor:
    """``W (M f + o) = (W M) f + W o``; returns ``W o``, which belongs to used rows only."""
    weight = layer.weight.double()
    matrix, offset = torch.from_numpy(decoration.matrix), torch.from_numpy(decoration.offset)
    layer.weight = _frozen(weight @ matrix)
    layer.in_features = decoration.features
    return (weight @ offset).float()


def _pad_outputs(layer: nn.Linear, width: int) -> None:
    missing = width - layer.weight.shape[0]
    assert layer.bias is not None
    layer.weight = _frozen(torch.cat([layer.weight, layer.weight.new_zeros(missing, layer.weight.shape[1])]))
    layer.bias = _frozen(torch.cat([layer.bias, layer.bias.new_zeros(missing)]))
    layer.out_features = width


def _pad_inputs(backbone: BevBackbone, width: int) -> None:
    level = backbone.levels[0]
    assert isinstance(level, nn.Sequential)
    first = level[0]
    assert isinstance(first, ConvNorm)
    conv = first.conv
    outputs, inputs, *kernel = conv.weight.shape
    conv.weight = _frozen(torch.cat([conv.weight, conv.weight.new_zeros(outputs, width - inputs, *kernel)], dim=1))
    conv.in_channels = width


def _reorder(conv: nn.Conv2d, rows: tuple[int, ...], sign: float) -> None:
    assert conv.bias is not None
    conv.weight = _frozen(conv.weight[list(rows)] * sign)
    conv.bias = _frozen(conv.bias[list(rows)] * sign)


def _branch(task: nn.ModuleDict, name: str) -> Branch:
    branch = task[name]
    assert isinstance(branch, Branch)
    return branch


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().float().contiguous(), requires_grad=False)
