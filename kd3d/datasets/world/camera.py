"""Pinhole pictures of the scene: the LiDAR's solids and ground, ray cast at half resolution and enlarged.

Colours belong to instances, not to classes. Light is one sun plus sky; distance fades into haze.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.world.cast import intersect, normals
from kd3d.datasets.world.groundpaint import ground_colour
from kd3d.datasets.world.primitives import PlacedPrimitives
from kd3d.datasets.world.project import pixel_windows
from kd3d.datasets.world.rig import IMAGE_SIZE, CameraMount
from kd3d.datasets.world.roads import Terrain
from kd3d.optional import require

Floats = NDArray[Any]

SHRINK = 2
FAR_M = 250.0
_NEAR_M = 0.25
_GRAZING = 0.08  # rays less steep than this, up or down, are marched over the ground
_MARCH_M = np.geomspace(4.0, FAR_M, 20)
_SUN = np.array([0.45, -0.35, 0.82]) / np.linalg.norm([0.45, -0.35, 0.82])
_HAZE = np.array([0.74, 0.78, 0.82], np.float32)
_ZENITH = np.array([0.42, 0.58, 0.80], np.float32)
_PAIRS_AT_ONCE = 1_500_000
_NOTHING = -1


def render(
    placed: PlacedPrimitives, terrain: Terrain, mount: CameraMount, ego: tuple[float, float, float, float], texture: int
) -> NDArray[np.uint8]:
    """Take one picture.

    Args:
        placed: all solids at the time of exposure; those of the last owner, the vehicle itself, are left out.
        terrain: the ground.
        mount: the camera.
        ego: x, y, z and yaw of the vehicle at the time of exposure.
        texture: seed of the surfaces' noise.

    Returns:
        ``[900, 1600, 3]`` RGB.
    """
    rotation, origin = camera_pose(mount, ego)
    size = (IMAGE_SIZE[0] // SHRINK, IMAGE_SIZE[1] // SHRINK)
    direction = _rays(mount, rotation, size)
    depth = _ground_depth(terrain, origin, direction)
    winner = np.full(depth.shape, _NOTHING, np.int32)
    rng = np.random.default_rng(texture)
    windows = pixel_windows(placed, (rotation, origin), mount, size=size, shrink=SHRINK)
    _cast_solids(placed, origin, direction, image=(depth, winner), windows=windows, rng=rng)
    colour = _shade(placed, terrain, origin, direction, depth=depth, winner=winner, rng=rng)
    return _enlarge(colour.reshape(size[1], size[0], 3))


def camera_pose(mount: CameraMount, ego: tuple[float, float, float, float]) -> tuple[Floats, Floats]:
    """Camera axes in the world ``[3, 3]`` and its position ``[3]``."""
    cos, sin = np.cos(ego[3]), np.sin(ego[3])
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return turn @ mount.rotation(), np.array(ego[:3]) + turn @ np.array(mount.position)


def write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB image."""
    require("PIL.Image", extra="nuscenes").fromarray(image).save(path, format="JPEG", quality=85)


def _rays(mount: CameraMount, rotation: Floats, size: tuple[int, int]) -> tuple[Floats, Floats, Floats]:
    """Three flat float32 arrays: directions whose camera depth is 1."""
    u = ((np.arange(size[0]) + 0.5) * SHRINK - mount.centre_px[0]) / mount.focal_px
    v = ((np.arange(size[1]) + 0.5) * SHRINK - mount.centre_px[1]) / mount.focal_px
    world = (
        (u[None, :, None] * rotation[:, 0] + v[:, None, None] * rotation[:, 1] + rotation[:, 2])
        .reshape(-1, 3)
        .astype(np.float32)
    )
    return np.ascontiguousarray(world[:, 0]), np.ascontiguousarray(world[:, 1]), np.ascontiguousarray(world[:, 2])


def _ground_depth(terrain: Terrain, origin: Floats, direction: tuple[Floats, Floats, Floats]) -> Floats:
    """Depth of the ground along every ray; infinite for the sky.

    Slopes are mild, so fixed-point steps converge for steep rays. Grazing ones may meet a rise first, where the steps
    would run away, so they are marched.
    """
    result = np.full(len(direction[0]), np.inf, np.float32)
    steep = np.flatnonzero(direction[2] < -_GRAZING)
    dx, dy, dz = (axis[steep].astype(np.float64) for axis in direction)
    height = float(terrain.base(np.asarray(origin[0]), np.asarray(origin[1])))
    t = np.minimum((height - origin[2]) / dz, FAR_M)
    for _ in range(3):
        t = np.clip((terrain.base(origin[0] + t * dx, origin[1] + t * dy) - origin[2]) / dz, 0.1, FAR_M)
    result[steep] = t
    grazing = np.flatnonzero((direction[2] >= -_GRAZING) & (direction[2] < _GRAZING))
    dx, dy, dz = (axis[grazing].astype(np.float64)[:, None] for axis in direction)
    above = origin[2] + _MARCH_M * dz - terrain.base(origin[0] + _MARCH_M * dx, origin[1] + _MARCH_M * dy)
    met = np.flatnonzero((above < 0).any(1))
    first = np.maximum((above[met] < 0).argmax(1), 1)
    before, after = above[met, first - 1], above[met, first]
    share = np.clip(before / (before - after), 0, 1)
    result[grazing[met]] = 1 / (1 / _MARCH_M[first - 1] + share * (1 / _MARCH_M[first] - 1 / _MARCH_M[first - 1]))
    return result


