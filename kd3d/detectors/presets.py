"""Named specifications: published detectors, and the generated world's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kd3d.detectors.preset_editions import (
    kitti_pointpillars_mmdet3d,
    kitti_second_mmdet3d,
    nuscenes_pillar_det3d,
    nuscenes_pillar_mmdet3d,
    nuscenes_voxel,
)
from kd3d.detectors.preset_kitti import kitti_pillar, kitti_pillar_small
from kd3d.detectors.preset_kitti_anchor import kitti_pointpillars, kitti_second
from kd3d.detectors.preset_nuscenes import nuscenes_pillar
from kd3d.detectors.preset_waymo import waymo_pillar
from kd3d.detectors.preset_waymo_voxel import waymo_voxel
from kd3d.detectors.preset_world import world_six_tasks, world_student, world_teacher, world_tiny
from kd3d.detectors.preset_world_anchor import world_pointpillars_tiny
from kd3d.detectors.preset_world_voxel import world_voxel_small, world_voxel_tiny
from kd3d.errors import UsageError
from kd3d.spec import DetectorSpec

PRESETS: dict[str, Callable[[], DetectorSpec]] = {
    "waymo-centerpoint-pillar": partial(waymo_pillar, "", cell_m=0.32, half_range_m=74.24, max_points=20),
    "waymo-centerpoint-pillar-v0.4": partial(waymo_pillar, "-v0.4", cell_m=0.40, half_range_m=73.60, max_points=28),
    "waymo-centerpoint-pillar-v0.48": partial(waymo_pillar, "-v0.48", cell_m=0.48, half_range_m=74.88, max_points=36),
    "waymo-centerpoint-pillar-v0.64": partial(waymo_pillar, "-v0.64", cell_m=0.64, half_range_m=74.24, max_points=50),
    "waymo-centerpoint-pillar-pcdet": partial(waymo_pillar, "-pcdet", cell_m=0.32, half_range_m=74.88, max_points=20),
    "waymo-centerpoint-voxel": partial(waymo_voxel, "", encoder=1.0, backbone=1.0, head=1.0),
    "waymo-centerpoint-voxel-s": partial(waymo_voxel, "-s", encoder=1.0, backbone=0.5, head=0.5),
    "waymo-centerpoint-voxel-xs": partial(waymo_voxel, "-xs", encoder=0.75, backbone=0.5, head=0.5),
    "waymo-centerpoint-voxel-xxs": partial(waymo_voxel, "-xxs", encoder=0.5, backbone=0.25, head=0.25),
    "nuscenes-centerpoint-pillar": nuscenes_pillar,
    "kitti-centerpoint-pillar": kitti_pillar,
    "kitti-centerpoint-pillar-small": kitti_pillar_small,
    "kitti-pointpillars": kitti_pointpillars,
    "nuscenes-centerpoint-voxel01": partial(nuscenes_voxel, "01", cell_m=0.1, half_range_m=51.2, max_voxels=60000),
    "nuscenes-centerpoint-voxel0075": partial(
        nuscenes_voxel, "0075", cell_m=0.075, half_range_m=54.0, max_voxels=160000
    ),
    "nuscenes-centerpoint-pillar-mmdet3d": nuscenes_pillar_mmdet3d,
    "nuscenes-centerpoint-pillar-det3d": nuscenes_pillar_det3d,
    "kitti-pointpillars-mmdet3d": kitti_pointpillars_mmdet3d,
    "kitti-second": partial(kitti_second, ""),
    "kitti-second-mmdet3d": kitti_second_mmdet3d,
    "kitti-second-a": partial(kitti_second, "-a", encoder=0.75, backbone=0.5),
    "kitti-second-b": partial(kitti_second, "-b", encoder=0.5, backbone=0.5),
    "world-centerpoint-pillar": world_teacher,
    "world-centerpoint-pillar-small": world_student,
    "world-centerpoint-pillar-six-tasks": world_six_tasks,
    "world-centerpoint-pillar-tiny": world_tiny,
    "world-centerpoint-voxel-small": world_voxel_small,
    "world-centerpoint-voxel-tiny": world_voxel_tiny,
    "world-pointpillars-tiny": world_pointpillars_tiny,
}


def preset(name: str) -> DetectorSpec:
    """The specification called ``name``.

    Raises:
        UsageError: no preset has that name.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}; the presets are {', '.join(sorted(PRESETS))}.")
    return PRESETS[name]()


