"""Road geometry and the ground's height."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
KERB_M = 0.14


@dataclass(frozen=True)
class Road:
    """A straight or circular road. ``s`` runs along it, ``d`` to its left; traffic keeps right.

    Args:
        x, y, heading: pose at ``s = 0``, metres and radians.
        curvature: 1/m, positive to the left.
        half_width_m: centre to kerb, parking strips included.
        lanes: per direction.
        lane_m: lane width.
    """

    x: float
    y: float
    heading: float
    curvature: float
    half_width_m: float
    lanes: int
    lane_m: float = 3.5

    def pose(self, s: Floats | float, d: Floats | float) -> Floats:
        """``[..., 3]``: x, y and heading at ``(s, d)``."""
        s, d = np.broadcast_arrays(np.asarray(s, np.float64), np.asarray(d, np.float64))
        angle = self.heading + self.curvature * s
        if abs(self.curvature) < 1e-7:
            x = self.x + s * np.cos(self.heading)
            y = self.y + s * np.sin(self.heading)
        else:
            x = self.x + (np.sin(angle) - np.sin(self.heading)) / self.curvature
            y = self.y - (np.cos(angle) - np.cos(self.heading)) / self.curvature
        return np.stack([x - d * np.sin(angle), y + d * np.cos(angle), angle], axis=-1)

    def locate(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """``(s, d)`` of world points; for a circular road, on the near half of its circle."""
        if abs(self.curvature) < 1e-7:
            dx, dy = x - self.x, y - self.y
            c, s = np.cos(self.heading), np.sin(self.heading)
            return c * dx + s * dy, c * dy - s * dx
        radius = 1 / self.curvature
        cx, cy = self.x - radius * np.sin(self.heading), self.y + radius * np.cos(self.heading)
        dx, dy = x - cx, y - cy
        c, s = np.cos(self.heading), np.sin(self.heading)
        sign = np.sign(radius)
        along, across = sign * (c * dx + s * dy), -sign * (c * dy - s * dx)
        return np.arctan2(along, across) * radius, radius - sign * np.hypot(dx, dy)

    def lane_offset(self, lane: int, direction: int) -> float:
        """``d`` of a lane's middle; lane 0 is next to the centre line, direction +1 runs along ``s``."""
        return -direction * (lane + 0.5) * self.lane_m


@dataclass(frozen=True)
class Terrain:
    """Ground: a slope, a few long waves, and kerbs beside the roads.

    Args:
        roads: their surfaces lie a kerb's height below everything else.
        slope: height per metre in x and y.
        waves: ``[K, 4]``: amplitude, wave numbers in x and y, phase.
    """

    roads: tuple[Road, ...]
    slope: tuple[float, float]
    waves: Floats

    def base(self, x: Floats, y: Floats) -> Floats:
        """Height without kerbs."""
        z = self.slope[0] * x + self.slope[1] * y
        for amplitude, kx, ky, phase in self.waves:
            z = z + amplitude * np.sin(kx * x + ky * y + phase)
        return z

    def on_road(self, x: Floats, y: Floats) -> NDArray[np.bool_]:
        """Whether points lie between the kerbs of any road."""
        inside = np.zeros(np.shape(x), bool)
        for road in self.roads:
            inside |= np.abs(road.locate(x, y)[1]) < road.half_width_m
        return inside

    def height(self, x: Floats, y: Floats) -> Floats:
        """Height of the ground, kerbs included."""
        return np.asarray(self.base(x, y) + np.where(self.on_road(x, y), 0.0, KERB_M))
