"""Colour of the ground: asphalt with lane markings and crossings, kerbs, pavement, grass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.world.roads import Road, Terrain

Floats = NDArray[Any]
_ASPHALT = np.array([0.27, 0.27, 0.28], np.float32)
_PAVING = np.array([0.55, 0.53, 0.50], np.float32)
_GRASS = np.array([0.33, 0.40, 0.22], np.float32)
_PAINT = np.array([0.82, 0.82, 0.80], np.float32)
_PAVEMENT_M = 4.5


def ground_colour(terrain: Terrain, x: Floats, y: Floats, depth: Floats) -> Floats:
    """``[N, 3]`` colour of ground points; ``depth`` widens thin lines so that they do not flicker far away."""
    places = [road.locate(x, y) for road in terrain.roads]
    edge = np.min([np.abs(d) - road.half_width_m for road, (_, d) in zip(terrain.roads, places, strict=True)], axis=0)
    noise = _speckle(x, y)
    colour = np.where((edge < _PAVEMENT_M)[:, None], _PAVING, _GRASS).astype(np.float32)
    slabs = (edge >= 0) & (edge < _PAVEMENT_M) & ((np.mod(x, 1.2) < 0.05) | (np.mod(y, 1.2) < 0.05))
    colour[slabs & (depth < 25)] *= 0.85
    colour[edge < 0] = _ASPHALT
    thin = 0.07 + depth * 0.0006
    junction = (
        np.sum([np.abs(d) < road.half_width_m for road, (_, d) in zip(terrain.roads, places, strict=True)], axis=0) > 1
    )
    for road, (s, d) in zip(terrain.roads, places, strict=True):
        colour[_markings(road, s, d, thin) & ~junction & (edge < 0)] = _PAINT
    if len(terrain.roads) > 1:
        (_, d0), (_, d1) = places
        colour[_zebra(terrain.roads[1], d1, d0) & (np.abs(d0) < terrain.roads[0].half_width_m)] = _PAINT
    colour[(edge >= 0) & (edge < 0.18)] = _PAVING * 1.15
    return np.asarray(colour * (0.86 + 0.28 * noise)[:, None])


def _markings(road: Road, s: Floats, d: Floats, thin: Floats) -> Floats:
    """Centre line, dashed lane lines, and the line beside the parking strip."""
    across = np.abs(d)
    lane = np.mod(across + road.lane_m / 2, road.lane_m) - road.lane_m / 2
    number = np.rint(across / road.lane_m)
    on_line = np.abs(lane) < thin
    dashed = (np.mod(s, 9.0) < 3.0) | (number == 0) | (number == road.lanes)
    return np.asarray(on_line & dashed & (number <= road.lanes))


def _zebra(crossing: Road, beside: Floats, across: Floats) -> Floats:
    """Stripes over the main road on both sides of the crossing road."""
    band = (np.abs(beside) > crossing.half_width_m + 0.6) & (np.abs(beside) < crossing.half_width_m + 3.2)
    return np.asarray(band & (np.mod(across, 1.0) < 0.5))


def _speckle(x: Floats, y: Floats) -> Floats:
    """Noise fixed to the ground, 0..1, from a hash of 6 cm cells and a slow wave."""
    cell = np.floor(x * 16) * 12.9898 + np.floor(y * 16) * 78.233
    fine = np.abs(np.sin(cell) * 43758.5453) % 1.0
    return np.asarray(0.6 * fine + 0.2 + 0.2 * np.sin(x * 0.55 + 1.3 * np.sin(y * 0.31)))
