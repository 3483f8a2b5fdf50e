"""What Autoware's CenterPoint node feeds, binds and reads, and which detectors fit it.

Read in ``autoware_lidar_centerpoint`` (0.43 and later revisions), without running it: docs/autoware.md has the sources.
The node groups and decorates the points, scatters the pillars and decodes the maps itself; two networks are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import LayoutError, UsageError
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.autoware_rules import PEDESTRIAN, PILLAR_CHANNELS, POINTS_PER_PILLAR
from kd3d.spec import CenterHeadSpec, DetectorSpec, PillarEncoderSpec

FULL_INTENSITY = 255.0
FEATURE_COUNTS = (9, 10, 11)
NODE_CLASSES = ("CAR", "TRUCK", "BUS", "TRAILER", "BICYCLE", "MOTORBIKE", PEDESTRIAN)
_SAME = {"VEHICLE": "CAR", "CYCLIST": "BICYCLE", "MOTORCYCLE": "MOTORBIKE", "VAN": "CAR"}
_NUDGES = 64

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Decoration:
    """A point as the node decorates it, and how kd3d's decoration follows from it.

    Args:
        names: the node's columns: x, y, z, (intensity), time_lag, then offsets to the pillar's mean and centre.
        matrix: ``[D, len(names)]``; kd3d's columns are ``matrix @ node + offset``.
        offset: ``[D]``; not zero only where the node leaves the offset to the centre's height out.
    """

    names: tuple[str, ...]
    matrix: Matrix
    offset: Matrix

    @property
    def features(self) -> int:
        """``encoder_in_feature_size``: 9, 10 or 11."""
        return len(self.names)

    @property
    def point_features(self) -> int:
        """``point_feature_size``: 4 (x, y, z, time_lag) or 5 (with intensity)."""
        return 5 if "intensity" in self.names else 4

    @property
    def intensity_scale(self) -> float:
        """What the node's intensity is multiplied by; 1 where the detector has none."""
        used = self.matrix[:, self.names.index("intensity")] if "intensity" in self.names else np.zeros(0)
        return float(used.max()) if used.any() else 1.0


def check_fits(spec: DetectorSpec) -> None:
    """Refuse what the node cannot run.

    Raises:
        LayoutError: says which part does not fit, and what to do.
    """
    encoder, head = spec.encoder, spec.head
    if not isinstance(encoder, PillarEncoderSpec) or not isinstance(head, CenterHeadSpec):
        part = "a voxel encoder" if not isinstance(encoder, PillarEncoderSpec) else "an anchor head"
        raise LayoutError(f"{spec.name} has {part}; Autoware's CenterPoint node runs pillars with a centre head only.")
    if len(head.tasks) != 1:
        raise LayoutError(
            f"{spec.name} has {len(head.tasks)} tasks, each with boxes of its own; Autoware's CenterPoint node reads "
            "one set of six maps and takes the best class of each cell. Distil a student whose classes are one task."
        )
    if encoder.filters[-1] > PILLAR_CHANNELS:
        raise LayoutError(
            f"{spec.name} has {encoder.filters[-1]} channels per pillar; Autoware's CenterPoint node scatters "
            f"{PILLAR_CHANNELS}. Use a student with at most {PILLAR_CHANNELS}."
        )
    foreign = [name for name in spec.points.features if name not in ("x", "y", "z", "intensity", "time_lag")]
    if foreign:
        raise LayoutError(
            f"{spec.name} eats the point column(s) {', '.join(foreign)}, which Autoware's CenterPoint node does not "
            "feed."
        )
    if "intensity" in spec.points.features and spec.points.intensity == "tanh":
        raise LayoutError(
            f"{spec.name} eats tanh of the intensity. The node feeds it linearly, and no linear layer makes one of "
            "the other."
        )


