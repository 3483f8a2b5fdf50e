"""Shapes of the vehicle classes. Each fills its annotated box and differs from the others inside it."""

from __future__ import annotations

import numpy as np

from kd3d.datasets.world.paint import GLASS, METAL, TYRE, cloth, paint
from kd3d.datasets.world.primitives import Material, Shape

Size = tuple[float, float, float]


def car(size: Size, rng: np.random.Generator) -> Shape:
    """Body with bonnet and cabin; the cabin's length varies from coupe to van."""
    length, width, height = size
    shape, body = Shape(), paint(rng)
    van = height > 1.95
    clearance = 0.2
    belt = height * float(rng.uniform(0.52, 0.62))
    shape.box((0, 0, (clearance + belt) / 2), (length, width * 0.97, belt - clearance), body)
    cabin = length * float(rng.uniform(0.72, 0.85) if van else rng.uniform(0.42, 0.6))
    rear = 0.02 if van else float(rng.uniform(0.02, 0.18))
    middle = -length / 2 + rear * length + cabin / 2
    shape.box((middle, 0, (belt + height) / 2), (cabin, width * 0.86, height - belt), body if van else GLASS)
    if not van:
        shape.box((middle, 0, height - 0.05), (cabin * 0.75, width * 0.78, 0.1), body)
    _wheels(shape, size, axles=(-0.3, 0.3), diameter=0.62)
    return shape


def truck(size: Size, rng: np.random.Generator) -> Shape:
    """Cab and load: a closed body, a flat bed, a tank, or a pickup's low bed."""
    length, width, height = size
    shape, cab_paint, load = Shape(), paint(rng), paint(rng, low=0.2, high=0.8)
    cab = min(float(rng.uniform(1.6, 2.3)), length * 0.38)
    style = rng.random()
    cab_height = height if length < 6 or style > 0.55 else height * float(rng.uniform(0.72, 0.88))
    shape.box((length / 2 - cab / 2, 0, (0.35 + cab_height) / 2), (cab, width * 0.92, cab_height - 0.35), cab_paint)
    bed = length - cab - 0.25
    middle = -length / 2 + bed / 2
    if style < 0.55:
        shape.box((middle, 0, (0.75 + height) / 2), (bed, width, height - 0.75), load)
    elif style < 0.75 and length > 5.5:
        tank = min(width, height - 0.9)
        shape.ellipsoid((middle, 0, 0.9 + tank / 2), (bed, width, tank), METAL)
    else:
        wall = float(rng.uniform(0.25, 0.45)) * height
        shape.box((middle, 0, (0.5 + wall + 0.35) / 2), (bed, width, max(wall - 0.15, 0.2)), load)
        if rng.random() < 0.5:
            cargo = 0.5 * (height - wall)
            shape.box((middle, 0, wall + 0.35 + cargo / 2), (bed * 0.6, width * 0.7, cargo), paint(rng))
    shape.box((-cab / 2, 0, 0.6), (length - cab, width * 0.4, 0.3), METAL)
    _wheels(shape, size, axles=(-0.32, 0.36), diameter=0.9)
    return shape


def bus(size: Size, rng: np.random.Generator) -> Shape:
    """One long box with a low floor, a band of windows and sometimes roof units."""
    length, width, height = size
    shape, body = Shape(), paint(rng)
    roof = height - 0.25
    shape.box((0, 0, (0.28 + 1.15) / 2), (length, width, 0.87), body)
    shape.box((0, 0, (1.15 + roof - 0.5) / 2), (length * 0.99, width * 0.97, roof - 0.5 - 1.15), GLASS)
    shape.box((0, 0, roof - 0.25), (length, width, 0.5), body)
    shape.box((float(rng.uniform(-0.3, 0.2)) * length, 0, height - 0.125), (2.4, width * 0.7, 0.25), METAL)
    _wheels(shape, size, axles=(-0.28, 0.32), diameter=0.95)
    return shape


