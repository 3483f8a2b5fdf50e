"""PointPillars for the generated world, with an anchor for every class; points are those of its other detectors."""

from __future__ import annotations

from dataclasses import replace

from kd3d.detectors.preset_world import NUSCENES_CLASSES, world_tiny
from kd3d.spec import AnchorHeadSpec, AnchorSpec, DetectorSpec

# Mean sizes of the world's classes, whose objects stand on the ground 1.84 m below the LiDAR.
_SIZES_M = (
    (4.6, 1.95, 1.7),
    (7.5, 2.5, 2.9),
    (6.5, 2.8, 3.2),
    (10.7, 2.8, 3.3),
    (11.9, 2.7, 3.9),
    (0.55, 2.4, 1.0),
    (2.1, 0.75, 1.4),
    (1.7, 0.6, 1.5),
    (0.75, 0.7, 1.7),
    (0.43, 0.42, 0.9),
)
_BOTTOM_M = -1.8


def world_pointpillars_tiny() -> DetectorSpec:
    """For tests: the tiny world detector's trunk under anchors, 64 x 64 cells with 20 anchors each."""
    base = world_tiny()
    anchors = zip(NUSCENES_CLASSES, _SIZES_M, strict=True)
    return replace(
        base,
        name="world-pointpillars-tiny",
        head=AnchorHeadSpec(tuple(AnchorSpec(name, size, _BOTTOM_M) for name, size in anchors), align_center=True),
        decode=replace(base.decode, peak_kernel=1, top_k=200, nms="rotate_by_class", nms_pre=200, nms_post=100),
    )
