"""From a specification to a network: the only way there."""

from __future__ import annotations

from kd3d.detectors.anchor_head import AnchorHead
from kd3d.detectors.backbone import BevBackbone
from kd3d.detectors.encoder import PillarEncoder
from kd3d.detectors.head import CenterHead
from kd3d.detectors.model import CenterPoint
from kd3d.detectors.voxel_encoder import VoxelEncoder
from kd3d.spec import AnchorHeadSpec, CenterHeadSpec, DetectorSpec, VoxelEncoderSpec


def build(spec: DetectorSpec) -> CenterPoint:
    """A freshly initialised network for ``spec``, in training mode, on the CPU.

    Initial weights come from torch's global generator: seed it (``torch.manual_seed``) to repeat them.
    """
    trunk = spec.backbone
    backbone = BevBackbone(
        spec.bev_channels,
        strides=trunk.strides,
        layers=trunk.layers,
        channels=trunk.channels,
        up_strides=trunk.up_strides,
        up_channels=trunk.up_channels,
    )
    return CenterPoint(spec, encoder=_encoder(spec), backbone=backbone, head=_head(spec.head, backbone.out_channels))


def _head(outputs: CenterHeadSpec | AnchorHeadSpec, inputs: int) -> CenterHead | AnchorHead:
    if isinstance(outputs, AnchorHeadSpec):
        return AnchorHead(inputs, maps=outputs.maps)
    return CenterHead(
        inputs,
        task_classes=[len(task) for task in outputs.tasks],
        branches=outputs.branches,
        shared_channels=outputs.shared_channels,
        branch_channels=outputs.branch_channels,
    )


def _encoder(spec: DetectorSpec) -> PillarEncoder | VoxelEncoder:
    encoder = spec.encoder
    if not isinstance(encoder, VoxelEncoderSpec):
        return PillarEncoder(spec.point_inputs, encoder.filters, encoder.mode)
    return VoxelEncoder(
        spec.point_inputs,
        channels=encoder.channels,
        blocks=encoder.blocks,
        input_channels=encoder.input_channels,
        out_channels=encoder.out_channels,
        residual=encoder.block == "residual",
        bias=encoder.block_bias,
    )
