"""The tiny CenterPoint-Voxel with weights that put boxes in some places and not in others."""

import torch

from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.presets import preset


def voxel_model(name="world-centerpoint-voxel-tiny"):
    """Random weights, norms as training leaves them, and heatmaps that rise above 0.3 here and there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        spec = preset(name)
        module = build(spec).eval()
        for part in module.modules():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(0.5, 2)
                part.bias.data.normal_(0, 0.2)
        for task in module.head.tasks:
            task["hm"].out.weight.data *= 20
    return Model(spec, module, {})