def _cast_solids(
    placed: PlacedPrimitives,
    origin: Floats,
    direction: tuple[Floats, Floats, Floats],
    *,
    image: tuple[Floats, Floats],
    windows: Floats,
    rng: np.random.Generator,
) -> None:
    """Draw every solid into ``image`` (depth and winner, changed in place), in groups of bounded memory."""
    depth, winner = image
    width = IMAGE_SIZE[0] // SHRINK
    wide, tall = windows[:, 1] - windows[:, 0], windows[:, 3] - windows[:, 2]
    area = np.where((wide > 0) & (tall > 0), wide * tall, 0)
    area[placed.table.owner == placed.table.owner.max()] = 0
    group = np.cumsum(area) // _PAIRS_AT_ONCE
    for number in np.unique(group[area > 0]):
        chosen = np.flatnonzero((group == number) & (area > 0))
        solid = np.repeat(chosen, area[chosen])
        place = np.arange(len(solid)) - np.repeat(np.cumsum(area[chosen]) - area[chosen], area[chosen])
        row = place // wide[solid]
        pixel = (windows[solid, 2] + row) * width + windows[solid, 0] + place - row * wide[solid]
        t = intersect(placed, origin, solid, (direction[0][pixel], direction[1][pixel], direction[2][pixel]))
        hit = np.flatnonzero((t < depth[pixel]) & (t > _NEAR_M))
        solid, pixel, t = solid[hit], pixel[hit], t[hit]
        porosity = placed.table.porosity[solid]
        solidly = (porosity == 0) | (rng.random(len(solid), np.float32) >= porosity)
        solid, pixel, t = solid[solidly], pixel[solidly], t[solidly]
        order = np.argsort(-t, kind="stable")
        depth[pixel[order]] = t[order]
        winner[pixel[order]] = solid[order]


def _shade(
    placed: PlacedPrimitives,
    terrain: Terrain,
    origin: Floats,
    direction: tuple[Floats, Floats, Floats],
    *,
    depth: Floats,
    winner: Floats,
    rng: np.random.Generator,
) -> Floats:
    """``[H * W, 3]`` colours, 0..1."""
    ray = np.stack(direction, axis=1)
    up = ray[:, 2] / np.linalg.norm(ray, axis=1)
    colour = _HAZE + (_ZENITH - _HAZE) * np.clip(up * 2.2, 0, 1)[:, None]
    ground = np.flatnonzero((winner == _NOTHING) & np.isfinite(depth))
    point = origin + depth[ground, None].astype(np.float64) * ray[ground]
    colour[ground] = ground_colour(terrain, point[:, 0], point[:, 1], depth[ground]) * 0.9
    seen = np.flatnonzero(winner != _NOTHING)
    solid = winner[seen]
    point = origin + depth[seen, None].astype(np.float64) * ray[seen]
    normal = normals(placed, solid, point)
    light = 0.42 + 0.22 * normal[:, 2] + 0.5 * np.maximum(normal @ _SUN, 0.0)
    fuzzy = placed.table.fuzz_m[solid]
    grain = 1 + (rng.random(len(solid)) - 0.5) * (0.05 + 1.6 * np.minimum(fuzzy, 0.35))
    colour[seen] = placed.table.rgb[solid] * (light * grain)[:, None]
    solid_or_ground = np.isfinite(depth)
    fade = np.exp(-depth[solid_or_ground] / 220.0)[:, None]
    colour[solid_or_ground] = colour[solid_or_ground] * fade + _HAZE * (1 - fade)
    return np.asarray(np.clip(colour + rng.normal(0, 0.012, colour.shape), 0, 1))


def _enlarge(colour: Floats) -> NDArray[np.uint8]:
    image = require("PIL.Image", extra="nuscenes")
    small = image.fromarray((np.power(colour, 0.85) * 255).astype(np.uint8))
    return np.asarray(small.resize(IMAGE_SIZE, image.BILINEAR))
