"""Voxel detectors for the generated world; points, classes and decoding are those of its pillar detectors."""

from __future__ import annotations

from dataclasses import replace

from kd3d.detectors.preset_world import world_teacher
from kd3d.geometry.grid import BevGrid
from kd3d.spec import BevBackboneSpec, DetectorSpec, VoxelEncoderSpec


def world_voxel_small() -> DetectorSpec:
    """Voxels of 0.2 x 0.2 x 0.4 m, and the teacher's BEV map of 128 x 128 cells of 0.8 m."""
    base = world_teacher()
    return replace(
        base,
        name="world-centerpoint-voxel-small",
        grid=_grid(0.2),
        encoder=_encoder((16, 32, 48), (1, 2, 2), 48, voxels=40000),
        backbone=BevBackboneSpec(
            strides=(1, 2), layers=(2, 2), channels=(48, 80), up_strides=(1.0, 2.0), up_channels=(48, 48)
        ),
        head=replace(base.center_head, shared_channels=32, branch_channels=16),
    )


def world_voxel_tiny() -> DetectorSpec:
    """For tests: voxels of 0.4 m, 64 x 64 cells of 1.6 m on the BEV map."""
    base = world_teacher()
    return replace(
        base,
        name="world-centerpoint-voxel-tiny",
        grid=_grid(0.4),
        encoder=_encoder((8, 16, 16), (1, 1, 1), 16, voxels=20000),
        backbone=BevBackboneSpec(
            strides=(1, 2), layers=(1, 1), channels=(16, 32), up_strides=(1.0, 2.0), up_channels=(16, 16)
        ),
        head=replace(base.center_head, shared_channels=16, branch_channels=16),
        decode=replace(base.decode, top_k=100),
    )


def _grid(cell_m: float) -> BevGrid:
    return BevGrid(-51.2, -51.2, -5.0, 51.2, 51.2, 3.0, cell_m)


def _encoder(channels: tuple[int, ...], blocks: tuple[int, ...], out: int, *, voxels: int) -> VoxelEncoderSpec:
    return VoxelEncoderSpec(
        height_m=0.4,
        channels=channels,
        blocks=blocks,
        input_channels=channels[0],
        out_channels=out,
        z_paddings=(1, 0),
        max_points=5,
        max_voxels=voxels,
    )
