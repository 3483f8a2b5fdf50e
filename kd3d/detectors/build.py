"""From a specification to a network: the only way there."""

from __future__ import annotations

from kd3d.detectors.backbone import BevBackbone
from kd3d.detectors.encoder import PillarEncoder
from kd3d.detectors.head import CenterHead
from kd3d.detectors.model import CenterPoint
from kd3d.detectors.voxel_encoder import VoxelEncoder
from kd3d.errors import UsageError
from kd3d.spec import AnchorHeadSpec, DetectorSpec, VoxelEncoderSpec


def build(spec: DetectorSpec) -> CenterPoint:
    """A freshly initialised network for ``spec``, in training mode, on the CPU.

    Initial weights come from torch's global generator: seed it (``torch.manual_seed``) to repeat them.

    Raises:
        UsageError: it has an anchor head, which has a specification and a cost but no network.
    """
    if isinstance(spec.head, AnchorHeadSpec):
        raise UsageError(
            f"{spec.name} has an anchor head: this version specifies and costs such detectors (kd3d info) but does not "
            "build their networks yet. Use a detector with a centre head; kd3d presets lists them."
        )
    trunk, outputs = spec.backbone, spec.head
    backbone = BevBackbone(
        spec.bev_channels,
        strides=trunk.strides,
        layers=trunk.layers,
        channels=trunk.channels,
        up_strides=trunk.up_strides,
        up_channels=trunk.up_channels,
    )
    head = CenterHead(
        backbone.out_channels,
        task_classes=[len(task) for task in outputs.tasks],
        branches=outputs.branches,
        shared_channels=outputs.shared_channels,
        branch_channels=outputs.branch_channels,
    )
    return CenterPoint(spec, encoder=_encoder(spec), backbone=backbone, head=head)


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
