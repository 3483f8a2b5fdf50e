"""Lays out one scene from its random generator: roads, ground, traffic, people, clutter, the ego vehicle's drive."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.world.actors import Actor, ActorSet, Track, clock
from kd3d.datasets.world.builder import Builder
from kd3d.datasets.world.kerbside import PARKING_M, lay_kerb
from kd3d.datasets.world.pavement import lay_pavement
from kd3d.datasets.world.plots import lay_plots
from kd3d.datasets.world.roads import Road, Terrain
from kd3d.datasets.world.traffic import Flow, lay_traffic

Floats = NDArray[Any]
MARGIN_M = 160.0


@dataclass(frozen=True)
class Scene:
    """A laid-out scene.

    Args:
        actors: everything in it.
        terrain: roads and ground.
        ego: the ego vehicle's motion on road 0.
        ticks: times of ``ego.travelled``.
        extent_m: width and height of the map; coordinates start at 0.
    """

    actors: ActorSet
    terrain: Terrain
    ego: Track
    ticks: Floats
    extent_m: tuple[float, float]

    def ego_pose(self, time_s: float) -> tuple[float, float, float, float]:
        """x, y, z on the ground and yaw of the ego vehicle's rear axle."""
        s = self.ego.s + float(np.interp(time_s, self.ticks, self.ego.travelled))
        x, y, yaw = self.terrain.roads[0].pose(np.asarray(s), np.asarray(self.ego.d))
        z = self.terrain.base(np.asarray(x), np.asarray(y))
        return float(x), float(y), float(z), float(yaw)


def lay_scene(rng: np.random.Generator, duration_s: float) -> Scene:
    """Make a scene of ``duration_s`` seconds."""
    ticks = clock(duration_s)
    speed = float(rng.uniform(4.0, 11.0))
    travel = speed * duration_s * 1.2
    crossing_s = float(rng.uniform(25.0, 60.0)) if rng.random() < 0.55 else None
    yielding = -1 if crossing_s is None else int(rng.random() < 0.5)
    if crossing_s is not None and yielding == 1:
        crossing_s = float(rng.uniform(10.0, 30.0 + 0.6 * travel))
    roads = _roads(rng, crossing_s)
    crossing = None
    if crossing_s is not None:
        half = roads[1].half_width_m + 2.0
        crossing = (crossing_s - half, crossing_s + half)
    build = Builder(rng, roads, ticks, (-75.0, travel + 75.0), crossing, yielding)
    ego_lane = int(rng.integers(roads[0].lanes))
    flows = _flows(rng, speed, yielding)
    start, ego_travelled = lay_traffic(build, flows, ego_lane)
    _lay_sides(build, travel)
    ego = Track(0, start, roads[0].lane_offset(ego_lane, 1), 1, ego_travelled)
    return _finish(build, ego)


def _roads(rng: np.random.Generator, crossing_s: float | None) -> tuple[Road, ...]:
    lanes = int(rng.choice([1, 2], p=[0.55, 0.45]))
    curvature = float(rng.uniform(-1, 1) / 180) if rng.random() < 0.6 else 0.0
    heading = float(rng.uniform(-np.pi, np.pi))
    main = Road(0.0, 0.0, heading, curvature, lanes * 3.5 + PARKING_M, lanes)
    if crossing_s is None:
        return (main,)
    x, y, along = main.pose(np.asarray(crossing_s), np.asarray(0.0))
    angle = float(along) + np.pi / 2 + float(rng.uniform(-0.08, 0.08))
    return (main, Road(float(x), float(y), angle, 0.0, 4.2, 1))


def _flows(rng: np.random.Generator, speed: float, yielding: int) -> tuple[Flow, ...]:
    if yielding < 0:
        return (Flow(speed, stopping=bool(rng.random() < 0.1), standing=False),)
    cross = float(rng.uniform(4.0, 10.0))
    if yielding == 0:
        return Flow(speed, stopping=True, standing=bool(rng.random() < 0.4)), Flow(
            cross, stopping=False, standing=False
        )
    return Flow(speed, stopping=False, standing=False), Flow(cross, stopping=False, standing=True)


def _lay_sides(build: Builder, travel: float) -> None:
    rng = build.rng
    works_side = int(rng.choice([-1, 1])) if rng.random() < 0.85 else 0
    works_at = float(rng.uniform(-10, max(20.0, 0.6 * travel)))
    crowd = float(rng.gamma(2.0, 0.3))
    for side in (-1, 1):
        width = float(rng.uniform(3.0, 5.0))
        lay_kerb(build, side, works_at=works_at if side == works_side else None)
        lay_pavement(build, side, width, crowd * float(rng.uniform(0.5, 1.5)))
        lay_plots(build, side, build.main.half_width_m + width)


def _finish(build: Builder, ego: Track) -> Scene:
    """Shift the roads so that all coordinates are positive, and make the ground."""
    rng, main = build.rng, build.main
    s = np.linspace(build.span[0] - 40, build.span[1] + 40, 50)
    line = main.pose(s, np.zeros(50))[:, :2]
    shift = MARGIN_M - line.min(axis=0)
    extent = line.max(axis=0) + shift + MARGIN_M
    roads = tuple(
        Road(r.x + shift[0], r.y + shift[1], r.heading, r.curvature, r.half_width_m, r.lanes, r.lane_m)
        for r in build.roads
    )
    count = 3
    direction, length = rng.uniform(0, 2 * np.pi, count), rng.uniform(45, 110, count)
    number = 2 * np.pi / length
    amplitude = rng.uniform(0.05, 0.22, count)
    waves = np.stack(
        [amplitude, number * np.cos(direction), number * np.sin(direction), rng.uniform(0, 2 * np.pi, count)], axis=1
    )
    slope = rng.uniform(-0.012, 0.012, 2)
    terrain = Terrain(roads, (float(slope[0]), float(slope[1])), waves)
    actors = [_shifted(actor, shift) for actor in build.actors]
    return Scene(
        ActorSet(actors, terrain, build.ticks), terrain, ego, build.ticks, (float(extent[0]), float(extent[1]))
    )


def _shifted(actor: Actor, shift: Floats) -> Actor:
    if actor.pose is None:
        return actor
    return replace(actor, pose=(actor.pose[0] + float(shift[0]), actor.pose[1] + float(shift[1]), actor.pose[2]))
