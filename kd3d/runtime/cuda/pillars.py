"""Points to pillars on the device: the rules of ``kd3d.runtime.pillars``, and their order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError
from kd3d.geometry.boxes import Floats
from kd3d.runtime.cuda.gpu import DeviceArray, Gpu
from kd3d.spec.detector import DetectorSpec

_INT_MAX = np.iinfo(np.int32).max
_MORE_THAN_ANY_INDEX = 0x7F  # as a byte: 0x7f7f7f7f
_FEATURES = 8
_ROW_THREADS = 32
_HEAD_BYTES = 128  # the cloud begins here, aligned
_TRANSFORMS = {"raw": 0, "unit": 1, "tanh": 2}

PLAN = np.dtype(
    [
        ("low", "f4", 3), ("cell", "f4", 3), ("centre", "f4", 3), ("nx", "i4"), ("ny", "i4"),
        ("columns", "i4", _FEATURES), ("features", "i4"), ("stride", "i4"), ("intensity", "i4"), ("transform", "i4"),
        ("max_points", "i4"), ("max_pillars", "i4"), ("capacity", "i4"), ("wide", "i4"),
    ],
    align=True,
)  # fmt: skip
HEAD = np.dtype([("points", "i4"), ("crop", "i4"), ("matrix", "f8", 12), ("width", "f8"), ("height", "f8")], align=True)
STATS = np.dtype([("pillars", "i4"), ("inside", "i4"), ("kept", "i4"), ("broken", "i4"), ("behind", "i4")])


class Crop(NamedTuple):
    """Keep only points that project into an image: the matrix ``[3, 4]`` and the image's width and height."""

    lidar2image: Floats
    size_px: tuple[int, int]


class PillarCounts(NamedTuple):
    """What a frame held: pillars that are kept, and what was dropped; as in ``HardPillars``."""

    pillars: int
    dropped_points: int
    dropped_pillars: int


