"""How far low precision moves boxes, and which layers are left in higher precision for it.

Every layer is lowered alone and its error measured on the boxes that the network is surest of. The layers with the
largest errors are then taken out, as few as keep the boxes within tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from kd3d.export.parity_match import Tolerance
from kd3d.export.ranges import Arrays
from kd3d.runtime.anchors import dense_anchor_boxes
from kd3d.runtime.heads import TaskMaps, heads_from_arrays
from kd3d.spec import DetectorSpec
from kd3d.spec.anchor import AnchorHeadSpec

FRAMES = 3  # of the calibration frames, for each layer
_SUREST = 200


class Layered(Protocol):
    """A plan whose layers, each with a ``name``, can be taken out."""

    @property
    def layers(self) -> Sequence[Any]:
        """Those in low precision."""
        ...

    def without(self, sensitive: Mapping[str, str]) -> Self:
        """The plan with some layers, by name, in higher precision: each with its rule."""
        ...

    def only(self, layer: Any) -> Self:
        """The plan with one layer."""
        ...


Judged = TypeVar("Judged")
Layers = TypeVar("Layers", bound=Layered)


def layer_errors(
    plan: Layers,
    feeds: Sequence[Arrays],
    runs: Callable[[Layers], Callable[[Arrays], Arrays]],
    *,
    exact: Callable[[Arrays], Arrays],
    spec: DetectorSpec,
    tolerance: Tolerance,
) -> dict[str, float]:
    """The error of each layer of ``plan`` when it alone is lowered.

    Args:
        plan: all layers that may be lowered.
        feeds: network inputs; ``FRAMES`` of them are used, spread evenly.
        runs: makes a function from feeds to head maps of a plan.
        exact: the same of no plan.
        spec: of the detector.
        tolerance: the unit of the errors.

    Returns:
        By layer, the root mean square over boxes of the largest difference of each, in tolerances.
    """
    some = [feeds[index] for index in np.unique(np.linspace(0, len(feeds) - 1, FRAMES).astype(int))]
    wanted = [exact(one) for one in some]
    found = {}
    for layer in plan.layers:
        network = runs(plan.only(layer))
        gaps = [box_gaps(one, network(feed), spec, tolerance) for one, feed in zip(wanted, some, strict=True)]
        found[layer.name] = float(np.sqrt(np.mean(np.concatenate(gaps) ** 2)))
    return found


def box_gaps(wanted: Arrays, got: Arrays, spec: DetectorSpec, tolerance: Tolerance) -> NDArray[np.float64]:
    """Differences of the boxes of the surest cells, in tolerances.

    Args:
        wanted: head maps that are right; they say which cells.
        got: head maps to judge.
        spec: of the detector.
        tolerance: one unit.

    Returns:
        ``[tasks * 200]`` (less on small maps; of an anchor head, classes instead of tasks): the largest of the
        differences in centre, size, heading, score and velocity of each box.
    """
    found = []
    if isinstance(spec.head, AnchorHeadSpec):
        first, second = (heads_from_arrays(maps, spec)[0] for maps in (wanted, got))
        for label in range(len(spec.head.classes)):
            array, scores = dense_anchor_boxes(first, label, spec)
            surest = np.argsort(-scores, kind="stable")[:_SUREST]
            other, others = dense_anchor_boxes(second, label, spec)
            found.append(_gaps(_parts(array, scores, surest), _parts(other, others, surest), tolerance))
        return np.concatenate(found)
    for one, two in zip(heads_from_arrays(wanted, spec), heads_from_arrays(got, spec), strict=True):
        scores = np.asarray(one.hm, np.float64).reshape(-1)
        surest = np.argsort(-scores, kind="stable")[:_SUREST]
        found.append(_gaps(_boxes(one, surest, spec), _boxes(two, surest, spec), tolerance))
    return np.concatenate(found)


def _parts(
    array: NDArray[np.float64], scores: NDArray[np.float64], places: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Values of the boxes at ``places`` of an anchor head, which has no velocity."""
    box = np.asarray(array, np.float64)[places].T
    return {"center_m": box[:3], "size_m": box[3:6], "yaw_rad": box[6:7], "score": np.asarray(scores)[places][None]}


def _boxes(maps: TaskMaps, places: NDArray[np.int64], spec: DetectorSpec) -> dict[str, NDArray[np.float64]]:
    """Values of the boxes at ``places`` of the flattened heatmaps, the cell's own place left out."""
    cells = places % maps.hm[0].size

    def at(value: Any) -> NDArray[np.float64]:
        return np.asarray(value, np.float64).reshape(len(value), -1)[:, cells]

    rot = at(maps.rot)
    with np.errstate(over="ignore"):
        size = np.exp(at(maps.dim))
        score = 1 / (1 + np.exp(-np.asarray(maps.hm, np.float64).reshape(-1)[places]))
    found = {
        "center_m": np.concatenate([at(maps.center) * spec.output_grid.cell_m, at(maps.center_z)]),
        "size_m": size,
        "yaw_rad": np.arctan2(rot[0], rot[1])[None],
        "score": score[None],
    }
    return found if maps.vel is None else {**found, "velocity_m_s": at(maps.vel)}


def _gaps(
    one: Mapping[str, NDArray[np.float64]], two: Mapping[str, NDArray[np.float64]], tolerance: Tolerance
) -> NDArray[np.float64]:
    parts = []
    for name, value in one.items():
        gap = np.abs(two[name] - value)
        if name == "yaw_rad":
            gap = np.abs((gap + np.pi) % (2 * np.pi) - np.pi)
        parts.append(gap.max(0) / getattr(tolerance, name))
    return np.asarray(np.minimum(np.nan_to_num(np.max(parts, axis=0), nan=1e3), 1e3))


def fewest_left_out(
    plan: Layers, errors: Mapping[str, float], judge: Callable[[Layers], tuple[bool, Judged]]
) -> tuple[Layers, Judged, bool]:
    """Take out the most sensitive layers, as few as ``judge`` asks for.

    Args:
        plan: all layers that may be lowered.
        errors: as ``layer_errors`` gives.
        judge: whether a plan is good enough, and what it found. A plan with less layers is taken for better.

    Returns:
        The plan with what ``judge`` found of it, and whether it was good enough; if none is, that with one layer.
    """
    order = sorted(errors, key=lambda name: -errors[name])

    def at(count: int) -> Layers:
        return plan.without({name: f"sensitive: {errors[name]:.2f} tolerances alone" for name in order[:count]})

    good, found = judge(at(0))
    best, low, high = (0, found), 1, len(order) - 1
    if good:
        return at(0), found, True
    while low <= high:
        middle = (low + high) // 2
        enough, found = judge(at(middle))
        if enough:
            good, best, high = True, (middle, found), middle - 1
        else:
            low = middle + 1
            best = best if good else (middle, found)
    return at(best[0]), best[1], good
