"""Detectors for the generated world: nuScenes format, ten classes, a 32-ring LiDAR, two past sweeps."""

from __future__ import annotations

from typing import Literal

from kd3d.detectors.preset_nuscenes import CENTER_LIMIT_M, SIX_TASKS
from kd3d.geometry.grid import BevGrid
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec

NUSCENES_CLASSES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)
_POINTS = PointSpec(features=("x", "y", "z", "intensity", "time_lag"), sweeps=2, intensity="unit")


def _grid(cell_m: float) -> BevGrid:
    return BevGrid(-51.2, -51.2, -5.0, 51.2, 51.2, 3.0, cell_m)


def _decode(tasks: int, *, top_k: int) -> DecodeSpec:
    # One task holds all ten classes, and suppression ignores classes within a task: it would leave one hypothesis where
    # truck, bus and trailer compete. Peaks of 3x3 cells are suppression enough (docs/log.md).
    nms: Literal["none", "rotate"] = "none" if tasks == 1 else "rotate"
    return DecodeSpec(
        peak_kernel=3,
        top_k=top_k,
        score_threshold=0.05,
        center_limit_m=CENTER_LIMIT_M,
        nms=nms,
        nms_threshold=(0.2,) * tasks,
        nms_pre=top_k,
        nms_post=top_k,
    )


def world_teacher() -> DetectorSpec:
    """0.4 m, 256 x 256 cells, output at 0.8 m; under 6 GMAC and 2 M parameters."""
    return DetectorSpec(
        name="world-centerpoint-pillar",
        points=_POINTS,
        grid=_grid(0.4),
        encoder=PillarEncoderSpec(filters=(48,), max_points=10, max_pillars=16000),
        backbone=BevBackboneSpec(
            strides=(2, 2, 2),
            layers=(2, 3, 3),
            channels=(48, 96, 160),
            up_strides=(1.0, 2.0, 4.0),
            up_channels=(48, 48, 48),
        ),
        head=CenterHeadSpec(tasks=(NUSCENES_CLASSES,), shared_channels=48, branch_channels=32, velocity=True),
        decode=_decode(1, top_k=200),
    )


def world_student() -> DetectorSpec:
    """The teacher's grid with narrower, shallower stages: 23 % of its MACs."""
    return DetectorSpec(
        name="world-centerpoint-pillar-small",
        points=_POINTS,
        grid=_grid(0.4),
        encoder=PillarEncoderSpec(filters=(24,), max_points=10, max_pillars=16000),
        backbone=BevBackboneSpec(
            strides=(2, 2, 2),
            layers=(1, 2, 2),
            channels=(24, 48, 80),
            up_strides=(1.0, 2.0, 4.0),
            up_channels=(24, 24, 24),
        ),
        head=CenterHeadSpec(tasks=(NUSCENES_CLASSES,), shared_channels=28, branch_channels=16, velocity=True),
        decode=_decode(1, top_k=200),
    )


def world_six_tasks() -> DetectorSpec:
    """The six tasks of nuScenes on a small trunk: a head as real detectors have it."""
    return DetectorSpec(
        name="world-centerpoint-pillar-six-tasks",
        points=_POINTS,
        grid=_grid(0.4),
        encoder=PillarEncoderSpec(filters=(32,), max_points=10, max_pillars=16000),
        backbone=BevBackboneSpec(
            strides=(2, 2, 2),
            layers=(1, 2, 2),
            channels=(32, 64, 96),
            up_strides=(1.0, 2.0, 4.0),
            up_channels=(32, 32, 32),
        ),
        head=CenterHeadSpec(tasks=SIX_TASKS, shared_channels=32, branch_channels=16, velocity=True),
        decode=_decode(len(SIX_TASKS), top_k=100),
    )


def world_tiny() -> DetectorSpec:
    """For tests: 64 x 64 cells of 1.6 m, output at the same resolution."""
    return DetectorSpec(
        name="world-centerpoint-pillar-tiny",
        points=_POINTS,
        grid=_grid(1.6),
        encoder=PillarEncoderSpec(filters=(16,), max_points=10, max_pillars=3000),
        backbone=BevBackboneSpec(
            strides=(1, 2), layers=(1, 1), channels=(16, 32), up_strides=(1.0, 2.0), up_channels=(16, 16)
        ),
        head=CenterHeadSpec(tasks=(NUSCENES_CLASSES,), shared_channels=16, branch_channels=16, velocity=True),
        decode=_decode(1, top_k=100),
    )