class DevicePillars:
    """Pillars of one cloud after another, in device memory that is reserved once.

    Args:
        gpu: where.
        spec: of a detector with pillars.
        columns: what the cloud's columns are.
        capacity: points of the largest cloud.
        max_pillars: kept per frame; the encoder's unless given.
        wide: whether the network reads counts and cells as int64.

    Raises:
        DataError: the cloud lacks a column that the detector needs.
    """

    def __init__(
        self, gpu: Gpu, spec: DetectorSpec, columns: tuple[str, ...], *, capacity: int, max_pillars: int | None = None,
        wide: bool = True,
    ) -> None:  # fmt: skip
        self._gpu, self.spec, self.columns, self.capacity = gpu, spec, columns, max(capacity, 1)
        self.max_pillars = min(max_pillars or spec.pillar_encoder.max_pillars, spec.pillar_encoder.max_pillars)
        plan = _plan(spec, columns)
        plan["capacity"], plan["max_pillars"], plan["wide"] = self.capacity, self.max_pillars, wide
        self._plan = gpu.upload(plan)
        self._row_bytes = 4 * len(columns)
        self._staging = gpu.pinned(_HEAD_BYTES + self.capacity * self._row_bytes)
        self._frame = gpu.array((len(self._staging),), np.uint8)
        self._cloud = self._frame.tail(_HEAD_BYTES)
        self._cells, self._opens, self._list = (gpu.array((self.capacity,), np.int32) for _ in range(3))
        self._pillar_of = gpu.array((spec.grid.ny * spec.grid.nx,), np.int32)
        self._stats = gpu.array((1,), STATS)
        # Counts and how many of each list are taken; both are zero in the beginning.
        self._counts, self._taken, self._pillar_cell = (gpu.array((self.max_pillars,), np.int32) for _ in range(3))
        self._numbers, self._starts = gpu.prefix(self.capacity), gpu.prefix(self.max_pillars)
        self._total = gpu.array((1,), np.int32)

    def group(self, points: Floats, *, crop: Crop | None = None, where: str = "the cloud") -> PillarCounts:
        """Find the pillars of a cloud; ``write`` then makes the network's input.

        Args:
            points: ``[M, len(columns)]``.
            crop: leaves out points that the image does not show.
            where: names the cloud in errors.

        Raises:
            DataError: a shape that does not fit, more points than the capacity, or NaN and infinite values.
        """
        self._upload(points, crop)
        self._launch()
        return self._checked(self._gpu.fetch(self._stats)[0], where, len(points))

    def write(self, rows: int, features: DeviceArray, counts: DeviceArray, cells: DeviceArray) -> None:
        """Write the network's input: ``features [rows, N, D]``, ``counts`` and ``cells [rows]``.

        Rows without a pillar are zero, with count 0 and cell ``ny * nx``.
        """
        slots = self.spec.pillar_encoder.max_points
        self._gpu.run(
            "pillar_features", self._plan, self._cloud, self._stats, self._pillar_cell, self._counts,
            self._starts.before, self._starts.sums, self._list, features, counts, cells,
            grid=(rows, 1, 1), threads=_ROW_THREADS, shared_bytes=8 * slots,
        )  # fmt: skip

    def _upload(self, points: Floats, crop: Crop | None) -> None:
        if points.ndim != 2 or points.shape[1] != len(self.columns):
            raise DataError(
                f"points have shape {points.shape}, but {len(self.columns)} columns are named: "
                f"{', '.join(self.columns)}."
            )
        if len(points) > self.capacity:
            raise DataError(f"a cloud of {len(points)} points does not fit into room for {self.capacity}.")
        head = self._staging[: HEAD.itemsize].view(HEAD)
        head["points"], head["crop"] = len(points), crop is not None
        if crop is not None:
            head["matrix"] = np.asarray(crop.lidar2image, np.float64).ravel()
            head["width"], head["height"] = crop.size_px
        used = _HEAD_BYTES + points.size * 4
        np.copyto(self._staging[_HEAD_BYTES:used].view(np.float32).reshape(points.shape), points)
        self._gpu.device.to_device(self._frame.address, self._staging[:used], self._gpu.stream)

    def _launch(self) -> None:
        gpu, capacity = self._gpu, self.capacity
        gpu.fill(self._pillar_of, _MORE_THAN_ANY_INDEX)
        for zeroed in (self._stats, self._counts, self._taken):
            gpu.fill(zeroed, 0)
        opener, numbers, starts = self._pillar_of, self._numbers, self._starts
        gpu.per_item(
            "pillar_cells", self._plan, self._frame, self._cloud, self._cells, opener, self._stats, items=capacity
        )
        gpu.per_item("pillar_opens", self._cells, opener, self._opens, capacity, items=capacity)
        gpu.scan(self._opens, numbers, self._stats)  # the total is its first field
        gpu.per_item(
            "pillar_numbers", self._plan, self._cells, self._opens, numbers.before, numbers.sums, opener,
            self._pillar_cell, items=capacity,
        )  # fmt: skip
        gpu.per_item("pillar_counts", self._cells, opener, self._counts, capacity, items=capacity)
        gpu.scan(self._counts, starts, self._total)
        gpu.per_item(
            "pillar_lists", self._cells, opener, starts.before, starts.sums, self._taken, self._list, capacity,
            items=capacity,
        )  # fmt: skip
        gpu.run("pillar_kept", self._plan, self._counts, self._stats, grid=(1, 1, 1))

    def _checked(self, stats: np.void, where: str, points: int) -> PillarCounts:
        if stats["broken"]:
            raise DataError(
                f"{where}: {stats['broken']} of {points} points have NaN or infinite values, the first in row "
                f"{_INT_MAX - stats['behind']}. Remove these points or record the cloud again."
            )
        pillars = min(int(stats["pillars"]), self.max_pillars)
        return PillarCounts(pillars, int(stats["inside"] - stats["kept"]), int(stats["pillars"]) - pillars)


def _plan(spec: DetectorSpec, columns: tuple[str, ...]) -> NDArray[np.void]:
    names, grid = spec.points.features, spec.grid
    missing = [name for name in names if name not in columns and name != "time_lag"]
    if missing:
        raise DataError(
            f"the detector needs the point column(s) {', '.join(missing)}, but the cloud has {', '.join(columns)}. "
            f"Use data that has them, or a detector trained without them."
        )
    plan = np.zeros(1, PLAN)
    plan["low"] = grid.x_min_m, grid.y_min_m, grid.z_min_m
    plan["cell"] = grid.cell_m, grid.cell_m, grid.height_m
    half = grid.cell_m / 2
    plan["centre"] = half + grid.x_min_m, half + grid.y_min_m, grid.height_m / 2 + grid.z_min_m
    plan["nx"], plan["ny"] = grid.nx, grid.ny
    plan["columns"][0, : len(names)] = [columns.index(name) if name in columns else -1 for name in names]
    plan["features"], plan["stride"] = len(names), len(columns)
    plan["intensity"] = names.index("intensity") if "intensity" in names else -1
    plan["transform"] = _TRANSFORMS[spec.points.intensity]
    plan["max_points"] = spec.pillar_encoder.max_points
    return plan
