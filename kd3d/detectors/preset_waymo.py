"""CenterPoint-Pillar for Waymo, after SparseKD and OpenPCDet. All sizes have 5,224,043 parameters."""

from __future__ import annotations

from kd3d.geometry.grid import BevGrid
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec


def waymo_pillar(suffix: str, *, cell_m: float, half_range_m: float, max_points: int) -> DetectorSpec:
    """One of the family; they differ in cell, range and points per pillar only.

    Args:
        suffix: of the name.
        cell_m: side of a pillar.
        half_range_m: the range is plus and minus this in x and y.
        max_points: points per pillar.
    """
    grid = BevGrid(-half_range_m, -half_range_m, -2.0, half_range_m, half_range_m, 4.0, cell_m)
    return DetectorSpec(
        name=f"waymo-centerpoint-pillar{suffix}",
        points=PointSpec(features=("x", "y", "z", "intensity", "elongation"), intensity="tanh"),
        grid=grid,
        encoder=PillarEncoderSpec(filters=(64, 64), max_points=max_points, max_pillars=150000, mode="hard"),
        backbone=BevBackboneSpec(
            strides=(1, 2, 2),
            layers=(3, 5, 5),
            channels=(64, 128, 256),
            up_strides=(1.0, 2.0, 4.0),
            up_channels=(128, 128, 128),
        ),
        head=CenterHeadSpec(tasks=(("Vehicle", "Pedestrian", "Cyclist"),)),
        decode=DecodeSpec(
            peak_kernel=1,
            top_k=500,
            score_threshold=0.1,
            center_limit_m=(-80.0, -80.0, -10.0, 80.0, 80.0, 10.0),
            nms="rotate",
            nms_threshold=(0.7,),
            nms_pre=4096,
            nms_post=500,
        ),
    )
