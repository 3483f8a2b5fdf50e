"""Solids that rays can hit: oriented boxes, ellipsoids and vertical frustums, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOX, ELLIPSOID, FRUSTUM = 0, 1, 2
Vec3 = tuple[float, float, float]
Floats = NDArray[Any]


@dataclass(frozen=True)
class Material:
    """How a surface looks to the sensors.

    Args:
        reflectivity: 0..1, scales LiDAR intensity and the chance of a return.
        rgb: colour, 0..1.
        porosity: chance that a ray passes through.
        fuzz_m: depth over which returns scatter behind the surface.
    """

    reflectivity: float
    rgb: Vec3
    porosity: float = 0.0
    fuzz_m: float = 0.0


@dataclass
class Shape:
    """A list of solids in an object's own frame: origin at the bottom centre, x forward, z up, metres."""

    kind: list[int] = field(default_factory=list)
    centre: list[Vec3] = field(default_factory=list)
    half: list[Vec3] = field(default_factory=list)
    taper: list[float] = field(default_factory=list)
    material: list[Material] = field(default_factory=list)

    def box(self, centre: Vec3, size: Vec3, material: Material) -> None:
        """Add an oriented box."""
        self._add(BOX, centre, size, material, 1.0)

    def ellipsoid(self, centre: Vec3, size: Vec3, material: Material) -> None:
        """Add an ellipsoid that fills the box of ``size``."""
        self._add(ELLIPSOID, centre, size, material, 1.0)

    def frustum(self, centre: Vec3, size: Vec3, material: Material, taper: float = 1.0) -> None:
        """Add a vertical elliptic frustum; ``taper`` is top over bottom radius (1: cylinder, 0: cone)."""
        self._add(FRUSTUM, centre, size, material, taper)

    def _add(self, kind: int, centre: Vec3, size: Vec3, material: Material, taper: float) -> None:
        self.kind.append(kind)
        self.centre.append(centre)
        self.half.append((size[0] / 2, size[1] / 2, size[2] / 2))
        self.taper.append(taper)
        self.material.append(material)


@dataclass(frozen=True)
class Primitives:
    """``P`` solids of many objects; ``owner`` indexes the objects. Positions are in the owner's frame."""

    kind: Floats
    owner: Floats
    centre: Floats
    half: Floats
    taper: Floats
    reflectivity: Floats
    porosity: Floats
    fuzz_m: Floats
    rgb: Floats

    @classmethod
    def stack(cls, shapes: Sequence[Shape]) -> Primitives:
        """Put the shapes of all objects into one table, in order."""
        owner = [index for index, shape in enumerate(shapes) for _ in shape.kind]
        materials = [material for shape in shapes for material in shape.material]
        return cls(
            kind=np.array([kind for shape in shapes for kind in shape.kind], np.int8),
            owner=np.array(owner, np.int32),
            centre=np.array([c for shape in shapes for c in shape.centre], np.float64).reshape(-1, 3),
            half=np.array([h for shape in shapes for h in shape.half], np.float64).reshape(-1, 3),
            taper=np.array([t for shape in shapes for t in shape.taper], np.float64),
            reflectivity=np.array([m.reflectivity for m in materials], np.float32),
            porosity=np.array([m.porosity for m in materials], np.float32),
            fuzz_m=np.array([m.fuzz_m for m in materials], np.float32),
            rgb=np.array([m.rgb for m in materials], np.float32).reshape(-1, 3),
        )

    def place(self, poses: Floats) -> PlacedPrimitives:
        """Move every solid to its owner's pose ``[O, 4]``: x, y, z of the bottom centre, yaw."""
        pose = poses[self.owner]
        cos, sin = np.cos(pose[:, 3]), np.sin(pose[:, 3])
        x = pose[:, 0] + cos * self.centre[:, 0] - sin * self.centre[:, 1]
        y = pose[:, 1] + sin * self.centre[:, 0] + cos * self.centre[:, 1]
        centre = np.stack([x, y, pose[:, 2] + self.centre[:, 2]], axis=1)
        return PlacedPrimitives(self, centre, cos, sin)


@dataclass(frozen=True)
class PlacedPrimitives:
    """Solids at their world positions: centres ``[P, 3]`` and the cosine and sine of their yaw ``[P]``."""

    table: Primitives
    centre: Floats
    cos: Floats
    sin: Floats

    def corners(self) -> Floats:
        """``[P, 4, 2]``: the corners of every footprint, in world x and y."""
        signs = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)], np.float64)
        local = self.table.half[:, None, :2] * signs
        x = self.centre[:, None, 0] + self.cos[:, None] * local[..., 0] - self.sin[:, None] * local[..., 1]
        y = self.centre[:, None, 1] + self.sin[:, None] * local[..., 0] + self.cos[:, None] * local[..., 1]
        return np.stack([x, y], axis=-1)
