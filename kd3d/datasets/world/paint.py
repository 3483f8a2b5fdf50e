"""Materials, drawn at random so that colour and brightness do not give the class away."""

from __future__ import annotations

import colorsys

import numpy as np

from kd3d.datasets.world.primitives import Material

GLASS = Material(0.06, (0.16, 0.19, 0.22))
TYRE = Material(0.10, (0.07, 0.07, 0.07))
METAL = Material(0.45, (0.5, 0.5, 0.52))
BARK = Material(0.25, (0.30, 0.23, 0.17))
SIGN = Material(1.0, (0.85, 0.85, 0.82))


def paint(rng: np.random.Generator, *, low: float = 0.08, high: float = 0.7) -> Material:
    """Vehicle paint or plastic: mostly white, grey and black, sometimes coloured."""
    if rng.random() < 0.6:
        grey = float(rng.uniform(0.08, 0.9))
        rgb = (grey, grey, grey)
    else:
        rgb = colorsys.hsv_to_rgb(float(rng.random()), float(rng.uniform(0.4, 0.9)), float(rng.uniform(0.25, 0.85)))
    return Material(float(rng.uniform(low, high)), rgb)


def cloth(rng: np.random.Generator) -> Material:
    """Clothing and skin."""
    rgb = colorsys.hsv_to_rgb(float(rng.random()), float(rng.uniform(0.05, 0.7)), float(rng.uniform(0.12, 0.85)))
    return Material(float(rng.uniform(0.08, 0.45)), rgb, fuzz_m=0.05)


def leaves(rng: np.random.Generator, *, porosity: float) -> Material:
    """Vegetation: rays scatter inside it and some pass."""
    green = colorsys.hsv_to_rgb(
        float(rng.uniform(0.2, 0.38)), float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.25, 0.55))
    )
    return Material(float(rng.uniform(0.12, 0.4)), green, porosity=porosity, fuzz_m=0.35)


def masonry(rng: np.random.Generator) -> Material:
    """Walls."""
    rgb = colorsys.hsv_to_rgb(
        float(rng.uniform(0.03, 0.12)), float(rng.uniform(0.05, 0.4)), float(rng.uniform(0.4, 0.85))
    )
    return Material(float(rng.uniform(0.15, 0.5)), rgb)
