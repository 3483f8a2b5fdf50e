"""Parked rows and construction zones along the kerb of the main road."""

from __future__ import annotations

import numpy as np

from kd3d.datasets.world import clutter
from kd3d.datasets.world.builder import Builder
from kd3d.datasets.world.catalog import CLASSES

PARKING_M = 2.4


def lay_kerb(build: Builder, side: int, *, works_at: float | None) -> None:
    """Fill one parking strip: parked vehicles, gaps, a few skips, and the construction zone.

    Args:
        build: the scene.
        side: +1 left of the road, -1 right.
        works_at: ``s`` where a construction zone starts on this side, or ``None``.
    """
    d = side * (build.main.half_width_m - PARKING_M / 2 + 0.1)
    turn = 0.0 if side < 0 else np.pi
    occupancy = build.uniform(0.05, 0.42)
    s, end = build.span[0] + build.uniform(0, 8), build.span[1]
    while s < end:
        if works_at is not None and s >= works_at:
            s += lay_works(build, s, side)
            works_at = None
            continue
        if not build.clear_of_crossing(s + 3, 6):
            s += 4
            continue
        s += _kerb_item(build, s, d, turn, occupancy) + build.uniform(0.6, 1.8)


def _kerb_item(build: Builder, s: float, d: float, turn: float, occupancy: float) -> float:
    draw = build.rng.random()
    tilt = turn + build.uniform(-0.04, 0.04)
    if draw > occupancy:
        return build.uniform(4, 16)
    kind = build.rng.choice(
        ["car", "truck", "bus", "trailer", "motorcycle", "dumpster"], p=[0.83, 0.075, 0.02, 0.015, 0.015, 0.045]
    )
    if kind == "dumpster":
        build.clutter(clutter.dumpster(build.rng), s + 2.5, d, tilt)
        return 5.2
    size = CLASSES[str(kind)].draw(build.rng)
    if kind == "motorcycle":
        for step in range(int(build.rng.integers(1, 4))):
            build.standing("motorcycle", s + 1.2 * step + 0.6, d, turn + np.pi / 2 + build.uniform(-0.2, 0.2))
        return 4.0
    build.standing(str(kind), s + size[0] / 2, d + build.uniform(-0.15, 0.15), tilt, size=size)
    return size[0]


def lay_works(build: Builder, s: float, side: int) -> float:
    """A construction zone: cones ahead, a row of barriers, machines, workers, material; returns its length."""
    edge = build.main.half_width_m
    line = side * (edge - PARKING_M - 0.1)
    count = int(build.rng.integers(4, 9))
    for step in range(count):
        share = step / count
        d = side * (edge - 0.3 - share * (PARKING_M - 0.4)) + build.uniform(-0.15, 0.15)
        _if_clear(build, "traffic_cone", s + step * build.uniform(1.6, 2.4), d)
    s_row = s + count * 2.2 + 1.0
    barriers = int(build.rng.integers(7, 20))
    gap = build.uniform(0.05, 0.42)
    along = s_row
    for _ in range(barriers):
        size = _if_clear(
            build, "barrier", along + 1.2, line + build.uniform(-0.08, 0.08), np.pi / 2 + build.uniform(-0.06, 0.06)
        )
        along += size + gap
    _machines(build, s_row, along, side)
    for _ in range(int(build.rng.integers(0, 5))):
        _if_clear(
            build,
            "worker",
            build.uniform(s_row, along),
            side * (edge + build.uniform(-1.5, 3.0)),
            build.uniform(0, 6.28),
        )
    for _ in range(int(build.rng.integers(1, 4))):
        _if_clear(build, "traffic_cone", along + build.uniform(0.5, 6), line + side * build.uniform(0, 2.0))
    return along - s + 7.0


def _machines(build: Builder, low: float, high: float, side: int) -> None:
    """Machines and material behind the barriers, partly on the pavement."""
    s = low + 4.0
    d = side * (build.main.half_width_m + 0.9)
    while s < high - 2:
        draw = build.rng.random()
        turn = build.uniform(-0.5, 0.5) + (np.pi if build.chance(0.5) else 0.0)
        if draw < 0.3 and build.clear_of_crossing(s, 8):
            s += build.standing("construction_vehicle", s, d, turn)[0]
        elif draw < 0.5:
            build.clutter(clutter.dumpster(build.rng), s, d, turn)
        elif draw < 0.75:
            build.clutter(clutter.wall(build.rng), s, d, turn)
        s += build.uniform(6, 11)


def _if_clear(build: Builder, name: str, s: float, d: float, turn: float = 0.0) -> float:
    """Place an object unless it would stand on the crossing; returns its width."""
    if not build.clear_of_crossing(s, 1.5):
        return 2.3
    return build.standing(name, s, d, turn)[1]
