"""Point clouds from files, and from them the columns a detector eats."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kd3d.errors import DataError
from kd3d.geometry.boxes import Floats
from kd3d.runtime.arrays import read_arrays
from kd3d.runtime.pillar_kernel import compiled
from kd3d.spec.detector import PointSpec

NUSCENES_COLUMNS = ("x", "y", "z", "intensity", "ring")
KITTI_COLUMNS = ("x", "y", "z", "intensity")


def read_points(path: Path, columns: tuple[str, ...]) -> Floats:
    """Read a cloud.

    Args:
        path: ``.bin`` (float32, rows of ``columns``), ``.npy``, or ``.npz`` with ``points``.
        columns: names of the columns the file has.

    Returns:
        ``[N, len(columns)]`` float32, possibly without rows.

    Raises:
        DataError: the file is missing, damaged, has other columns, or holds NaN or infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    points = _read_bin(path, columns) if path.suffix == ".bin" else _read_array(path)
    if points.ndim != 2 or points.shape[1] != len(columns) or points.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: points must be numbers of shape (N, {len(columns)}) for the columns {', '.join(columns)}, "
            f"but are {points.dtype} of shape {points.shape}."
        )
    return check_finite(np.ascontiguousarray(points, np.float32), str(path))


def check_finite(points: Floats, where: str) -> Floats:
    """``points [N, F]`` as they are.

    Raises:
        DataError: a value is NaN or infinite; says how many rows, and the first.
    """
    finite = np.isfinite(points)
    if not finite.all():  # rows are looked at only then: that takes ten times as long
        bad = np.flatnonzero(~finite.all(axis=1))
        raise DataError(
            f"{where}: {len(bad)} of {len(points)} points have NaN or infinite values, the first in row {bad[0]}. "
            f"Remove these points or record the cloud again."
        )
    return points


def select_features(points: Floats, have: tuple[str, ...], spec: PointSpec) -> Floats:
    """The columns that ``spec`` names, in its order, with its intensity transform.

    Args:
        points: ``[N, len(have)]``.
        have: names of the columns.
        spec: which columns, and how intensity is scaled.

    Returns:
        ``[N, F]`` float32, a new array. A missing ``time_lag`` is zero: a single sweep.

    Raises:
        DataError: another column is missing, or ``points`` has not ``len(have)`` columns.
    """
    if points.ndim != 2 or points.shape[1] != len(have):
        raise DataError(f"points have shape {points.shape}, but {len(have)} columns are named: {', '.join(have)}.")
    missing = [name for name in spec.features if name not in have and name != "time_lag"]
    if missing:
        raise DataError(
            f"the detector needs the point column(s) {', '.join(missing)}, but the cloud has {', '.join(have)}. "
            f"Use data that has them, or a detector trained without them."
        )
    chosen = np.zeros((len(points), len(spec.features)), np.float32)
    for column, name in enumerate(spec.features):
        if name in have:
            chosen[:, column] = points[:, have.index(name)]
        if name == "intensity" and spec.intensity == "unit":
            chosen[:, column] /= 255
        elif name == "intensity" and spec.intensity == "tanh":
            chosen[:, column] = np.tanh(chosen[:, column])
    return chosen


def crop_to_image(points: Floats, lidar2image: Floats, size_px: tuple[int, int]) -> Floats:
    """The points that project into an image, in their order; KITTI labels only what its front camera sees.

    Args:
        points: ``[N, F]``, x, y, z first, LiDAR frame.
        lidar2image: ``[3, 4]``, to pixels times depth.
        size_px: width and height; a point on the left or upper border is inside, on the right or lower is not.

    Raises:
        DataError: ``lidar2image`` has another shape.
    """
    matrix = _checked(lidar2image)
    kernels = compiled()
    if kernels is None:
        return crop_to_image_reference(points, matrix, size_px)
    points = np.ascontiguousarray(points)
    kept = np.empty_like(points)
    count = kernels.crop(points, matrix, float(size_px[0]), float(size_px[1]), kept)
    cropped: Floats = kept[:count].copy()  # the rest of the buffer is let go
    return cropped


def crop_to_image_reference(points: Floats, lidar2image: Floats, size_px: tuple[int, int]) -> Floats:
    """``crop_to_image`` in numpy alone; the results are equal to the bit."""
    matrix = _checked(lidar2image)
    x, y, z = (points[:, axis].astype(np.float64) for axis in range(3))
    # Written out rather than a matrix product: BLAS adds in an order of its own.
    u, v, depth = (x * row[0] + y * row[1] + z * row[2] + row[3] for row in matrix)
    # u = projected / depth is compared without dividing, so that a depth of zero needs no exception.
    inside = (depth > 0) & (u >= 0) & (u < size_px[0] * depth) & (v >= 0) & (v < size_px[1] * depth)
    cropped: Floats = points[inside]
    return cropped


def _checked(lidar2image: Floats) -> Floats:
    matrix = np.ascontiguousarray(lidar2image, np.float64)
    if matrix.shape != (3, 4):
        raise DataError(f"lidar2image must have shape (3, 4), but has {matrix.shape}.")
    return matrix


def _read_bin(path: Path, columns: tuple[str, ...]) -> Floats:
    row_bytes, size = 4 * len(columns), path.stat().st_size
    if size % row_bytes:
        raise DataError(
            f"{path}: {size} bytes are not a whole number of points of {row_bytes} bytes "
            f"(float32 {', '.join(columns)}). The file is truncated or has other columns."
        )
    points: Floats = np.fromfile(path, np.float32).reshape(-1, len(columns))
    return points


def _read_array(path: Path) -> Floats:
    if path.suffix not in (".npy", ".npz"):
        raise DataError(f"{path}: a cloud is a .bin, .npy or .npz file.")
    arrays = read_arrays(path, again="Write the file again.")
    if "" in arrays:
        return arrays[""]
    if "points" not in arrays:
        raise DataError(f"{path}: has no array 'points', only {', '.join(arrays) or 'nothing'}.")
    return arrays["points"]
