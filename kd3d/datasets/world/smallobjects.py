"""Shapes of pedestrians, cones and barriers."""

from __future__ import annotations

import numpy as np

from kd3d.datasets.world.paint import SIGN, TYRE, cloth, masonry, paint
from kd3d.datasets.world.primitives import Material, Shape

Size = tuple[float, float, float]


def pedestrian(size: Size, rng: np.random.Generator, *, sitting: bool = False) -> Shape:
    """Legs, torso and head, slimmer than the box (labellers leave room for arms and stride); some carry a bag."""
    length, width, height = size
    shape, coat, trousers = Shape(), cloth(rng), cloth(rng)
    wide = width * float(rng.uniform(0.58, 0.78))
    deep = length * float(rng.uniform(0.35, 0.55))
    hip = height * (0.35 if sitting else 0.47)
    stride = 0.0 if sitting else float(rng.uniform(0.0, 0.18)) * length
    for side in (-1, 1):
        shape.frustum((side * stride, side * wide * 0.2, hip / 2), (0.17, 0.16, hip), trousers, taper=1.15)
    if sitting:
        shape.box((0.15 * length, 0, hip), (0.5 * length, wide * 0.8, 0.16), trousers)
    shape.ellipsoid((0, 0, hip + 0.19 * height), (deep, wide, 0.5 * height), coat)
    shape.ellipsoid((0.02, 0, height - 0.13), (0.21, 0.19, 0.26), Material(0.35, (0.55, 0.42, 0.34)))
    if rng.random() < 0.25:
        shape.box((-deep * 0.6, 0, hip + 0.25 * height), (0.2, wide * 0.6, 0.4), paint(rng))
    return shape


def cone(size: Size, rng: np.random.Generator) -> Shape:
    """A cone on a flat foot, or a slim post with the same foot."""
    length, width, height = size
    shape, plastic = Shape(), paint(rng, low=0.3, high=0.9)
    shape.box((0, 0, 0.03), (length, width, 0.06), TYRE)
    slim = 0.45 if rng.random() < 0.2 else 0.75
    shape.frustum((0, 0, height / 2), (length * slim, width * slim, height), plastic, taper=0.22 if slim > 0.5 else 0.8)
    shape.frustum((0, 0, height * 0.6), (length * 0.5, width * 0.5, 0.14), SIGN, taper=0.8)
    return shape


def barrier(size: Size, rng: np.random.Generator) -> Shape:
    """A solid Jersey barrier, or boards on two feet that rays pass under. ``size`` is thickness, width, height."""
    thick, wide, height = size
    shape = Shape()
    if rng.random() < 0.75:
        body = masonry(rng) if rng.random() < 0.5 else paint(rng, low=0.3, high=0.8)
        shape.box((0, 0, 0.18 * height), (thick, wide, 0.36 * height), body)
        shape.box((0, 0, 0.6 * height), (thick * 0.42, wide, 0.8 * height), body)
        return shape
    board, foot = paint(rng, low=0.4, high=0.95), paint(rng)
    for side in (-1, 1):
        shape.box((0, side * wide * 0.42, 0.06), (thick, 0.1, 0.12), foot)
        shape.box((0, side * wide * 0.42, height / 2), (0.08, 0.08, height), foot)
    shape.box((0, 0, height * 0.82), (0.1, wide, height * 0.3), board)
    shape.box((0, 0, height * 0.42), (0.1, wide, height * 0.22), board)
    return shape