def describe(name: str) -> str:
    """One line about a preset: where it comes from and what it is for."""
    return _LINES[name]


_VOXEL = "SparseKD's CenterPoint-Voxel"
_SPARSEKD = "SparseKD's CenterPoint-Pillar student for Waymo"
_LINES: dict[str, str] = {
    "waymo-centerpoint-pillar": "SparseKD's CenterPoint-Pillar teacher for Waymo, 0.32 m, 464 x 464",
    "waymo-centerpoint-pillar-v0.4": f"{_SPARSEKD}, 0.40 m, 368 x 368",
    "waymo-centerpoint-pillar-v0.48": f"{_SPARSEKD}, 0.48 m, 312 x 312",
    "waymo-centerpoint-pillar-v0.64": f"{_SPARSEKD}, 0.64 m, 232 x 232",
    "waymo-centerpoint-pillar-pcdet": "OpenPCDet's CenterPoint-Pillar for Waymo, 0.32 m, 468 x 468",
    "waymo-centerpoint-voxel": f"{_VOXEL} teacher for Waymo, 0.1 x 0.1 x 0.15 m",
    "waymo-centerpoint-voxel-s": f"{_VOXEL}-S student: BEV backbone and head at half width",
    "waymo-centerpoint-voxel-xs": f"{_VOXEL}-XS student: also the 3D backbone at 3/4 width",
    "waymo-centerpoint-voxel-xxs": f"{_VOXEL}-XXS student: 3D backbone at half width, the rest at a quarter",
    "nuscenes-centerpoint-pillar": "OpenPCDet's CenterPoint-Pillar for nuScenes, 0.2 m, six tasks, velocity, 10 sweeps",
    "kitti-centerpoint-pillar": "CenterPoint-Pillar for KITTI, 0.16 m, Car, Pedestrian, Cyclist",
    "kitti-centerpoint-pillar-small": "a narrow 0.24 m detector for KITTI that trains on a CPU",
    "kitti-pointpillars": "OpenPCDet's PointPillars for KITTI, anchor head, 0.16 m",
    "nuscenes-centerpoint-voxel01": "OpenPCDet's CenterPoint-Voxel for nuScenes, 0.1 x 0.1 x 0.2 m",
    "nuscenes-centerpoint-voxel0075": "OpenPCDet's CenterPoint-Voxel for nuScenes, 0.075 x 0.075 x 0.2 m",
    "nuscenes-centerpoint-pillar-mmdet3d": "mmdetection3d's CenterPoint-Pillar for nuScenes, one point layer",
    "nuscenes-centerpoint-pillar-det3d": "det3d's CenterPoint-Pillar for nuScenes, hard pillars, no top-K",
    "kitti-pointpillars-mmdet3d": "mmdetection3d's PointPillars for KITTI: Pedestrian, Cyclist, Car",
    "kitti-second": "OpenPCDet's SECOND for KITTI, anchor head, 0.05 x 0.05 x 0.1 m",
    "kitti-second-mmdet3d": "mmdetection3d's SECOND for KITTI: Pedestrian, Cyclist, Car",
    "kitti-second-a": "SparseKD's SECOND(a) student: 3D backbone at 3/4 width, BEV backbone at half",
    "kitti-second-b": "SparseKD's SECOND(b) student: both backbones at half width",
    "world-centerpoint-pillar": "the teacher of the generated world, 0.4 m, ten classes in one task",
    "world-centerpoint-pillar-small": "a student for the generated world with about a quarter of the teacher's MACs",
    "world-centerpoint-pillar-six-tasks": "a small detector for the generated world with the six nuScenes tasks",
    "world-centerpoint-pillar-tiny": "for tests: 64 x 64 cells, trains in seconds",
    "world-centerpoint-voxel-small": "a voxel detector for the generated world, 0.2 x 0.2 x 0.4 m, trains on a CPU",
    "world-centerpoint-voxel-tiny": "for tests: voxels of 0.4 m, 64 x 64 cells, trains in seconds",
    "world-pointpillars-tiny": "for tests: anchors of ten classes on 64 x 64 cells, trains in seconds",
}
