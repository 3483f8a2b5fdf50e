"""What lies behind the pavements: houses, parks, car parks and yards."""

from __future__ import annotations

import numpy as np

from kd3d.datasets.world import clutter
from kd3d.datasets.world.builder import Builder
from kd3d.datasets.world.catalog import CLASSES


def lay_plots(build: Builder, side: int, setback_m: float) -> None:
    """A row of plots along one side of the main road.

    Args:
        build: the scene.
        side: +1 left, -1 right.
        setback_m: distance of the plots' front from the road's centre line.
    """
    s, end = build.span[0] - 30.0, build.span[1] + 30.0
    while s < end:
        length = build.uniform(12, 34)
        if not build.clear_of_crossing(s, 4) or not build.clear_of_crossing(s + length, 4) or _spans(build, s, length):
            s += 3.0
            continue
        draw = build.rng.random()
        if draw < 0.34:
            _house(build, s, length, side, setback_m)
        elif draw < 0.68:
            _park(build, s, length, side, setback_m)
        elif draw < 0.85:
            _car_park(build, s, length, side, setback_m)
        else:
            _yard(build, s, length, side, setback_m)
        s += length + build.uniform(1, 5)
    _horizon(build, side, setback_m + 42.0)


def _spans(build: Builder, s: float, length: float) -> bool:
    return build.crossing is not None and s < build.crossing[0] and s + length > build.crossing[1]


def _house(build: Builder, s: float, length: float, side: int, front: float) -> None:
    depth = build.uniform(8, 14)
    d = side * (front + 1.8 + build.uniform(0, 5) + depth / 2)
    build.clutter(clutter.building(build.rng, length - 1.0, depth), s + length / 2, d)


def _park(build: Builder, s: float, length: float, side: int, front: float) -> None:
    for _ in range(int(length * 0.75)):
        shape = clutter.bush(build.rng) if build.chance(0.68) else clutter.tree(build.rng)
        build.clutter(
            shape, s + build.uniform(0, length), side * (front + build.uniform(2.0, 26)), build.uniform(0, 6.28)
        )
    for _ in range(int(build.rng.poisson(0.8))):
        name = "sitting" if build.chance(0.4) else "pedestrian"
        build.standing(
            name, s + build.uniform(1, length - 1), side * (front + build.uniform(2, 14)), build.uniform(0, 6.28)
        )


def _car_park(build: Builder, s: float, length: float, side: int, front: float) -> None:
    skew = build.uniform(-0.25, 0.25)
    for row, offset in enumerate((5.0, 16.5)):
        along = s + 1.5
        while along < s + length - 1.5:
            if build.chance(0.42 if row == 0 else 0.2):
                turn = np.pi / 2 * (1 if build.chance(0.5) else -1) + skew + build.uniform(-0.05, 0.05)
                build.standing("car" if build.chance(0.95) else "truck", along, side * (front + offset), turn)
            along += 2.8
    if build.chance(0.5):
        build.clutter(clutter.dumpster(build.rng), s + length - 2, side * (front + 10.5), build.uniform(0, 3.14))


def _yard(build: Builder, s: float, length: float, side: int, front: float) -> None:
    """Containers, trailers, machines and trucks on their side of a yard."""
    along = s + 3.0
    while along < s + length - 3.0:
        turn = np.pi / 2 + build.uniform(-0.2, 0.2) + (np.pi if build.chance(0.5) else 0.0)
        draw = build.rng.random()
        far = side * (front + build.uniform(8.5, 13.0))
        if draw < 0.42:
            build.clutter(clutter.container(build.rng), along, far, turn)
        elif draw < 0.9:
            name = "trailer" if draw < 0.57 else "truck" if draw < 0.77 else "construction_vehicle"
            build.standing(name, along, far, turn, size=CLASSES[name].draw(build.rng))
        along += build.uniform(4.0, 6.0)
    for _ in range(3):
        build.clutter(
            clutter.dumpster(build.rng),
            s + build.uniform(0, length),
            side * (front + build.uniform(17, 24)),
            build.uniform(0, 3.14),
        )


def _horizon(build: Builder, side: int, d: float) -> None:
    """A broken line of distant houses and trees that closes the view."""
    s, end = build.span[0] - 60.0, build.span[1] + 60.0
    while s < end:
        length = build.uniform(15, 40)
        if build.clear_of_crossing(s, 12) and build.clear_of_crossing(s + length, 12) and not _spans(build, s, length):
            if build.chance(0.55):
                build.clutter(
                    clutter.building(build.rng, length * 0.8, 10.0), s + length / 2, side * (d + build.uniform(0, 14))
                )
            else:
                for _ in range(4):
                    build.clutter(
                        clutter.tree(build.rng), s + build.uniform(0, length), side * (d + build.uniform(-8, 10))
                    )
        s += length
