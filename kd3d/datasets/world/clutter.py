"""Things that are not annotated: surroundings, and look-alikes that a detector can mistake for objects."""

from __future__ import annotations

import numpy as np

from kd3d.datasets.world.paint import BARK, METAL, SIGN, leaves, masonry, paint
from kd3d.datasets.world.primitives import Material, Shape

Rng = np.random.Generator


def tree(rng: Rng) -> Shape:
    """Trunk and one to three crowns."""
    shape, green = Shape(), leaves(rng, porosity=0.35)
    trunk, radius = float(rng.uniform(1.8, 3.2)), float(rng.uniform(0.2, 0.45))
    shape.frustum((0, 0, trunk / 2 + 0.3), (radius, radius, trunk + 0.6), BARK, taper=0.8)
    for _ in range(int(rng.integers(1, 4))):
        wide, tall = float(rng.uniform(2.2, 4.5)), float(rng.uniform(2.0, 4.0))
        x, y = rng.uniform(-0.8, 0.8, 2)
        shape.ellipsoid((float(x), float(y), trunk + tall / 2), (wide, wide, tall), green)
    return shape


def bush(rng: Rng) -> Shape:
    """As wide and tall as one to three people."""
    shape, green = Shape(), leaves(rng, porosity=0.12)
    wide, tall = float(rng.uniform(0.5, 1.4)), float(rng.uniform(0.8, 1.9))
    shape.ellipsoid((0, 0, tall / 2), (wide, wide * float(rng.uniform(0.7, 1.2)), tall), green)
    return shape


def hedge(rng: Rng) -> Shape:
    """Long and low, like a row of barriers."""
    shape = Shape()
    length, tall = float(rng.uniform(2.0, 9.0)), float(rng.uniform(0.7, 1.5))
    shape.box((0, 0, tall / 2), (length, float(rng.uniform(0.4, 0.9)), tall), leaves(rng, porosity=0.08))
    return shape


def wall(rng: Rng) -> Shape:
    """A low wall or planter."""
    shape = Shape()
    length, tall = float(rng.uniform(1.6, 7.0)), float(rng.uniform(0.5, 1.3))
    shape.box((0, 0, tall / 2), (length, float(rng.uniform(0.25, 0.6)), tall), masonry(rng))
    return shape


def fence(rng: Rng) -> Shape:
    """Mesh between posts; most rays pass."""
    shape = Shape()
    length, tall = float(rng.uniform(5.0, 14.0)), float(rng.uniform(1.1, 2.0))
    mesh = Material(0.4, (0.45, 0.47, 0.45), porosity=0.6, fuzz_m=0.02)
    shape.box((0, 0, tall / 2), (length, 0.05, tall), mesh)
    for x in np.arange(-length / 2, length / 2 + 0.1, 2.5):
        shape.box((float(x), 0, tall / 2), (0.1, 0.1, tall), METAL)
    return shape


def lamp(rng: Rng) -> Shape:
    """Lamp post or traffic-light mast."""
    shape = Shape()
    tall, thick = float(rng.uniform(4.5, 8.0)), float(rng.uniform(0.14, 0.26))
    shape.frustum((0, 0, tall / 2), (thick, thick, tall), METAL, taper=0.7)
    if rng.random() < 0.4:
        shape.box((0, 0, 2.9), (0.3, 0.3, 0.9), paint(rng))
    return shape


def sign(rng: Rng) -> Shape:
    """Plate on a pole."""
    shape = Shape()
    tall = float(rng.uniform(1.8, 3.0))
    shape.frustum((0, 0, tall / 2), (0.08, 0.08, tall), METAL)
    shape.box((0.06, 0, tall - 0.3), (0.04, float(rng.uniform(0.5, 0.9)), float(rng.uniform(0.5, 0.8))), SIGN)
    return shape


def bollard(rng: Rng) -> Shape:
    """Post of a cone's or a child's size; sometimes tapered like a cone."""
    shape = Shape()
    tall, thick = float(rng.uniform(0.6, 1.3)), float(rng.uniform(0.15, 0.4))
    shape.frustum((0, 0, tall / 2), (thick, thick, tall), paint(rng, high=0.9), taper=float(rng.uniform(0.4, 1.0)))
    return shape