def trailer(size: Size, rng: np.random.Generator) -> Shape:
    """Long load high above the ground, axles at the rear, a gap in front."""
    length, width, height = size
    shape, load = Shape(), paint(rng, low=0.2, high=0.8)
    floor = min(1.15, 0.4 * height)
    style = rng.random()
    if style < 0.7:
        shape.box((0, 0, (floor + height) / 2), (length, width, height - floor), load)
    else:
        shape.box((0, 0, floor + 0.1), (length, width, 0.25), METAL)
        for number, x in enumerate(np.linspace(-0.35, 0.35, int(rng.integers(2, 4)))):
            tall = (height - floor - 0.22) * (1.0 if number == 0 else float(rng.uniform(0.6, 1.0)))
            shape.box((x * length, 0, floor + 0.22 + tall / 2), (length * 0.24, width * 0.9, tall), load)
    shape.box((-length * 0.3, 0, floor / 2), (min(3.2, length * 0.3), width * 0.9, floor * 0.85), TYRE)
    shape.box((length * 0.25, 0, floor / 2), (0.25, width * 0.6, floor), METAL)
    return shape


def construction_vehicle(size: Size, rng: np.random.Generator) -> Shape:
    """Tracks or wheels, a cab to one side, and an arm or a bucket in front."""
    length, width, height = size
    shape, body = Shape(), paint(rng, low=0.2, high=0.8)
    chassis = min(0.95, 0.35 * height)
    hull = length * float(rng.uniform(0.5, 0.62))
    back = -length / 2 + hull / 2
    for side in (-1, 1):
        shape.box((back, side * width * 0.39, chassis / 2), (hull, width * 0.22, chassis), TYRE)
    shape.box((back - 0.08 * hull, 0, chassis + 0.22 * height), (hull * 0.84, width * 0.8, 0.36 * height), body)
    shape.box(
        (back + 0.1 * hull, width * 0.17, (chassis + height) / 2), (hull * 0.36, width * 0.4, height - chassis), GLASS
    )
    reach = length - hull
    front = length / 2
    if rng.random() < 0.55:
        rise = height * 0.92
        steps = 4
        for step in range(steps):
            along = front - reach * (1.1 - step / steps) + 0.1 * reach
            up = rise * (0.55 + 0.4 * np.sin(np.pi * (step + 0.8) / steps))
            shape.box((along, -width * 0.1, up), (reach / steps * 1.2, width * 0.16, 0.42), body)
        shape.box((front - 0.3, -width * 0.1, rise * 0.3), (0.35, width * 0.15, rise * 0.55), body)
        shape.box((front - 0.4, -width * 0.1, 0.3), (0.8, width * 0.4, 0.6), METAL)
    else:
        shape.box((front - reach * 0.6, 0, 0.3 * height), (reach * 0.9, width * 0.5, 0.22 * height), body)
        shape.box((front - 0.35, 0, 0.42), (0.7, width, 0.8), METAL)
    return shape


def cycle(size: Size, rng: np.random.Generator, *, rider: bool, motor: bool) -> Shape:
    """Two wheels and a frame; a motorcycle has an engine block and fairing; a rider sits on top."""
    length, width, height = size
    shape, frame = Shape(), paint(rng)
    wheel = min(0.66, length * 0.36)
    thin = 0.14 if motor else 0.06
    for side in (-1, 1):
        shape.box((side * (length - wheel) / 2, 0, wheel / 2), (wheel * 0.86, thin, wheel * 0.9), TYRE)
    seat = min(0.85, 0.62 * height) if rider else 0.75 * height
    if motor:
        shape.box((0, 0, 0.45), (length * 0.5, 0.32, 0.45), METAL)
        shape.box((-0.12 * length, 0, seat - 0.06), (length * 0.4, 0.3, 0.16), frame)
        shape.box((length * 0.28, 0, seat), (0.22, width * 0.55, 0.42), frame)
    else:
        shape.box((0, 0, 0.55), (length * 0.5, 0.07, 0.3), frame)
        shape.box((-0.12 * length, 0, seat - 0.05), (0.26, 0.16, 0.1), TYRE)
    bar = min(1.05, height - 0.05) if rider else height - 0.04
    shape.box((length * 0.25, 0, bar), (0.08, width, 0.08), METAL)
    if rider:
        coat = cloth(rng)
        torso = height - 0.24 - seat
        shape.ellipsoid((-0.05 * length, 0, seat + torso / 2), (0.42, 0.46, torso), coat)
        shape.ellipsoid((0.02 * length, 0, height - 0.14), (0.25, 0.22, 0.28), cloth(rng))
        shape.box((0.05 * length, 0, seat - 0.15), (0.5, 0.36, 0.22), cloth(rng))
    return shape


def _wheels(shape: Shape, size: Size, *, axles: tuple[float, ...], diameter: float) -> None:
    length, width, _ = size
    rubber: Material = TYRE
    for x in axles:
        shape.box((x * length, 0, diameter / 2), (diameter * 0.9, width * 0.94, diameter), rubber)
