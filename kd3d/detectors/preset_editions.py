"""Published detectors as other frameworks have them: mmdetection3d's and det3d's editions of OpenPCDet's."""

from __future__ import annotations

import math
from dataclasses import replace

from kd3d.detectors.preset_kitti_anchor import kitti_pointpillars, kitti_second
from kd3d.detectors.preset_nuscenes import nuscenes_pillar
from kd3d.geometry.grid import BevGrid
from kd3d.spec import AnchorHeadSpec, BevBackboneSpec, DetectorSpec, PillarEncoderSpec, VoxelEncoderSpec

_EVERY = 2**24  # no cap


def nuscenes_pillar_mmdet3d() -> DetectorSpec:
    """mmdetection3d's ``centerpoint_pillar02``: one point layer, hard pillars; 5,982,854 parameters there.

    kd3d counts 2,368 more: its head convolutions have biases, which are zero after an import.
    """
    base = nuscenes_pillar()
    encoder = PillarEncoderSpec(filters=(64,), max_points=20, max_pillars=40000)
    return replace(base, name=f"{base.name}-mmdet3d", encoder=encoder)


def nuscenes_pillar_det3d() -> DetectorSpec:
    """det3d's ``nusc_centerpoint_pp_02voxel_two_pfn``: hard pillars, best class of every cell, no top-K."""
    base = nuscenes_pillar()
    encoder = PillarEncoderSpec(filters=(64, 64), max_points=20, max_pillars=60000)
    decode = replace(base.decode, top_k=_EVERY, top_k_rule="cell")
    return replace(base, name=f"{base.name}-det3d", encoder=encoder, decode=decode)


def kitti_pointpillars_mmdet3d() -> DetectorSpec:
    """mmdetection3d's PointPillars: Pedestrian, Cyclist, Car; anchors at cell centres; classes suppress themselves."""
    return _kitti_mmdet3d(kitti_pointpillars(), align_center=True)


def kitti_second_mmdet3d() -> DetectorSpec:
    """mmdetection3d's SECOND: Pedestrian, Cyclist, Car; anchors from edge to edge; classes suppress themselves."""
    return _kitti_mmdet3d(kitti_second(""), align_center=False)


def _kitti_mmdet3d(base: DetectorSpec, *, align_center: bool) -> DetectorSpec:
    head = base.head
    assert isinstance(head, AnchorHeadSpec)
    car, pedestrian, cyclist = head.anchors
    ours = replace(
        head, anchors=(pedestrian, cyclist, car), direction_offset_rad=-math.pi / 2, align_center=align_center
    )
    decode = replace(base.decode, top_k=100, nms_pre=_EVERY, nms_post=50, nms="rotate_by_class")
    return replace(base, name=f"{base.name}-mmdet3d", head=ours, decode=decode)


def nuscenes_voxel(suffix: str, *, cell_m: float, half_range_m: float, max_voxels: int) -> DetectorSpec:
    """OpenPCDet's CenterPoint-Voxel for nuScenes: six tasks, velocity, ten sweeps, voxels 0.2 m high.

    Args:
        suffix: of the name.
        cell_m: side of a voxel.
        half_range_m: the range is plus and minus this in x and y.
        max_voxels: per frame.
    """
    return replace(
        nuscenes_pillar(),
        name=f"nuscenes-centerpoint-voxel{suffix}",
        grid=BevGrid(-half_range_m, -half_range_m, -5.0, half_range_m, half_range_m, 3.0, cell_m),
        encoder=VoxelEncoderSpec(
            height_m=0.2, channels=(16, 32, 64, 128), blocks=(2, 2, 2, 2), max_points=10, max_voxels=max_voxels
        ),
        backbone=BevBackboneSpec(
            strides=(1, 2), layers=(5, 5), channels=(128, 256), up_strides=(1.0, 2.0), up_channels=(256, 256)
        ),
    )
