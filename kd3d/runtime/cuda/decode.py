"""Head maps to boxes on the device: the rules of ``kd3d.runtime.decode``, and their order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.cuda.gpu import THREADS, DeviceArray, Gpu
from kd3d.runtime.decode import sigmoid
from kd3d.runtime.heads import HEAD_NAMES, head_names
from kd3d.spec.detector import DetectorSpec

MAX_TOP_K = 4096  # the keys are sorted in shared memory
_NMS = {"none": 0, "rotate": 1, "circle": 2}

PLAN = np.dtype(
    [
        ("ny", "i4"), ("nx", "i4"), ("peak", "i4"), ("best_class", "i4"), ("top_k", "i4"), ("pre", "i4"),
        ("post", "i4"), ("nms", "i4"), ("capacity", "i4"), ("lowest", "f4"), ("cell", "f4"), ("x_min", "f4"),
        ("y_min", "f4"), ("limit", "f4", 6),
    ],
    align=True,
)  # fmt: skip
TASK = np.dtype(
    [*((name, "u8") for name in HEAD_NAMES), ("classes", "i4"), ("first_label", "i4"), ("threshold", "f8")], align=True
)


class DeviceDecoder:
    """Boxes of head maps that lie on the device.

    A rule without a top-K (det3d's) counts as one of every cell. Where that is more than the kernels sort, the best
    ``MAX_TOP_K`` are kept, if suppression reads no more; a frame whose boxes that could change is refused.

    Args:
        gpu: where.
        spec: of a detector with a centre head.
        heads: address of each head map, float32 ``[1, C, H, W]``, by its name in ``onnx_names``.

    Raises:
        DataError: ``top_k`` or the kind of suppression is not what the kernels do, or a map is missing.
    """

    def __init__(self, gpu: Gpu, spec: DetectorSpec, heads: Mapping[str, int]) -> None:
        tasks, grid = len(spec.center_head.tasks), spec.output_grid
        if spec.decode.nms not in _NMS:
            raise DataError(f"the CUDA kernels suppress by {', '.join(_NMS)}, not by {spec.decode.nms!r}.")
        top_k, self._cut = _sortable(spec)
        spec = replace(spec, decode=replace(spec.decode, top_k=top_k))
        rule = spec.decode
        self._gpu, self.spec, self._tasks = gpu, spec, tasks
        self._widest = max(map(len, spec.head.tasks)) * grid.ny * grid.nx
        self._words = -(-min(rule.top_k, rule.nms_pre) // 64)
        self._plan, self._maps = gpu.upload(_plan(spec, self._widest)), gpu.upload(_task_maps(spec, heads))
        self._keys = gpu.array((tasks, self._widest), np.uint64)
        self._candidates = _Room(gpu, tasks, rule.top_k)
        self._result = _Room(gpu, tasks, min(rule.nms_post, rule.top_k))
        self._counts, self._found, self._kept = self._result.counts, self._result.found, self._result.kept
        self._hits = gpu.array((tasks, rule.top_k, self._words), np.uint64)

    def decode(self) -> None:
        """Find the candidates of all tasks."""
        gpu, top_k = self._gpu, self.spec.decode.top_k
        gpu.fill(self._counts, 0)
        blocks = (-(-self._widest // THREADS), self._tasks, 1)
        broken = self._counts.tail(self._tasks)
        gpu.run("decode_mark", self._plan, self._maps, self._keys, self._counts, broken, grid=blocks)
        size = 1 << (top_k - 1).bit_length()
        gpu.run(
            "decode_select", self._plan, self._maps, self._keys, self._counts, *self._candidates.boxes, self._found,
            grid=(self._tasks, 1, 1), shared_bytes=8 * size,
        )  # fmt: skip

    def nms(self) -> None:
        """Suppress, task by task."""
        gpu, words = self._gpu, self._words
        if self.spec.decode.nms != "none":
            gpu.run(
                "nms_hits", self._plan, self._maps, self._candidates.boxes[0], self._found, self._hits, words,
                grid=(words, words, self._tasks), threads=64,
            )  # fmt: skip
        gpu.run(
            "nms_keep", self._plan, self._hits, *self._candidates.boxes, self._found, *self._result.boxes,
            self._kept, words, grid=(self._tasks, 1, 1), threads=64,
        )  # fmt: skip

    def candidates(self) -> Boxes3D:
        """Boxes before suppression, as ``kd3d.runtime.decode.candidates`` gives, the best ``MAX_TOP_K`` at most; waits
        for ``decode``.

        Raises:
            DataError: a heatmap holds NaN.
        """
        told = self._result.fetch()
        self._check(told)
        return _used(self._candidates.fetch(), told.found)

    def boxes(self) -> Boxes3D:
        """Boxes after suppression, as ``kd3d.runtime.decode.decode`` gives; one copy, and one wait for ``nms``.

        Raises:
            DataError: a heatmap holds NaN, or more candidates than the kernels sort could be among the boxes.
        """
        told = self._result.fetch()
        self._check(told)
        if self._cut:
            self._check_cut(told)
        return _used(told, told.kept)

    def _check(self, told: _Told) -> None:
        broken = np.flatnonzero(told.counts[self._tasks :])
        if len(broken):
            raise DataError(
                f"the heatmap of task {broken[0]} holds NaN: the network overflowed or its weights are damaged. "
                f"Check the checkpoint, or the precision of the engine."
            )

    def _check_cut(self, told: _Told) -> None:
        """Without a top-K, what was left out must not have come before what suppression read."""
        rule = self.spec.decode
        above, found = told.counts[: self._tasks], told.found
        lost = np.flatnonzero((above > rule.top_k) & (found < rule.nms_pre))
        if len(lost):
            raise DataError(
                f"task {lost[0]} has {above[lost[0]]} candidates; of the best {rule.top_k} all but {found[lost[0]]} "
                f"lie outside of the limit, and the kernels sort no more. Lower decode.top_k, or raise the threshold."
            )


class _Told(NamedTuple):
    """A ``_Room`` on the host; views that the next fetch writes again."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    counts: NDArray[np.int32]
    found: NDArray[np.int32]
    kept: NDArray[np.int32]


class _Room:
    """Boxes, scores and labels per task, and numbers of them, in one piece of memory: one copy fetches all.

    Attributes:
        boxes: boxes ``[tasks, rows, 9]``, scores and labels ``[tasks, rows]``.
        counts: of keys per task, then whether NaN was seen, ``[2 * tasks]``.
        found, kept: boxes before and after suppression, ``[tasks]``.
    """

    def __init__(self, gpu: Gpu, tasks: int, rows: int) -> None:
        shapes = ((tasks, rows, 9), (tasks, rows), (tasks, rows), (2 * tasks,), (tasks,), (tasks,))
        kinds = (np.float32, np.float32, *[np.int32] * 4)
        ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()  # in words of four bytes
        self._gpu, self._all = gpu, gpu.array((ends[-1],), np.int32)
        self._host = gpu.pinned(self._all.nbytes)
        starts = [0, *ends[:-1]]
        arrays = [
            DeviceArray(self._all.address + 4 * start, shape, np.dtype(kind))
            for start, shape, kind in zip(starts, shapes, kinds, strict=True)
        ]
        self.boxes = (arrays[0], arrays[1], arrays[2])
        self.counts, self.found, self.kept = arrays[3:]
        views: list[Any] = [
            self._host[4 * start : 4 * end].view(kind).reshape(shape)
            for start, end, kind, shape in zip(starts, ends, kinds, shapes, strict=True)
        ]
        self._views = _Told(*views)

    def fetch(self) -> _Told:
        """Everything, when what comes before it on the stream is done."""
        self._gpu.device.to_host(self._host, self._all.address, self._gpu.stream)
        self._gpu.device.synchronize(self._gpu.stream)
        return self._views


def _used(told: _Told, counts: NDArray[np.int32]) -> Boxes3D:
    """The first ``counts [tasks]`` boxes of each task, in memory of their own."""
    used = np.arange(told.scores.shape[1]) < counts[:, None]
    return Boxes3D(told.boxes[used], told.labels[used], told.scores[used])


def _sortable(spec: DetectorSpec) -> tuple[int, bool]:
    """How many candidates per task are sorted, and whether that leaves out some that the rule would keep."""
    rule, grid = spec.decode, spec.output_grid
    each = 1 if rule.top_k_rule == "cell" else max(map(len, spec.head.tasks))
    every = each * grid.ny * grid.nx
    if min(rule.top_k, every) <= MAX_TOP_K:
        return min(rule.top_k, every), False
    if rule.top_k >= every and rule.nms_pre <= MAX_TOP_K:
        return MAX_TOP_K, True
    raise DataError(f"decode.top_k is {rule.top_k}; the CUDA kernels sort at most {MAX_TOP_K}. Lower it.")


def lowest_logit(threshold: float) -> np.float32:
    """The lowest float32 whose ``sigmoid`` is above ``threshold``: comparing logits then equals comparing scores."""
    # float32 in their order are integers in theirs, so that bisection takes 32 steps.
    low, high = _ordinal(np.float32(-200)), _ordinal(np.float32(200))
    while high - low > 1:
        middle = (low + high) // 2
        if sigmoid(np.array([_float(middle)], np.float32))[0] > threshold:
            high = middle
        else:
            low = middle
    return _float(high)


def _ordinal(value: np.float32) -> int:
    bits = int(value.view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _float(ordinal: int) -> np.float32:
    bits = ordinal if ordinal >= 0 else (-ordinal) | 0x80000000
    return np.uint32(bits).view(np.float32)


def _plan(spec: DetectorSpec, capacity: int) -> NDArray[np.void]:
    rule, grid = spec.decode, spec.output_grid
    plan = np.zeros(1, PLAN)
    plan["ny"], plan["nx"], plan["cell"] = grid.ny, grid.nx, grid.cell_m
    plan["x_min"], plan["y_min"], plan["limit"] = grid.x_min_m, grid.y_min_m, rule.center_limit_m
    plan["peak"], plan["best_class"] = rule.peak_kernel, rule.top_k_rule == "cell"
    plan["top_k"], plan["pre"] = rule.top_k, min(rule.nms_pre, rule.top_k)
    plan["post"], plan["nms"] = min(rule.nms_post, rule.top_k), _NMS[rule.nms]
    plan["capacity"], plan["lowest"] = capacity, lowest_logit(rule.score_threshold)
    return plan


def _task_maps(spec: DetectorSpec, heads: Mapping[str, int]) -> NDArray[np.void]:
    tasks = np.zeros(len(spec.head.tasks), TASK)
    first_label = 0
    for task, classes in enumerate(spec.head.tasks):
        for name in head_names(spec.center_head):
            full = f"task{task}_{name}"
            if full not in heads:
                raise DataError(f"the network gave no output {full}; it gave {', '.join(heads) or 'nothing'}.")
            tasks[name][task] = heads[full]
        tasks["classes"][task], tasks["first_label"][task] = len(classes), first_label
        tasks["threshold"][task] = spec.decode.nms_threshold[task]
        first_label += len(classes)
    return tasks
