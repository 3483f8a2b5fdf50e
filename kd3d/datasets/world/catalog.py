"""The annotated classes: sizes, shapes and nuScenes categories.

Mean and spread of the sizes follow the published class statistics of nuScenes, rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from kd3d.datasets.world import smallobjects, vehicles
from kd3d.datasets.world.primitives import Shape

Size = tuple[float, float, float]
ShapeMaker = Callable[[Size, np.random.Generator], Shape]


@dataclass(frozen=True)
class ObjectClass:
    """One kind of annotated object.

    Args:
        category: nuScenes category name.
        mean, spread: of length, width, height (metres); lengths of one object vary together.
        low, high: limits of the scale of each side relative to its mean.
        shape: makes the solids for a size.
    """

    category: str
    mean: Size
    spread: Size
    low: float
    high: float
    shape: ShapeMaker

    def draw(self, rng: np.random.Generator) -> Size:
        """A random size."""
        common = rng.standard_normal()
        own = rng.standard_normal(3)
        mean, spread = np.array(self.mean), np.array(self.spread)
        size = np.clip(mean + spread * (0.75 * common + 0.65 * own), mean * self.low, mean * self.high)
        return (float(size[0]), float(size[1]), float(size[2]))


_rider = partial(vehicles.cycle, rider=True)
_alone = partial(vehicles.cycle, rider=False)
_adult = "human.pedestrian.adult"

CLASSES: dict[str, ObjectClass] = {
    "car": ObjectClass("vehicle.car", (4.62, 1.93, 1.68), (0.42, 0.12, 0.22), 0.78, 1.3, vehicles.car),
    "truck": ObjectClass("vehicle.truck", (6.9, 2.45, 2.85), (1.9, 0.3, 0.7), 0.62, 1.6, vehicles.truck),
    "bus": ObjectClass("vehicle.bus.rigid", (10.8, 2.9, 3.4), (1.6, 0.15, 0.3), 0.6, 1.3, vehicles.bus),
    "trailer": ObjectClass("vehicle.trailer", (11.8, 2.7, 3.8), (2.6, 0.25, 0.4), 0.5, 1.4, vehicles.trailer),
    "construction_vehicle": ObjectClass(
        "vehicle.construction", (6.4, 2.8, 3.1), (1.4, 0.4, 0.5), 0.65, 1.5, vehicles.construction_vehicle
    ),
    "pedestrian": ObjectClass(_adult, (0.74, 0.7, 1.75), (0.14, 0.09, 0.12), 0.65, 1.45, smallobjects.pedestrian),
    "sitting": ObjectClass(
        _adult, (0.8, 0.7, 1.3), (0.1, 0.08, 0.1), 0.8, 1.25, partial(smallobjects.pedestrian, sitting=True)
    ),
    "child": ObjectClass(
        "human.pedestrian.child", (0.55, 0.52, 1.3), (0.08, 0.08, 0.12), 0.8, 1.2, smallobjects.pedestrian
    ),
    "worker": ObjectClass(
        "human.pedestrian.construction_worker", (0.76, 0.74, 1.75), (0.12, 0.08, 0.1), 0.8, 1.3, smallobjects.pedestrian
    ),
    "motorcycle_rider": ObjectClass(
        "vehicle.motorcycle", (2.1, 0.8, 1.62), (0.17, 0.08, 0.1), 0.8, 1.25, partial(_rider, motor=True)
    ),
    "motorcycle": ObjectClass(
        "vehicle.motorcycle", (2.05, 0.78, 1.22), (0.18, 0.08, 0.1), 0.8, 1.25, partial(_alone, motor=True)
    ),
    "bicycle_rider": ObjectClass(
        "vehicle.bicycle", (1.72, 0.62, 1.7), (0.1, 0.06, 0.1), 0.8, 1.2, partial(_rider, motor=False)
    ),
    "bicycle": ObjectClass(
        "vehicle.bicycle", (1.7, 0.58, 1.1), (0.1, 0.06, 0.08), 0.8, 1.2, partial(_alone, motor=False)
    ),
    "traffic_cone": ObjectClass(
        "movable_object.trafficcone", (0.42, 0.42, 0.9), (0.07, 0.06, 0.18), 0.6, 1.5, smallobjects.cone
    ),
    "barrier": ObjectClass(
        "movable_object.barrier", (0.55, 2.3, 1.0), (0.1, 0.4, 0.07), 0.6, 1.35, smallobjects.barrier
    ),
}