def bin_or_post(rng: Rng) -> Shape:
    """Litter bin, cabinet, parking meter or column of a pedestrian's size."""
    shape, body = Shape(), paint(rng)
    wide, deep, tall = float(rng.uniform(0.4, 0.8)), float(rng.uniform(0.35, 0.7)), float(rng.uniform(0.9, 1.85))
    style = rng.random()
    if style < 0.4:
        shape.box((0, 0, tall / 2), (wide, deep, tall), body)
    elif style < 0.7:
        shape.frustum((0, 0, tall / 2), (wide * 0.8, wide * 0.8, tall), body, taper=float(rng.uniform(0.8, 1.2)))
    else:
        shape.frustum((0, 0, tall / 2), (0.12, 0.12, tall), METAL)
        shape.ellipsoid((0, 0, tall - 0.3), (0.4, 0.4, 0.6), body)
    return shape


def dumpster(rng: Rng) -> Shape:
    """Skip or stall, from small to car-sized, sometimes with a raised back like a cabin."""
    shape, body = Shape(), paint(rng)
    length, wide, tall = float(rng.uniform(1.8, 5.0)), float(rng.uniform(1.2, 2.1)), float(rng.uniform(1.0, 1.5))
    shape.box((0, 0, tall / 2), (length, wide, tall), body)
    if rng.random() < 0.4:
        shape.box((-0.15 * length, 0, tall + 0.2), (0.5 * length, wide * 0.8, 0.4), body)
    return shape


def container(rng: Rng) -> Shape:
    """Freight container or site hut of a truck's or trailer's size, sometimes on blocks."""
    shape, body = Shape(), paint(rng, low=0.2)
    length, tall = float(rng.choice([5.0, 6.1, 6.1, 12.2])), float(rng.uniform(2.4, 3.0))
    gap = 0.0 if rng.random() < 0.6 else float(rng.uniform(0.3, 0.9))
    shape.box((0, 0, gap + tall / 2), (length, 2.44, tall), body)
    if gap:
        for x in (-0.4, 0.4):
            shape.box((x * length, 0, gap / 2), (0.5, 2.2, gap), masonry(rng))
    return shape


def shelter(rng: Rng) -> Shape:
    """Bus shelter or kiosk."""
    shape, frame = Shape(), paint(rng)
    length, tall = float(rng.uniform(2.5, 4.5)), float(rng.uniform(2.3, 2.8))
    shape.box((0, 0, tall - 0.08), (length, 1.7, 0.16), frame)
    shape.box((0, 0.75, tall / 2), (length, 0.06, tall), Material(0.2, (0.5, 0.55, 0.58), porosity=0.5))
    shape.box((-length / 2 + 0.1, 0, tall / 2), (0.12, 1.5, tall), frame)
    shape.box((0.2, 0.4, 0.3), (length * 0.6, 0.45, 0.5), frame)
    return shape


def rack(rng: Rng) -> Shape:
    """Hoops and railings, a bicycle's size."""
    shape = Shape()
    length = float(rng.uniform(1.2, 2.4))
    shape.box((0, 0, 0.85), (length, 0.06, 0.08), METAL)
    for x in (-0.48, 0.0, 0.48):
        shape.box((x * length, 0, 0.45), (0.08, 0.08, 0.9), METAL)
    return shape


def building(rng: Rng, length: float, depth: float) -> Shape:
    """A house: body, windows set into the street side, sometimes a porch."""
    shape, brick = Shape(), masonry(rng)
    tall = float(rng.uniform(4.0, 14.0))
    shape.box((0, 0, tall / 2), (length, depth, tall), brick)
    glass = Material(0.08, (0.25, 0.3, 0.35))
    for level in range(int(tall // 3.2)):
        shape.box((0, 0, 1.7 + 3.2 * level), (length * 0.85, depth + 0.08, 1.3), glass)
    if rng.random() < 0.4:
        shape.box((float(rng.uniform(-0.3, 0.3)) * length, 0, 1.4), (2.5, depth + 2.0, 2.8), masonry(rng))
    return shape
