"""Pavements: people in groups, street furniture, parked cycles, and look-alikes between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kd3d.datasets.world import clutter
from kd3d.datasets.world.actors import Track
from kd3d.datasets.world.builder import Builder
from kd3d.datasets.world.primitives import Shape

Maker = Callable[[np.random.Generator], Shape]

_FURNITURE: tuple[tuple[Maker, float], ...] = (
    (clutter.tree, 0.24),
    (clutter.lamp, 0.16),
    (clutter.sign, 0.16),
    (clutter.bin_or_post, 0.2),
    (clutter.bollard, 0.12),
    (clutter.bush, 0.08),
    (clutter.rack, 0.04),
)
_FRONTAGE: tuple[tuple[Maker, float], ...] = (
    (clutter.bush, 0.34),
    (clutter.hedge, 0.2),
    (clutter.wall, 0.14),
    (clutter.fence, 0.14),
    (clutter.bin_or_post, 0.12),
    (clutter.dumpster, 0.06),
)


def _pick(build: Builder, table: tuple[tuple[Maker, float], ...]) -> Shape:
    weights = np.array([weight for _, weight in table])
    index = int(build.rng.choice(len(table), p=weights / weights.sum()))
    return table[index][0](build.rng)


def lay_pavement(build: Builder, side: int, width_m: float, crowd: float) -> None:
    """Furnish one pavement of the main road.

    Args:
        build: the scene.
        side: +1 left, -1 right.
        width_m: from the kerb to the house side.
        crowd: people per 10 m.
    """
    edge = build.main.half_width_m
    low, high = build.span
    s = low
    while s < high:
        s += 1.5 + float(build.rng.exponential(5.0))
        if not build.clear_of_crossing(s, 1.0):
            continue
        if build.chance(0.022):
            _parked_cycles(build, s, side * (edge + 0.6))
            s += 3.0
        else:
            build.clutter(
                _pick(build, _FURNITURE), s, side * (edge + 0.5 + build.uniform(-0.1, 0.2)), build.uniform(-0.2, 0.2)
            )
        if build.chance(0.04):
            build.clutter(clutter.shelter(build.rng), s + 4, side * (edge + 1.2), 0.0 if side > 0 else np.pi)
            s += 7.0
    s = low
    while s < high:
        s += 1.0 + float(build.rng.exponential(5.0))
        if build.clear_of_crossing(s, 4.0):
            build.clutter(
                _pick(build, _FRONTAGE), s, side * (edge + width_m + build.uniform(0.2, 1.6)), build.uniform(-0.1, 0.1)
            )
            s += 3.0
    lay_people(build, side, width_m, crowd)


def _parked_cycles(build: Builder, s: float, d: float) -> None:
    name = "bicycle" if build.chance(0.6) else "motorcycle"
    for step in range(int(build.rng.integers(1, 4))):
        build.standing(name, s + 0.75 * step, d, np.pi / 2 + build.uniform(-0.35, 0.35))
    if build.chance(0.5):
        build.clutter(clutter.rack(build.rng), s + 1.0, d + 0.3, 0.0)


def lay_people(build: Builder, side: int, width_m: float, crowd: float) -> None:
    """Groups of one to five who walk together or stand."""
    low, high = build.span
    people = int(build.rng.poisson(crowd * (high - low) / 10))
    while people > 0:
        group = min(people, int(build.rng.choice([1, 2, 3, 4, 5], p=[0.45, 0.28, 0.14, 0.08, 0.05])))
        people -= group
        s = build.uniform(low, high)
        d = build.main.half_width_m + build.uniform(1.3, max(1.5, width_m - 0.3))
        if build.chance(0.72):
            _walkers(build, group, s, side * d)
        elif build.clear_of_crossing(s, 2.0):
            for _ in range(group):
                name = "sitting" if build.chance(0.08) else "pedestrian"
                build.standing(
                    name, s + build.uniform(-1.2, 1.2), side * d + build.uniform(-0.7, 0.7), build.uniform(0, 6.28)
                )


def _walkers(build: Builder, group: int, s: float, d: float) -> None:
    direction = 1 if build.chance(0.5) else -1
    speed = float(np.clip(build.rng.normal(1.3, 0.25), 0.6, 2.4))
    speed = speed * 2.0 if build.chance(0.04) else speed
    for member in range(group):
        where = s + 0.7 * (member // 2) + build.uniform(-0.15, 0.15)
        beside = d + (0.75 if member % 2 else 0.0) * (1 if d > 0 else -1)
        track = Track(
            0, where, beside, direction, build.ticks * speed, (build.uniform(0, 0.2), build.uniform(0.2, 0.8))
        )
        reach = track.along()
        if build.crossing is not None and build.yielding != 1:
            inside = (reach > build.crossing[0] - 0.5) & (reach < build.crossing[1] + 0.5)
            if inside.any():
                continue
        build.driving("child" if build.chance(0.06) else "pedestrian", track)
