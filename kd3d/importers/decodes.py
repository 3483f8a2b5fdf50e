"""How each framework turns maps into boxes where no configuration says otherwise, as in its published models."""

from __future__ import annotations

from kd3d.importers.container import Framework
from kd3d.spec import DecodeSpec

NUSCENES_LIMIT_M = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
EVERYWHERE_M = (-1e6, -1e6, -1e6, 1e6, 1e6, 1e6)  # no limit on centres
EVERY_CELL = 2**24  # no top-K
CIRCLE_M2 = (4.0, 12.0, 10.0, 1.0, 0.85, 0.175)


def center_decode(framework: Framework, tasks: int, range_m: tuple[float, ...]) -> DecodeSpec:
    """Of a centre head.

    Args:
        framework: whose.
        tasks: one task is Waymo's edition, several are nuScenes'.
        range_m: of the detector; a single task's centres end at Waymo's 80 m, or where a longer range ends.
    """
    one = tasks == 1
    x0, y0, _, x1, y1, _ = range_m
    waymo = (min(x0, -80.0), min(y0, -80.0), -10.0, max(x1, 80.0), max(y1, 80.0), 10.0)
    return DecodeSpec(
        peak_kernel=1,
        top_k=EVERY_CELL if framework == "det3d" else 500,
        score_threshold=0.1,
        center_limit_m=waymo if one else NUSCENES_LIMIT_M,
        nms="rotate",
        nms_threshold=((0.7 if one else 0.2),) * tasks,
        nms_pre=4096 if one else 1000,
        nms_post=500 if one else 83,
        top_k_rule="cell" if framework == "det3d" else "class",
    )


def anchor_decode(framework: Framework) -> DecodeSpec:
    """Of an anchor head: OpenPCDet's classes suppress each other, mmdetection3d's only themselves."""
    by_class = framework == "mmdet3d"
    return DecodeSpec(
        peak_kernel=1,
        top_k=100 if by_class else 4096,
        score_threshold=0.1,
        center_limit_m=EVERYWHERE_M,
        nms="rotate_by_class" if by_class else "rotate",
        nms_threshold=(0.01,),
        nms_pre=EVERY_CELL if by_class else 4096,
        nms_post=50 if by_class else 500,
        top_k_rule="cell",
    )
