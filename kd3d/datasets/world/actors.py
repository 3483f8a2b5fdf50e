"""Everything in a scene that has a shape, annotated or not, and where it is at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.world.primitives import Shape
from kd3d.datasets.world.roads import Road, Terrain

Floats = NDArray[Any]
Size = tuple[float, float, float]
TICK_S = 0.05
LEAD_S = 0.6


def clock(duration_s: float) -> Floats:
    """Times at which displacements are tabled, from ``-LEAD_S`` to a little after ``duration_s``."""
    return np.arange(-LEAD_S, duration_s + LEAD_S + TICK_S, TICK_S)


@dataclass(frozen=True)
class Track:
    """Motion along a road.

    Args:
        road: index of the road.
        s, d: position at time 0.
        direction: +1 along ``s``, -1 against it.
        travelled: ``[T]`` metres travelled at the ticks of ``clock``; 0 at time 0.
        sway: amplitude (m) and rate (rad/s) of a slow sideways drift.
    """

    road: int
    s: float
    d: float
    direction: int
    travelled: Floats
    sway: tuple[float, float] = (0.0, 0.0)

    def along(self) -> Floats:
        """``[T]``: ``s`` at every tick."""
        return self.s + self.direction * self.travelled


@dataclass(frozen=True)
class Actor:
    """An object of the scene.

    Args:
        shape: its solids.
        pose: x, y, yaw when it stands still, else ``None``.
        track: its motion when it moves, else ``None``.
        category: nuScenes category, or ``None`` for what is not annotated.
        size: length, width, height of the annotation.
        resting: attribute when it stands still.
        moving: attribute when it moves.
    """

    shape: Shape
    pose: tuple[float, float, float] | None = None
    track: Track | None = None
    category: str | None = None
    size: Size = (0.0, 0.0, 0.0)
    resting: str = ""
    moving: str = ""


class ActorSet:
    """All actors of a scene; answers where they are."""

    def __init__(self, actors: Sequence[Actor], terrain: Terrain, ticks: Floats) -> None:
        self.actors = tuple(actors)
        self.terrain = terrain
        self._ticks = ticks
        self._still = np.zeros((len(actors), 4))
        for index, actor in enumerate(actors):
            if actor.pose is not None:
                self._still[index] = (actor.pose[0], actor.pose[1], 0.0, actor.pose[2])
        self._still[:, 2] = terrain.height(self._still[:, 0], self._still[:, 1])
        self._moving = np.array([i for i, actor in enumerate(actors) if actor.track is not None], np.int64)
        tracks = [actor.track for actor in actors if actor.track is not None]
        self._road = np.array([t.road for t in tracks], np.int64)
        self._s = np.array([t.s for t in tracks])
        self._d = np.array([t.d for t in tracks])
        self._direction = np.array([t.direction for t in tracks])
        self._travelled = np.array([t.travelled for t in tracks]).reshape(len(tracks), len(ticks))
        self._sway = np.array([t.sway for t in tracks]).reshape(-1, 2)

    def poses(self, time_s: float) -> Floats:
        """``[O, 4]``: x, y, z of the bottom centre and yaw of every actor."""
        result = self._still.copy()
        if len(self._moving):
            result[self._moving] = self._track_poses(time_s)
        return result

    def speeds(self, time_s: float) -> Floats:
        """``[O]`` metres per second."""
        result = np.zeros(len(self.actors))
        if len(self._moving):
            ahead, behind = self._distance(time_s + TICK_S), self._distance(time_s - TICK_S)
            result[self._moving] = np.abs(ahead - behind) / (2 * TICK_S)
        return result

    def _distance(self, time_s: float) -> Floats:
        position = np.clip((time_s - self._ticks[0]) / TICK_S, 0, len(self._ticks) - 1.001)
        low = int(position)
        share = position - low
        return np.asarray(self._travelled[:, low] * (1 - share) + self._travelled[:, low + 1] * share)

    def _track_poses(self, time_s: float) -> Floats:
        s = self._s + self._direction * self._distance(time_s)
        d = self._d + self._sway[:, 0] * np.sin(self._sway[:, 1] * time_s + self._s)
        result = np.zeros((len(s), 4))
        for index, road in enumerate(self.terrain.roads):
            mine = self._road == index
            if mine.any():
                result[mine] = _on_road(road, s[mine], d[mine], self._direction[mine])
        result[:, 2] = self.terrain.height(result[:, 0], result[:, 1])
        return result


def _on_road(road: Road, s: Floats, d: Floats, direction: Floats) -> Floats:
    pose = road.pose(s, d)
    yaw = pose[:, 2] + np.where(direction > 0, 0.0, np.pi)
    return np.stack([pose[:, 0], pose[:, 1], np.zeros(len(s)), yaw], axis=1)
