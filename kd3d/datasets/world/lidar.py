"""A 32-ring spinning LiDAR: ray casting on its grid of rings and azimuth steps.

Each sweep is taken at one instant (real sweeps take 50 ms, and nuScenes undoes the ego vehicle's motion in them, so
only the motion of other objects inside a sweep is missing). The sensor stays level: it yaws with the vehicle only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.world.cast import intersect, normals
from kd3d.datasets.world.primitives import PlacedPrimitives
from kd3d.datasets.world.roads import Terrain

Floats = NDArray[Any]

RINGS, STEPS = 32, 1084
RANGE_M = 100.0
RANGE_NOISE_M = 0.018
ELEVATION_DEG = np.linspace(-30.67, 10.67, RINGS)
TAN = np.tan(np.radians(ELEVATION_DEG))
_STEP_RAD = 2 * np.pi / STEPS
_NOBODY = -1
_TICKS_M = np.concatenate([np.geomspace(1.5, 120.0, 72)])
_KEY = 1 << 20


@dataclass(frozen=True)
class Sweep:
    """One revolution.

    Args:
        points: ``[N, 5]`` float32 in the sensor's frame (x right, y forward): x, y, z, intensity 0-255, ring.
        owner: ``[N]`` the object each point lies on; -1 is the ground.
        hits: ``[O]`` rays that met each object first, before drop-out.
        reach: ``[O]`` rays that would meet it if nothing stood in the way.
    """

    points: Floats
    owner: Floats
    hits: Floats
    reach: Floats


def scan(
    placed: PlacedPrimitives,
    terrain: Terrain,
    sensor: tuple[float, float, float, float],
    objects: int,
    rng: np.random.Generator,
) -> Sweep:
    """Take one sweep.

    Args:
        placed: the solids where they are now.
        terrain: the ground.
        sensor: x, y, z and yaw of the vehicle's forward direction, in the world.
        objects: number of owners.
        rng: for noise and drop-out.
    """
    origin = np.array(sensor[:3])
    start = sensor[3] + float(rng.uniform(0, _STEP_RAD)) + np.pi
    azimuth = start - _STEP_RAD * np.arange(STEPS)
    ground_t = _ground(terrain, origin, azimuth)
    solid, step, ring = _pairs(placed, origin, start)
    cos, sin = np.cos(azimuth).astype(np.float32), np.sin(azimuth).astype(np.float32)
    t = intersect(placed, origin, solid, (cos[step], sin[step], TAN.astype(np.float32)[ring]))
    hit = np.flatnonzero(t < RANGE_M)
    solid, step, ring, t = solid[hit], step[hit], ring[hit], t[hit]
    owner = placed.table.owner[solid]
    ray = step.astype(np.int64) * RINGS + ring
    reach = _rays_per_owner(owner, ray, objects)
    kept, t = _through_porous(placed, solid, t, rng)
    nearest = np.full(STEPS * RINGS, np.int64(RANGE_M * 1e4) * _KEY + _KEY - 1)
    flat = (np.minimum(ground_t, RANGE_M).T.ravel() * 1e4).astype(np.int64) * _KEY + _KEY - 1
    np.minimum(nearest, flat, out=nearest)
    np.minimum.at(nearest, ray[kept], (t[kept] * 1e4).astype(np.int64) * _KEY + solid[kept])
    return _returns(placed, nearest, azimuth, sensor=(origin, sensor[3]), objects=objects, reach=reach, rng=rng)


def _returns(
    placed: PlacedPrimitives,
    nearest: Floats,
    azimuth: Floats,
    *,
    sensor: tuple[Floats, float],
    objects: int,
    reach: Floats,
    rng: np.random.Generator,
) -> Sweep:
    """Turn the nearest hits into noisy points, dropping some."""
    origin, yaw = sensor
    distance = (nearest // _KEY) / 1e4
    ray = np.flatnonzero(distance < RANGE_M * 0.9999)
    distance = distance[ray]
    solid = (nearest[ray] % _KEY).astype(np.int64)
    on_solid = solid < _KEY - 1
    step, ring = ray // RINGS, ray % RINGS
    direction = np.stack([np.cos(azimuth)[step], np.sin(azimuth)[step], TAN[ring]], axis=1)
    stretch = np.sqrt(1 + TAN[ring] ** 2)
    range_m = distance * stretch
    owner = np.full(len(ray), _NOBODY, np.int64)
    owner[on_solid] = placed.table.owner[solid[on_solid]]
    hits = np.bincount(owner[on_solid], minlength=objects)
    facing, reflect = _surface(
        placed,
        solid,
        on_solid,
        direction=direction / stretch[:, None],
        point=origin + distance[:, None] * direction,
        rng=rng,
    )
    strength = reflect * (0.25 + 0.75 * facing)
    kept = np.flatnonzero(rng.random(len(ray)) < _return_chance(range_m, strength, on_solid))
    range_m = range_m[kept] + rng.normal(0.0, RANGE_NOISE_M, len(kept))
    ring = ring[kept]
    horizontal = range_m / stretch[kept]
    angle = azimuth[step[kept]] - yaw
    along, left = horizontal * np.cos(angle), horizontal * np.sin(angle)
    intensity = np.clip(np.round(140 * strength[kept] ** 1.5 * rng.uniform(0.6, 1.3, len(kept))), 0, 255)
    points = np.stack([-left, along, horizontal * TAN[ring], intensity, ring], axis=1).astype(np.float32)
    return Sweep(points, owner[kept], hits, reach)


def _return_chance(range_m: Floats, strength: Floats, on_solid: Floats) -> Floats:
    """Chance that a hit gives a return: falls with range squared over the strength of the echo.

    Edges of objects and gaps between them lose some more, which the solids do not model.
    """
    lost = 0.16 * (range_m / RANGE_M) ** 2 / (strength + 0.04) + 0.10 * (strength < 0.06)
    chance = np.clip(1.08 - lost, 0.0, 0.985)
    return np.where(on_solid, 0.93 * chance, chance)


def _surface(
    placed: PlacedPrimitives,
    solid: Floats,
    on_solid: Floats,
    *,
    direction: Floats,
    point: Floats,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Cosine of incidence and reflectivity of each hit."""
    facing = np.maximum(-direction[:, 2], 0.03) ** 0.5
    reflect = 0.16 + 0.12 * rng.random(len(solid)) + 0.05 * np.sin(point[:, 0] * 0.7) * np.sin(point[:, 1] * 0.7)
    chosen = solid[on_solid]
    normal = normals(placed, chosen, point[on_solid])
    fuzzy = placed.table.fuzz_m[chosen] > 0.1
    facing[on_solid] = np.where(fuzzy, 0.7, np.abs((normal * direction[on_solid]).sum(axis=1)))
    reflect[on_solid] = placed.table.reflectivity[chosen]
    return facing, reflect


