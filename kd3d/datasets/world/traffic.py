"""Moving and queueing traffic on the lanes. All vehicles of a lane share one speed profile, so none collide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.world.actors import TICK_S, Track
from kd3d.datasets.world.builder import Builder
from kd3d.datasets.world.catalog import CLASSES

Floats = NDArray[Any]

_LANE_MIX: tuple[tuple[str, float], ...] = (
    ("car", 0.735),
    ("truck", 0.07),
    ("bus", 0.05),
    ("truck+trailer", 0.025),
    ("motorcycle_rider", 0.04),
    ("bicycle_rider", 0.025),
    ("construction_vehicle", 0.01),
)


@dataclass(frozen=True)
class Flow:
    """How a road's lanes move in this scene: ``stopping`` lanes come to rest or stand all the time."""

    speed_m_s: float
    stopping: bool
    standing: bool


def profile(rng: np.random.Generator, ticks: Floats, flow: Flow) -> Floats:
    """``[T]`` metres travelled since time 0, for one lane."""
    if flow.standing:
        return np.zeros(len(ticks))
    speed = flow.speed_m_s * float(rng.uniform(0.85, 1.1))
    wave = 1 + 0.12 * np.sin(float(rng.uniform(0.15, 0.4)) * ticks + float(rng.uniform(0, 6.28)))
    velocity = speed * wave
    if flow.stopping:
        brake = float(rng.uniform(0.5, 4.0))
        velocity = velocity * np.clip(1 - (ticks - brake) * 2.2 / speed, 0.0, 1.0)
    travelled = np.concatenate([[0.0], np.cumsum(velocity[1:] + velocity[:-1]) * TICK_S / 2])
    return np.asarray(travelled - np.interp(0.0, ticks, travelled))


def fill_lane(
    build: Builder, road: int, lane: int, direction: int, travelled: Floats, *, ego_s: float | None, dense: bool
) -> None:
    """Put vehicles on one lane, nose to tail with random gaps.

    Args:
        build: the scene.
        road: index of the road.
        lane: 0 is next to the centre line.
        direction: +1 along the road's ``s``.
        travelled: the lane's motion.
        ego_s: where the ego vehicle starts, when this is its lane; the space around it stays free.
        dense: short gaps.
    """
    rng = build.rng
    reach = float(np.ptp(travelled))
    low, high = (build.span[0], build.span[1]) if road == 0 else (-75.0, 75.0)
    low, high = (low - reach, high) if direction > 0 else (low, high + reach)
    d = build.roads[road].lane_offset(lane, direction)
    names = [name for name, _ in _LANE_MIX]
    weights = np.array([weight for _, weight in _LANE_MIX])
    s = low + build.uniform(0, 12)
    while s < high:
        name = str(rng.choice(names, p=weights / weights.sum()))
        parts = name.split("+")
        sizes = [CLASSES[part].draw(rng) for part in parts]
        if len(parts) == 2:
            sizes[0] = (min(sizes[0][0], 6.5), sizes[0][1], sizes[0][2])
        total = sum(size[0] for size in sizes) + 0.8 * (len(parts) - 1)
        if not (ego_s is not None and s - 7 < ego_s < s + total + 5):
            front = s + total if direction > 0 else s
            sway = (build.uniform(0.0, 0.25), build.uniform(0.1, 0.5))
            for part, size in zip(parts, sizes, strict=True):
                middle = front - direction * size[0] / 2
                track = Track(road, middle, d, direction, travelled, sway if len(parts) == 1 else (0.0, 0.0))
                if not _blocks_crossing(build, track, size[0]):
                    build.driving(part, track, size=size)
                front -= direction * (size[0] + 0.8)
        gap = 1.6 + rng.exponential(3.0) if dense else 6.0 + rng.exponential(17.0)
        s += total + float(gap)


def _blocks_crossing(build: Builder, track: Track, length: float) -> bool:
    """Whether a vehicle would be on the crossing while the other road has right of way."""
    if build.crossing is None:
        return False
    along = track.along()
    margin = length / 2 + 1.0
    if track.road == 0:
        low, high = build.crossing
    else:
        low, high = -build.main.half_width_m, build.main.half_width_m
    return build.yielding == track.road and bool(((along > low - margin) & (along < high + margin)).any())


def lay_traffic(build: Builder, flows: tuple[Flow, ...], ego_lane: int) -> tuple[float, Floats]:
    """Fill every lane of every road; returns the ego vehicle's start ``s`` and distance table ``[T]``."""
    ego_s = 0.0
    ego_travelled: Floats = np.zeros(len(build.ticks))
    for index, road in enumerate(build.roads):
        for direction in (1, -1):
            for lane in range(road.lanes):
                travelled = profile(build.rng, build.ticks, flows[index])
                mine = index == 0 and direction == 1 and lane == ego_lane
                if mine:
                    ego_travelled = travelled
                    ego_s = _ego_start(build, travelled)
                dense = flows[index].standing or build.chance(0.25)
                fill_lane(build, index, lane, direction, travelled, ego_s=ego_s if mine else None, dense=dense)
    return ego_s, ego_travelled


def _ego_start(build: Builder, travelled: Floats) -> float:
    """0, or further back where the ego vehicle must come to rest before the crossing."""
    if build.crossing is None or build.yielding != 0:
        return 0.0
    return min(0.0, build.crossing[0] - 6.0 - float(travelled.max()))
