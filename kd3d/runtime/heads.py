"""The maps a centre head puts out, one set per task, and the names they carry through ONNX.

Meaning of the values, in every framework's place: ``hm`` logits; ``center`` offset (dx, dy) from the cell's corner in
cells; ``center_z`` metres; ``dim`` log of (length, width, height) in metres; ``rot`` (sin, cos) of yaw; ``vel``
metres per second in the LiDAR frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError
from kd3d.spec.anchor import AnchorHeadSpec
from kd3d.spec.detector import CenterHeadSpec, DetectorSpec

HEAD_NAMES = ("hm", "center", "center_z", "dim", "rot", "vel")


class TaskMaps(NamedTuple):
    """Head maps of one task, each ``[..., C, H, W]``, of numpy or torch; ``vel`` may be ``None``."""

    hm: Any
    center: Any
    center_z: Any
    dim: Any
    rot: Any
    vel: Any = None


class AnchorMaps(NamedTuple):
    """Maps of an anchor head, each ``[..., C, H, W]``, numpy or torch; channels as ``AnchorHeadSpec`` orders them."""

    cls: Any
    box: Any
    dir: Any


def head_names(head: CenterHeadSpec) -> tuple[str, ...]:
    """The names of the maps that a task of ``head`` has."""
    return HEAD_NAMES if head.velocity else HEAD_NAMES[:-1]


def onnx_names(spec: DetectorSpec) -> list[str]:
    """Output names of the network: ``task{t}_{name}``, tasks in order, then maps in ``HEAD_NAMES``' order.

    Of an anchor head: ``anchor_cls``, ``anchor_box``, ``anchor_dir``.
    """
    if isinstance(spec.head, AnchorHeadSpec):
        return [f"anchor_{name}" for name, _ in spec.head.maps]
    return [f"task{task}_{name}" for task in range(len(spec.head.tasks)) for name in head_names(spec.center_head)]


def heads_from_arrays(arrays: Mapping[str, NDArray[Any]], spec: DetectorSpec) -> tuple[Any, ...]:
    """Sort named arrays into tasks, without their batch dimension.

    Args:
        arrays: ``[1, C, H, W]`` or ``[C, H, W]`` under the names of ``onnx_names``; others are ignored.
        spec: of the detector that made them.

    Raises:
        DataError: a map is missing or has another shape than the specification says.
    """
    missing = [name for name in onnx_names(spec) if name not in arrays]
    if missing:
        raise DataError(f"the network gave no output {', '.join(missing)}; it gave {', '.join(arrays) or 'nothing'}.")
    if isinstance(spec.head, AnchorHeadSpec):
        return (AnchorMaps(*(_one_map(f"anchor_{name}", arrays, spec, 0) for name, _ in spec.head.maps)),)
    return tuple(
        TaskMaps(**{name: _one_map(f"task{task}_{name}", arrays, spec, task) for name in head_names(spec.center_head)})
        for task in range(len(spec.head.tasks))
    )


def _one_map(full_name: str, arrays: Mapping[str, NDArray[Any]], spec: DetectorSpec, task: int) -> NDArray[Any]:
    if isinstance(spec.head, AnchorHeadSpec):
        sizes = dict(spec.head.maps)
    else:
        sizes = {"hm": len(spec.head.tasks[task]), **dict(spec.head.branches)}
    channels = sizes[full_name.partition("_")[2]]
    grid = spec.output_grid
    value = np.asarray(arrays[full_name])
    if value.ndim == 4 and value.shape[0] == 1:
        value = value[0]
    if value.shape != (channels, grid.ny, grid.nx):
        raise DataError(f"{full_name} must have shape {(channels, grid.ny, grid.nx)}, but has {value.shape}.")
    return value
