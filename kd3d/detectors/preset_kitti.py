"""CenterPoint-Pillar for KITTI: PointPillars' range, cell and backbone with a centre head."""

from __future__ import annotations

from kd3d.geometry.grid import BevGrid
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec

CLASSES = ("Car", "Pedestrian", "Cyclist")


def _decode(grid: BevGrid) -> DecodeSpec:
    return DecodeSpec(
        peak_kernel=3,
        top_k=200,
        score_threshold=0.1,
        center_limit_m=(grid.x_min_m, grid.y_min_m, -5.0, grid.x_max_m, grid.y_max_m, 3.0),
        nms="rotate",
        nms_threshold=(0.1,),
        nms_pre=200,
        nms_post=100,
    )


def kitti_pillar() -> DetectorSpec:
    """0.16 m, 432 x 496 cells, output at 0.32 m."""
    grid = BevGrid(0.0, -39.68, -3.0, 69.12, 39.68, 1.0, 0.16)
    return DetectorSpec(
        name="kitti-centerpoint-pillar",
        points=PointSpec(camera_view_only=True),
        grid=grid,
        encoder=PillarEncoderSpec(filters=(64,), max_points=32, max_pillars=16000),
        backbone=BevBackboneSpec(
            strides=(2, 2, 2),
            layers=(3, 5, 5),
            channels=(64, 128, 256),
            up_strides=(1.0, 2.0, 4.0),
            up_channels=(128, 128, 128),
        ),
        head=CenterHeadSpec(tasks=(CLASSES,)),
        decode=_decode(grid),
    )


def kitti_pillar_small() -> DetectorSpec:
    """0.24 m, 240 x 288 cells, output at 0.48 m, to 57.6 m; narrow enough to train on a CPU."""
    grid = BevGrid(0.0, -34.56, -3.0, 57.6, 34.56, 1.0, 0.24)
    return DetectorSpec(
        name="kitti-centerpoint-pillar-small",
        points=PointSpec(camera_view_only=True),
        grid=grid,
        encoder=PillarEncoderSpec(filters=(32,), max_points=20, max_pillars=12000),
        backbone=BevBackboneSpec(
            strides=(2, 2, 2),
            layers=(2, 3, 3),
            channels=(32, 64, 128),
            up_strides=(1.0, 2.0, 4.0),
            up_channels=(32, 32, 32),
        ),
        head=CenterHeadSpec(tasks=(CLASSES,), shared_channels=32, branch_channels=24),
        decode=_decode(grid),
    )
