"""Point files as frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd3d.errors import DataError, UsageError

if TYPE_CHECKING:
    from kd3d.spec.detector import DetectorSpec


def frame_from_file(path: Path, spec: DetectorSpec, *, columns: str | None = None) -> tuple[Any, DetectorSpec]:
    """One frame, and the specification to feed it to.

    A ``.bin`` has the columns of its data set: those of ``columns``, else nuScenes' for ``.pcd.bin`` and for nuScenes
    and world models, else KITTI's. An ``.npy`` or ``.npz`` is in the model's feature order and fed as it is, so the
    returned specification has no intensity transform.

    Raises:
        DataError: the file is missing or damaged.
        UsageError: another kind of file.
    """
    import numpy as np

    from kd3d.runtime.frames import Frame
    from kd3d.runtime.points import read_points

    if path.suffix in (".npy", ".npz"):
        names = spec.points.features
        spec = replace(spec, points=replace(spec.points, intensity="raw"))
    elif path.suffix == ".bin":
        names = tuple(columns.split(",")) if columns else _columns(path, spec)
    else:
        raise UsageError(f"{path}: points are read from .bin, .npy or .npz files.")
    points = read_points(path, names)
    frame = Frame(path.name, points, names, None, spec.head.classes, np.eye(4), np.eye(4), None, None)
    return frame, spec


def frames_at(path: Path, spec: DetectorSpec, *, columns: str | None = None) -> Sequence[Any]:
    """Recorded frames, read when they are asked for or at once.

    Args:
        path: a folder of portable frames, a ``.bin``, or a folder with ``.bin`` files (in the order of their names).
            A ``.bin`` comes without a calibration, so a detector that keeps the camera's view gets the whole cloud.
        spec: of the detector that will eat them.
        columns: of the ``.bin`` files; see ``frame_from_file``.

    Raises:
        DataError: there are none, or one is damaged.
        UsageError: a file of another kind.
    """
    from kd3d.runtime.frames import read_frames

    if path.is_dir() and not (path / "frames.json").exists() and (files := sorted(path.glob("*.bin"))):
        return [frame_from_file(file, spec, columns=columns)[0] for file in files]
    if path.suffix == ".bin":
        return [frame_from_file(path, spec, columns=columns)[0]]
    if path.is_file():
        raise UsageError(f"{path}: frames are a folder of portable frames, a .bin file or a folder of .bin files.")
    if path.is_dir() and not (path / "frames.json").exists():
        raise DataError(
            f"{path}: neither portable frames (frames.json is missing) nor .bin files. "
            "Make portable frames with: kd3d data frames"
        )
    folder: Any = read_frames(path)  # has the length and the items of a sequence, without being registered as one
    return folder


def chosen_frames(path: Path | None, count: int, *, spec: DetectorSpec, columns: str | None) -> list[Any]:
    """``count`` frames spread over ``path`` for a gate; none without a path, as gates use generated ones as well."""
    if path is None:
        return []
    from kd3d.cli.data_frames import spread

    found = frames_at(path, spec, columns=columns)
    return [found[index] for index in spread(len(found), count)]


def _columns(path: Path, spec: DetectorSpec) -> tuple[str, ...]:
    from kd3d.runtime.points import KITTI_COLUMNS, NUSCENES_COLUMNS

    nuscenes = path.name.endswith(".pcd.bin") or spec.name.startswith(("nuscenes", "world"))
    return NUSCENES_COLUMNS if nuscenes else KITTI_COLUMNS
