"""Narrow detectors with anchor heads, PointPillars and SECOND, on coarse grids; their weights put boxes everywhere."""

from dataclasses import replace

import torch

from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.geometry.grid import BevGrid
from kd3d.spec import BevBackboneSpec, PillarEncoderSpec


def anchor_spec(like="kitti-pointpillars"):
    """KITTI's points, anchors and decoding over 54 x 62 cells of 1.28 m."""
    return replace(
        preset(like),
        name="tiny-pointpillars",
        grid=BevGrid(0.0, -39.68, -3.0, 69.12, 39.68, 1.0, 1.28),
        encoder=PillarEncoderSpec(filters=(8,), max_points=16, max_pillars=2000),
        backbone=BevBackboneSpec(
            strides=(1, 2), layers=(1, 1), channels=(8, 16), up_strides=(1.0, 2.0), up_channels=(8, 8)
        ),
    )


def second_spec():
    """KITTI's points, anchors and decoding over voxels of 0.32 m: 32 x 28 cells of 2.56 m."""
    whole = preset("kitti-second")
    return replace(
        whole,
        name="tiny-second",
        grid=BevGrid(0.0, -40.96, -3.0, 71.68, 40.96, 1.0, 0.32),
        encoder=replace(
            whole.encoder, channels=(8, 8, 16, 16), blocks=(1, 1, 1, 1), input_channels=8, out_channels=16,
            max_voxels=6000,
        ),
        backbone=BevBackboneSpec(
            strides=(1, 2), layers=(1, 1), channels=(16, 16), up_strides=(1.0, 2.0), up_channels=(8, 8)
        ),
    )  # fmt: skip


def anchor_module(spec, seed=0):
    """Random weights; one anchor in some hundred is above the score threshold."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(spec).eval()
        if spec.name == "tiny-second":  # its sparse layers would let nothing through
            for part in module.encoder.modules():
                if isinstance(part, torch.nn.BatchNorm1d):
                    torch.nn.init.normal_(part.weight, mean=3.0)
                    torch.nn.init.normal_(part.bias)
        torch.nn.init.normal_(module.head.cls.weight, std=1.0)
        torch.nn.init.constant_(module.head.cls.bias, -4.0)
        torch.nn.init.normal_(module.head.box.weight, std=0.05)
        torch.nn.init.normal_(module.head.dir.weight, std=0.5)
    return module


def write_model(folder, like="kitti-pointpillars"):
    """A model folder."""
    from kd3d.detectors.checkpoint import save_model

    save_model(folder, anchor_module(second_spec() if like == "kitti-second" else anchor_spec(like)), {})
    return folder