def _through_porous(
    placed: PlacedPrimitives, solid: Floats, t: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Let rays pass porous solids, and scatter returns inside fuzzy ones."""
    porous = np.flatnonzero(placed.table.fuzz_m[solid] + placed.table.porosity[solid] > 0)
    passes = np.zeros(len(solid), bool)
    passes[porous] = rng.random(len(porous)) < placed.table.porosity[solid[porous]]
    t = t.copy()
    t[porous] += (rng.random(len(porous)) * placed.table.fuzz_m[solid[porous]]).astype(np.float32)
    return np.flatnonzero(~passes), t


def _rays_per_owner(owner: Floats, ray: Floats, objects: int) -> Floats:
    """``[O]``: number of different rays per owner. Pairs come grouped by solid, solids by owner."""
    key = np.unique(owner.astype(np.int64) * (STEPS * RINGS) + ray)
    return np.bincount(key // (STEPS * RINGS), minlength=objects)


def _ground(terrain: Terrain, origin: Floats, azimuth: Floats) -> Floats:
    """``[RINGS, STEPS]`` horizontal distance at which each ray meets the ground, infinite if beyond reach.

    The ground's elevation angle is sampled along each azimuth; its running maximum is what the sensor sees, so hills
    and kerbs hide what lies behind them.
    """
    x = origin[0] + np.cos(azimuth)[:, None] * _TICKS_M
    y = origin[1] + np.sin(azimuth)[:, None] * _TICKS_M
    angle = (terrain.height(x, y) - origin[2]) / _TICKS_M
    horizon = np.maximum.accumulate(angle, axis=1)
    result = np.full((RINGS, len(azimuth)), np.inf)
    rows = np.arange(len(azimuth))
    for ring in range(RINGS):
        index = (horizon < TAN[ring]).sum(axis=1)
        met = (index > 0) & (index < len(_TICKS_M))
        if not met.any():
            if (index == len(_TICKS_M)).all():
                break
            continue
        row, high = rows[met], index[met]
        below, above = angle[row, high - 1], angle[row, high]
        share = (TAN[ring] - below) / (above - below)
        near, far = _TICKS_M[high - 1], _TICKS_M[high]
        # Between two samples the angle of flat ground changes as 1/distance.
        result[ring, row] = 1 / (1 / near + share * (1 / far - 1 / near))
    return result


def _pairs(placed: PlacedPrimitives, origin: Floats, start: float) -> tuple[Floats, Floats, Floats]:
    """All (solid, azimuth step, ring) in which the ray may meet the solid's bounding box."""
    corner = placed.corners() - origin[:2]
    centre = placed.centre - origin
    half = placed.table.half
    bearing = np.arctan2(centre[:, 1], centre[:, 0])
    turn = np.arctan2(corner[..., 1], corner[..., 0]) - bearing[:, None]
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    far = np.hypot(corner[..., 0], corner[..., 1]).max(axis=1)
    local_x = np.abs(placed.cos * centre[:, 0] + placed.sin * centre[:, 1]) - half[:, 0]
    local_y = np.abs(placed.cos * centre[:, 1] - placed.sin * centre[:, 0]) - half[:, 1]
    near = np.hypot(np.maximum(local_x, 0), np.maximum(local_y, 0))
    around = near < 0.02
    near = np.maximum(near, 0.02)
    first = (start - bearing - turn.max(axis=1)) / _STEP_RAD
    last = (start - bearing - turn.min(axis=1)) / _STEP_RAD
    low_step = np.where(around, 0, np.ceil(first)).astype(np.int64)
    steps = np.where(around, STEPS, np.floor(last).astype(np.int64) - low_step + 1)
    bottom, top = centre[:, 2] - half[:, 2], centre[:, 2] + half[:, 2]
    low_ring = np.searchsorted(TAN, np.where(bottom < 0, bottom / near, bottom / far) - 1e-6)
    high_ring = np.searchsorted(TAN, np.where(top > 0, top / near, top / far) + 1e-6, side="right")
    rings = high_ring - low_ring
    count = np.where(near < RANGE_M, np.maximum(steps, 0) * np.maximum(rings, 0), 0)
    solid = np.repeat(np.arange(len(count), dtype=np.int32), count)
    offset = np.cumsum(count) - count
    place = (np.arange(len(solid), dtype=np.int64) - offset[solid]).astype(np.int32)
    wide = np.maximum(rings, 1).astype(np.int32)[solid]
    row = place // wide
    step = (low_step.astype(np.int32)[solid] + row) % STEPS
    ring = low_ring.astype(np.int32)[solid] + place - row * wide
    return solid, step, ring
