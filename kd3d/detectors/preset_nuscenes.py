"""CenterPoint-Pillar for nuScenes, after OpenPCDet's ``cbgs_dyn_pp_centerpoint``: 5,989,030 parameters."""

from __future__ import annotations

from kd3d.geometry.grid import BevGrid
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec

SIX_TASKS: tuple[tuple[str, ...], ...] = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)
CENTER_LIMIT_M = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)


def nuscenes_pillar() -> DetectorSpec:
    """Six tasks, velocity, ten sweeps, 0.2 m, dynamic pillars."""
    return DetectorSpec(
        name="nuscenes-centerpoint-pillar",
        points=PointSpec(features=("x", "y", "z", "intensity", "time_lag"), sweeps=9),
        grid=BevGrid(-51.2, -51.2, -5.0, 51.2, 51.2, 3.0, 0.2),
        encoder=PillarEncoderSpec(filters=(64, 64), max_points=20, max_pillars=30000, mode="dynamic"),
        backbone=BevBackboneSpec(
            strides=(2, 2, 2),
            layers=(3, 5, 5),
            channels=(64, 128, 256),
            up_strides=(0.5, 1.0, 2.0),
            up_channels=(128, 128, 128),
        ),
        head=CenterHeadSpec(tasks=SIX_TASKS, velocity=True),
        decode=DecodeSpec(
            peak_kernel=1,
            top_k=500,
            score_threshold=0.1,
            center_limit_m=CENTER_LIMIT_M,
            nms="rotate",
            nms_threshold=(0.2,) * len(SIX_TASKS),
            nms_pre=1000,
            nms_post=83,
        ),
    )
