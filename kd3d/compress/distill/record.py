"""What a cache keeps of a teacher's output: the cells that signals read, in half precision, and its boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd3d.compress.distill.reads import Extent, Reads
from kd3d.detectors.model import DetectorOutput
from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.heads import AnchorMaps, TaskMaps
from kd3d.spec import AnchorHeadSpec, DetectorSpec

LOWEST_LOGIT = -30.0  # of the cells that are not kept: its probability is below the floor that signals compare at
_BOX = 11  # nine numbers, score, label


@dataclass(frozen=True)
class Layout:
    """Which numbers of a teacher's output a record has.

    Args:
        spec: of the teacher.
        reads: what the signals read.
    """

    spec: DetectorSpec
    reads: Reads

    @property
    def heats(self) -> int:
        """Heatmaps of all tasks; of an anchor head its class logits."""
        head = self.spec.head
        return dict(head.maps)["cls"] if isinstance(head, AnchorHeadSpec) else len(head.classes)

    @property
    def codes(self) -> int:
        """Box code maps of all tasks; of an anchor head its residuals and heading bins."""
        if isinstance(self.spec.head, AnchorHeadSpec):
            return sum(channels for name, channels in self.spec.head.maps if name != "cls")
        return len(self.spec.head.tasks) * (10 if self.spec.head.velocity else 8)

    def channels(self, extent: Extent) -> int:
        """Maps that are kept to this extent."""
        return (self.heats if self.reads.heatmap == extent else 0) + (self.codes if self.reads.codes == extent else 0)

    @property
    def dense_bytes(self) -> int:
        """Bytes of a frame's whole maps."""
        grid = self.spec.output_grid
        return 2 * self.channels("everywhere") * grid.nx * grid.ny

    def pick(self, heat: Tensor, codes: Tensor, extent: Extent) -> Tensor:
        """The channels that are kept to this extent, of ``[..., heats]`` and ``[..., codes]``."""
        parts = [
            part
            for part, where in ((heat, self.reads.heatmap), (codes, self.reads.codes))
            if where == extent and extent != "nowhere"
        ]
        return torch.cat(parts, -1) if parts else heat[..., :0]

    def split(self, values: Tensor, extent: Extent) -> tuple[Tensor | None, Tensor | None]:
        """The inverse of ``pick``."""
        heats = self.heats if self.reads.heatmap == extent else 0
        codes = values[..., heats:] if self.reads.codes == extent else None
        return (values[..., :heats] if heats else None), codes


