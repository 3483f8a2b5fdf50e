"""The tiny CenterPoint-Voxel with weights that put boxes in some places and not in others."""

import torch

from kd3d.detectors.presets import preset
from tests.support.trained import trained_like


def voxel_model(name="world-centerpoint-voxel-tiny"):
    """Random weights, norms as training leaves them, and heatmaps that rise above 0.3 here and there."""
    with torch.random.fork_rng(devices=[]):
        return trained_like(preset(name), seed=3)
