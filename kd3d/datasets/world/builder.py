"""Collects a scene's actors while the layout functions place them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.world.actors import Actor, Track
from kd3d.datasets.world.catalog import CLASSES, Size
from kd3d.datasets.world.primitives import Shape
from kd3d.datasets.world.roads import Road

Floats = NDArray[Any]

_ATTRIBUTES: dict[str, tuple[str, str]] = {
    "pedestrian": ("pedestrian.standing", "pedestrian.moving"),
    "child": ("pedestrian.standing", "pedestrian.moving"),
    "worker": ("pedestrian.standing", "pedestrian.moving"),
    "sitting": ("pedestrian.sitting_lying_down", "pedestrian.moving"),
    "motorcycle_rider": ("cycle.with_rider", "cycle.with_rider"),
    "bicycle_rider": ("cycle.with_rider", "cycle.with_rider"),
    "motorcycle": ("cycle.without_rider", "cycle.without_rider"),
    "bicycle": ("cycle.without_rider", "cycle.without_rider"),
    "traffic_cone": ("", ""),
    "barrier": ("", ""),
}


@dataclass
class Builder:
    """A scene being laid out.

    Args:
        rng: the scene's generator.
        roads: the main road first.
        ticks: times of the motion tables.
        span: first and last ``s`` of the main road that objects are placed on.
        crossing: interval of ``s`` on the main road that must stay free for the crossing road, or ``None``.
        yielding: index of the road whose traffic waits at the crossing; -1 without a crossing.
    """

    rng: np.random.Generator
    roads: tuple[Road, ...]
    ticks: Floats
    span: tuple[float, float]
    crossing: tuple[float, float] | None
    yielding: int = -1
    actors: list[Actor] = field(default_factory=list)

    @property
    def main(self) -> Road:
        """The road the ego vehicle drives on."""
        return self.roads[0]

    def clear_of_crossing(self, s: float, margin: float = 0.0) -> bool:
        """Whether ``s`` on the main road is outside the crossing."""
        return self.crossing is None or not self.crossing[0] - margin < s < self.crossing[1] + margin

    def standing(
        self, name: str, s: float, d: float, turn: float = 0.0, *, size: Size | None = None, road: int = 0
    ) -> Size:
        """Place an annotated object of class ``name`` that never moves; returns its size."""
        x, y, heading = self.roads[road].pose(s, d)
        return self._annotated(name, size, pose=(float(x), float(y), float(heading) + turn), parked=True)

    def driving(self, name: str, track: Track, *, size: Size | None = None) -> Size:
        """Place an annotated object that follows a track; returns its size."""
        return self._annotated(name, size, track=track, parked=False)

    def clutter(self, shape: Shape, s: float, d: float, turn: float = 0.0, *, road: int = 0) -> None:
        """Place something that is not annotated."""
        x, y, heading = self.roads[road].pose(s, d)
        self.actors.append(Actor(shape, pose=(float(x), float(y), float(heading) + turn)))

    def _annotated(
        self,
        name: str,
        size: Size | None,
        *,
        pose: tuple[float, float, float] | None = None,
        track: Track | None = None,
        parked: bool,
    ) -> Size:
        kind = CLASSES[name]
        size = size or kind.draw(self.rng)
        resting, moving = _ATTRIBUTES.get(name, ("vehicle.parked" if parked else "vehicle.stopped", "vehicle.moving"))
        shape = kind.shape(size, self.rng)
        self.actors.append(Actor(shape, pose, track, kind.category, size, resting, moving))
        return size

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def uniform(self, low: float, high: float) -> float:
        """A random number."""
        return float(self.rng.uniform(low, high))