def decoration(spec: DetectorSpec, *, features: int | None = None, intensity_scale: float | None = None) -> Decoration:
    """The node's decoration for a detector.

    Args:
        spec: of a detector that fits.
        features: 9, 10 or 11; by default 11 where the detector eats intensity and 10 where it does not.
        intensity_scale: what the node's intensity (0 to 255) is multiplied by to become the detector's; by default
            1/255 where the specification says ``unit``, else 1.

    Raises:
        UsageError: ``features`` is none of them, or ``intensity_scale`` is not positive.
        LayoutError: the detector eats intensity, which 9 and 10 have not.
    """
    own = spec.points.features
    usual = 11 if "intensity" in own else 10
    count = usual if features is None else features
    if count not in FEATURE_COUNTS:
        raise UsageError(f"features must be 9, 10 or 11, not {count}.")
    if "intensity" in own and count != 11:
        raise LayoutError(f"{spec.name} eats intensity, which the node feeds with 11 features only, not with {count}.")
    usual_scale = 1 / FULL_INTENSITY if spec.points.intensity == "unit" else 1.0
    scale = usual_scale if intensity_scale is None else intensity_scale
    if not 0 < scale < math.inf:
        raise UsageError(f"the intensity scale must be positive, not {scale:g}.")
    names: tuple[str, ...] = ("x", "y", "z", *(("intensity",) if count == 11 else ()), "time_lag")
    names += ("mean x", "mean y", "mean z", "centre x", "centre y", *(("centre z",) if count > 9 else ()))
    wanted = (*own, "mean x", "mean y", "mean z", "centre x", "centre y", "centre z")
    matrix, offset = np.zeros((len(wanted), count)), np.zeros(len(wanted))
    for row, name in enumerate(wanted):
        if name == "centre z" and count == 9:  # z minus a constant
            matrix[row, names.index("z")] = 1
            offset[row] = -(spec.grid.z_min_m + spec.grid.height_m / 2)
        else:
            matrix[row, names.index(name)] = scale if name == "intensity" else 1
    return Decoration(names, matrix, offset)


def node_range(grid: BevGrid) -> tuple[float, float, float, float, float, float]:
    """``point_cloud_range`` that gives the node as many cells as the grid has.

    The node divides in float32 and cuts off, so that 153.6 m / 0.32 m may become 479 cells; the upper ends are then
    raised by single steps of float32, some micrometres.

    Raises:
        LayoutError: no such step helps.
    """
    x, y = (_upper(*ends) for ends in _ends(grid))
    return (grid.x_min_m, grid.y_min_m, grid.z_min_m, x, y, grid.z_max_m)


def _ends(grid: BevGrid) -> tuple[tuple[float, float, float, int], ...]:
    return (
        (grid.x_min_m, grid.x_max_m, grid.cell_m, grid.nx),
        (grid.y_min_m, grid.y_max_m, grid.cell_m, grid.ny),
    )


def _upper(low: float, high: float, cell: float, cells: int) -> float:
    end, exact = np.float32(high), high
    for _ in range(_NUDGES):
        found = int((end - np.float32(low)) / np.float32(cell))
        if found == cells:
            return exact
        end = np.nextafter(end, np.float32(math.inf if found < cells else -math.inf))
        exact = float(np.format_float_positional(end, unique=True))
    raise LayoutError(
        f"in float32, {low:g} to {high:g} m in cells of {cell:g} m are not {cells} cells, which is how the node counts."
    )


def class_names(spec: DetectorSpec, given: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """The node's names of the classes, in the order of the heatmap's channels.

    Args:
        spec: of the detector.
        given: names to use instead.

    Raises:
        UsageError: ``given`` has another length.
    """
    own = spec.head.classes
    if given is not None and len(given) != len(own):
        raise UsageError(f"{spec.name} has {len(own)} classes ({', '.join(own)}), but {len(given)} names were given.")
    names = given or own
    return tuple(_SAME.get(name.upper(), name.upper()) for name in names)


def notes(spec: DetectorSpec, names: tuple[str, ...]) -> tuple[str, ...]:
    """What the node does differently from kd3d for this detector; boxes may differ for these reasons."""
    encoder, found = spec.pillar_encoder, []
    unknown = [name for name in names if name not in NODE_CLASSES]
    if unknown:
        found.append(f"the node publishes {', '.join(unknown)} as UNKNOWN")
    if encoder.max_points != POINTS_PER_PILLAR:
        found.append(
            f"the node takes means over up to {POINTS_PER_PILLAR} points of a pillar, kd3d over {encoder.max_points}"
        )
    if "intensity" in spec.points.features and spec.points.intensity == "raw":
        found.append("the node's intensities are 0 to 255; were they so in training? If not, set the intensity scale")
    if spec.points.camera_view_only:
        found.append("the detector was made for the camera's view; the node feeds the whole cloud")
    if spec.decode.peak_kernel != 1 or spec.decode.nms != "circle":
        found.append("the node suppresses by circle and BEV IoU, not as the detector's own decoding says")
    return tuple(found)
