"""Boxes between KITTI's camera frame and the LiDAR frame, and their outlines in the image."""

from __future__ import annotations

import numpy as np

from kd3d.datasets.kitti_files import KittiAnnotation, KittiCalibration
from kd3d.geometry.boxes import Boxes3D, Floats

_NEAR_M = 0.1  # corners behind this plane are moved onto it before they are projected


def wrap_angle(angle: Floats) -> Floats:
    """The same angles in [-pi, pi)."""
    return np.asarray((np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi)


def lidar_boxes(annotation: KittiAnnotation, calibration: KittiCalibration, classes: tuple[str, ...]) -> Boxes3D:
    """The objects whose type is one of ``classes``, as boxes in the LiDAR frame with unknown velocity."""
    keep = np.flatnonzero(annotation.is_type(*classes))
    center = annotation.location_m[keep].copy()
    center[:, 1] -= annotation.size_m[keep, 2] / 2
    rect2lidar = np.linalg.inv(calibration.lidar2rect)
    array = np.full((len(keep), 9), np.nan)
    array[:, :3] = center @ rect2lidar[:3, :3].T + rect2lidar[:3, 3]
    array[:, 3:6] = annotation.size_m[keep]
    array[:, 6] = wrap_angle(-annotation.rotation_y[keep] - np.pi / 2)
    return Boxes3D(array.astype(np.float32), np.array([classes.index(annotation.types[i]) for i in keep], np.int64))


def camera_annotation(
    boxes: Boxes3D, calibration: KittiCalibration, *, classes: tuple[str, ...], image_size_px: tuple[int, int]
) -> KittiAnnotation:
    """Detections in the LiDAR frame as KITTI objects, with their outline in the image; inverse of ``lidar_boxes``.

    A box that is not in the image at all gets an outline of no height, which the evaluation ignores.
    """
    array = boxes.array.astype(np.float64)
    center = array[:, :3] @ calibration.lidar2rect[:3, :3].T + calibration.lidar2rect[:3, 3]
    location = center.copy()
    location[:, 1] += array[:, 5] / 2
    rotation_y = wrap_angle(-array[:, 6] - np.pi / 2)
    return KittiAnnotation(
        types=tuple(classes[label] for label in boxes.label),
        truncation=np.zeros(len(boxes)),
        occlusion=np.zeros(len(boxes), np.int64),
        alpha=wrap_angle(rotation_y - np.arctan2(location[:, 0], location[:, 2])),
        bbox_px=image_outline(location, array[:, 3:6], rotation_y, calibration.p2, image_size_px=image_size_px),
        size_m=array[:, 3:6],
        location_m=location,
        rotation_y=rotation_y,
        score=None if boxes.score is None else boxes.score.astype(np.float64),
    )


def camera_corners(location: Floats, size: Floats, rotation_y: Floats) -> Floats:
    """``[N, 8, 3]`` corners in the rectified camera frame; ``location`` is the centre of the bottom face."""
    along = np.array([1, 1, -1, -1, 1, 1, -1, -1]) * size[:, :1] / 2
    across = np.array([1, -1, -1, 1, 1, -1, -1, 1]) * size[:, 1:2] / 2
    down = np.array([0, 0, 0, 0, -1, -1, -1, -1]) * size[:, 2:3]
    cos, sin = np.cos(rotation_y)[:, None], np.sin(rotation_y)[:, None]
    corners = np.stack([along * cos + across * sin, down, across * cos - along * sin], axis=-1)
    return np.asarray(corners + location[:, None])


def image_outline(
    location: Floats, size: Floats, rotation_y: Floats, p2: Floats, *, image_size_px: tuple[int, int]
) -> Floats:
    """``[N, 4]`` left, top, right, bottom of the projected corners, cut at the image's borders."""
    corners = camera_corners(location, size, rotation_y)
    behind = (corners[..., 2] <= _NEAR_M).all(axis=1)
    corners[..., 2] = np.maximum(corners[..., 2], _NEAR_M)
    homogeneous = corners @ p2[:, :3].T + p2[:, 3]
    pixels = homogeneous[..., :2] / homogeneous[..., 2:]
    limit = np.array(image_size_px, np.float64) - 1
    outline = np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1) if len(pixels) else np.zeros((0, 4))
    outline = np.clip(outline, 0, np.concatenate([limit, limit]))
    outline[behind] = 0.0
    # Beside the image both borders are cut to the same column: nothing of the box is seen, so no height either.
    outside = outline[:, 2] <= outline[:, 0]
    outline[outside, 3] = outline[outside, 1]
    return outline
