"""Augmentation of points and boxes: paste, flips, rotation and scaling in the ground plane."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kd3d.datasets.sample import Sample
from kd3d.errors import UsageError
from kd3d.geometry.boxes import Boxes3D, Floats

if TYPE_CHECKING:
    from kd3d.datasets.paste import SampleDatabase


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training frame; the default is nothing.

    Args:
        flip_x: negate x with probability one half.
        flip_y: negate y with probability one half (the only flip that makes sense where all is ahead, as in KITTI).
        rotation_rad: rotate about z by an angle drawn evenly from plus or minus this.
        scale: lowest and highest factor of all lengths.
        paste: class names with the number of boxes to fill each frame up to, from the sample database.
    """

    flip_x: bool = False
    flip_y: bool = False
    rotation_rad: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    paste: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if self.rotation_rad < 0:
            raise UsageError(f"rotation_rad must be 0 or more, not {self.rotation_rad:g}.")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UsageError(f"scale must be (low, high) with 0 < low <= high, not {self.scale}.")
        if any(count < 0 for _, count in self.paste):
            raise UsageError(f"paste counts must be 0 or more, not {dict(self.paste)}.")


def augment(
    sample: Sample, rng: np.random.Generator, settings: Augmentation, database: SampleDatabase | None = None
) -> Sample:
    """A changed copy of ``sample``; its ``augmentation`` says how to get back.

    Pasting comes first, so that pasted objects are flipped, rotated and scaled with the frame. ``lidar2image``
    follows, so that a crop to the image keeps the same points; poses and camera views stay those of the recorded
    frame and apply after the inverse of ``augmentation``.

    Raises:
        UsageError: ``settings.paste`` is given without a database, or with a class that is not in the data.
    """
    if settings.paste:
        if database is None:
            raise UsageError("objects are to be pasted, but there is no sample database. Build one, or set paste=().")
        sample = database.paste(sample, rng, settings.paste)
    mirror_x = settings.flip_x and rng.random() < 0.5
    mirror_y = settings.flip_y and rng.random() < 0.5
    angle = float(rng.uniform(-settings.rotation_rad, settings.rotation_rad))
    scale = float(rng.uniform(*settings.scale))
    return transform(sample, mirror_x=mirror_x, mirror_y=mirror_y, angle_rad=angle, scale=scale)


def transform(sample: Sample, *, mirror_x: bool, mirror_y: bool, angle_rad: float, scale: float) -> Sample:
    """Mirror, then rotate about z, then scale the points and boxes of a sample."""
    signs = np.array([-1.0 if mirror_x else 1.0, -1.0 if mirror_y else 1.0])
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    plane = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag(signs)
    matrix = np.eye(4)
    matrix[:2, :2] = plane
    matrix[2, 2] = scale
    points = sample.points.copy()
    xyz = [sample.features.index(axis) for axis in "xyz"]
    points[:, xyz] = sample.points[:, xyz] @ matrix[:3, :3].T
    boxes = None if sample.boxes is None else _transform_boxes(sample.boxes, matrix, scale=scale)
    image = None if sample.lidar2image is None else sample.lidar2image @ np.linalg.inv(matrix)
    return replace(sample, points=points, boxes=boxes, augmentation=matrix @ sample.augmentation, lidar2image=image)


def _transform_boxes(boxes: Boxes3D, matrix: Floats, *, scale: float) -> Boxes3D:
    array = boxes.array.astype(np.float64)
    plane = matrix[:2, :2]
    array[:, :3] = array[:, :3] @ matrix[:3, :3].T
    array[:, 3:6] *= scale
    heading = np.stack([np.cos(array[:, 6]), np.sin(array[:, 6])], axis=1) @ plane.T
    array[:, 6] = np.arctan2(heading[:, 1], heading[:, 0])
    # A scaled frame is a scaled world in the same time, so speeds scale too. NaN stays NaN.
    array[:, 7:9] = array[:, 7:9] @ plane.T
    return Boxes3D(array.astype(np.float32), boxes.label, boxes.score)