@dataclass(frozen=True)
class Record:
    """One frame.

    Args:
        cells: ``[K]`` int32, ``row * W + column``, ascending.
        values: ``[K, D]`` float16 there: logits, then box codes, tasks in order.
        dense: ``[H * W, D']`` float16 of the maps that are kept whole.
        boxes: the teacher's decoded boxes, with scores.
    """

    cells: NDArray[np.int32]
    values: NDArray[np.float16]
    dense: NDArray[np.float16]
    boxes: Boxes3D

    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Boxes as rows of eleven numbers, and the others, as a file keeps them."""
        score = self.boxes.score if self.boxes.score is not None else np.zeros(len(self.boxes), np.float32)
        rows = np.concatenate([self.boxes.array, score[:, None], self.boxes.label[:, None]], 1).astype(np.float32)
        return rows, self.cells, self.values, self.dense

    @classmethod
    def of_arrays(
        cls,
        boxes: NDArray[np.float32],
        cells: NDArray[np.int32],
        values: NDArray[np.float16],
        dense: NDArray[np.float16],
    ) -> Record:
        """The inverse of ``arrays``."""
        rows = boxes.reshape(-1, _BOX)
        found = Boxes3D(rows[:, :9].copy(), rows[:, 10].astype(np.int64), rows[:, 9].copy())
        return cls(cells, values, dense, found)


def records_of(output: DetectorOutput, cells: Tensor, boxes: Sequence[Boxes3D], layout: Layout) -> list[Record]:
    """Records of a batch.

    Args:
        output: of the teacher.
        cells: ``[B, H, W]`` bool, read by some signal.
        boxes: of the teacher, per frame.
        layout: what to keep.
    """
    heat = torch.cat([task[0] for task in output.heads], 1).movedim(1, -1).flatten(1, 2)
    planes = [plane for task in output.heads for plane in task[1:] if plane is not None]
    codes = torch.cat(planes, 1).movedim(1, -1).flatten(1, 2)
    found = []
    for frame, mask in enumerate(cells.flatten(1)):
        kept = mask.nonzero()[:, 0]
        values = layout.pick(heat[frame, kept], codes[frame, kept], "cells")
        dense = layout.pick(heat[frame], codes[frame], "everywhere")
        numbers = kept.to(torch.int32).cpu().numpy()
        found.append(Record(numbers, _half(values), _half(dense), boxes[frame]))
    return found


def _half(values: Tensor) -> NDArray[np.float16]:
    limit = float(np.finfo(np.float16).max)
    return values.detach().float().clamp(-limit, limit).half().cpu().numpy()


@dataclass
class RecordedBatch:
    """Records of a batch as tensors: a ``kd3d.training.batch.Recorded``.

    Args:
        cells: ``[sum of K]`` int64, ``frame * H * W + cell``.
        values: ``[sum of K, D]`` float16.
        dense: ``[B, H * W, D']`` float16.
        boxes: per frame.
    """

    cells: Tensor
    values: Tensor
    dense: Tensor
    boxes: list[Boxes3D]

    @classmethod
    def of(cls, records: Sequence[Record], area: int) -> RecordedBatch:
        """Records of frames with ``area`` cells each."""
        cells = [record.cells.astype(np.int64) + index * area for index, record in enumerate(records)]
        return cls(
            torch.from_numpy(np.concatenate(cells)),
            torch.from_numpy(np.concatenate([record.values for record in records])),
            torch.from_numpy(np.stack([record.dense for record in records])),
            [record.boxes for record in records],
        )

    def to(self, device: torch.device | str) -> RecordedBatch:
        """The same on ``device``."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> RecordedBatch:
        """The same in page-locked memory."""
        return self._each(lambda part: part.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> RecordedBatch:
        return replace(self, cells=change(self.cells), values=change(self.values), dense=change(self.dense))

    def output(self, layout: Layout) -> DetectorOutput:
        """The teacher's output as far as it is known: elsewhere heatmaps are at their floor and codes 0; no taps."""
        grid, frames = layout.spec.output_grid, len(self.boxes)
        heat = self._maps(layout.heats, LOWEST_LOGIT, frames * grid.nx * grid.ny)
        codes = self._maps(layout.codes, 0.0, frames * grid.nx * grid.ny)
        for maps, part in zip((heat, codes), layout.split(self.values, "cells"), strict=True):
            if part is not None:
                maps[self.cells] = part.float()
        for maps, part in zip((heat, codes), layout.split(self.dense.flatten(0, 1), "everywhere"), strict=True):
            if part is not None:
                maps.copy_(part)
        shape = (frames, grid.ny, grid.nx, -1)
        return DetectorOutput(_tasks(heat.view(shape), codes.view(shape), layout), ())

    def _maps(self, channels: int, value: float, cells: int) -> Tensor:
        return torch.full((cells, channels), value, device=self.values.device)


def _tasks(heat: Tensor, codes: Tensor, layout: Layout) -> tuple[Any, ...]:
    """Maps ``[B, C, H, W]`` per task of ``[B, H, W, C]`` of all."""
    if isinstance(layout.spec.head, AnchorHeadSpec):
        channels = [channels for name, channels in layout.spec.head.maps if name != "cls"]
        return (AnchorMaps(heat.movedim(-1, 1), *codes.movedim(-1, 1).split(channels, 1)),)
    sizes = [2, 1, 3, 2, *([2] if layout.spec.head.velocity else [])]
    tasks = layout.spec.head.tasks
    heats = heat.movedim(-1, 1).split([len(names) for names in tasks], 1)
    each = codes.movedim(-1, 1).split(sum(sizes), 1)
    return tuple(TaskMaps(hm, *planes.split(sizes, 1)) for hm, planes in zip(heats, each, strict=True))
