"""Networks with weights as training leaves them, without training: norms that have seen data, scores above 0.3."""

from dataclasses import replace

import torch

from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.presets import preset
from kd3d.spec import BevBackboneSpec, PillarEncoderSpec
from kd3d.spec.anchor import AnchorHeadSpec
from tests.support.tiny_anchor import anchor_module, anchor_spec

TINY = preset("world-centerpoint-pillar-tiny")
VOXELS = preset("world-centerpoint-voxel-tiny")
_CLASSES = TINY.head.classes

FIVE = {
    "pillars": TINY,
    # other head, other decoding: circle suppression, the best class of each cell, no search for peaks
    "two-tasks-two-layer-encoder": replace(
        TINY,
        encoder=PillarEncoderSpec((16, 16), max_points=6, max_pillars=2000),
        head=replace(TINY.head, tasks=(_CLASSES[:4], _CLASSES[4:]), velocity=False),
        decode=replace(
            TINY.decode, peak_kernel=1, top_k_rule="cell", nms="circle", nms_threshold=(4.0, 0.25), score_threshold=0.1
        ),
    ),
    # uneven strides, a branch that shrinks, pillars of any number of points
    "three-levels-dynamic-pillars": replace(
        TINY,
        encoder=PillarEncoderSpec((16,), max_points=6, max_pillars=2000, mode="dynamic"),
        backbone=BevBackboneSpec((1, 2, 2), (0, 1, 0), (16, 16, 24), (0.5, 1.0, 2.0), (8, 8, 8)),
    ),
    "voxels": VOXELS,
    "anchors": anchor_spec(),
}
"""Five networks that differ in encoder, backbone, head and decoding."""


def trained_like(spec, seed=0) -> Model:
    """A detector of random weights whose boxes are worth a comparison."""
    if isinstance(spec.head, AnchorHeadSpec):
        return Model(spec, anchor_module(spec, seed))
    torch.manual_seed(seed)
    module = build(spec).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
            part.bias.data.normal_(0, 0.2)
    for task in module.head.tasks:
        task["hm"].out.weight.data *= 20
    return Model(spec, module)
