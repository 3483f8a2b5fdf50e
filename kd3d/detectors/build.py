"""From a specification to a network: the only way there."""

from __future__ import annotations

from kd3d.detectors.backbone import BevBackbone
from kd3d.detectors.encoder import PillarEncoder
from kd3d.detectors.head import CenterHead
from kd3d.detectors.model import CenterPoint
from kd3d.spec import DetectorSpec


def build(spec: DetectorSpec) -> CenterPoint:
    """A freshly initialised network for ``spec``, in training mode, on the CPU.

    Initial weights come from torch's global generator: seed it (``torch.manual_seed``) to repeat them.
    """
    encoder = PillarEncoder(spec.point_inputs, spec.encoder.filters, spec.encoder.mode)
    trunk = spec.backbone
    backbone = BevBackbone(
        encoder.out_channels,
        strides=trunk.strides,
        layers=trunk.layers,
        channels=trunk.channels,
        up_strides=trunk.up_strides,
        up_channels=trunk.up_channels,
    )
    head = CenterHead(
        backbone.out_channels,
        task_classes=[len(task) for task in spec.head.tasks],
        branches=spec.head.branches,
        shared_channels=spec.head.shared_channels,
        branch_channels=spec.head.branch_channels,
    )
    return CenterPoint(spec, encoder=encoder, backbone=backbone, head=head)
