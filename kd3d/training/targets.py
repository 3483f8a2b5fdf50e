"""Targets of a batch as tensors; the assignment itself is the reference in ``kd3d.runtime.targets``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.targets import TaskTargets, assign_targets
from kd3d.spec import AnchorHeadSpec, DetectorSpec
from kd3d.training.anchor_targets import AnchorBatchTargets, assign_anchors_batch


@dataclass(frozen=True)
class BatchTargets:
    """Targets of one task for a batch; objects of all frames in one list, without padding.

    Args:
        heatmap: ``[B, C, H, W]`` float32.
        cell: ``[M]`` int64, ``(frame * H + row) * W + column``.
        values: ``[M, D]`` float32: dx, dy, z, log l, log w, log h, sin, cos (, vx, vy); finite.
        mask: ``[M, D]`` float32, 0 where a value is unknown.
    """

    heatmap: Tensor
    cell: Tensor
    values: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> BatchTargets:
        """The same targets on ``device``."""
        return BatchTargets(*(part.to(device, non_blocking=True) for part in self._parts()))

    def pin_memory(self) -> BatchTargets:
        """The same targets in page-locked memory, as DataLoader asks for."""
        return BatchTargets(*(part.pin_memory() for part in self._parts()))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.heatmap, self.cell, self.values, self.mask


Targets: TypeAlias = "BatchTargets | AnchorBatchTargets"


def make_targets(boxes: Sequence[Boxes3D], spec: DetectorSpec) -> tuple[Targets, ...]:
    """Targets of a batch of frames, one entry per task, on the CPU, whatever the head.

    Args:
        boxes: one per frame; labels index ``spec.head.classes``.
        spec: the detector the targets are for.
    """
    if isinstance(spec.head, AnchorHeadSpec):
        return (assign_anchors_batch(boxes, spec),)
    return assign_targets_batch(boxes, spec)


def assign_targets_batch(
    boxes: Sequence[Boxes3D], spec: DetectorSpec, *, max_objects: int = 500
) -> tuple[BatchTargets, ...]:
    """Targets of every task for a batch of frames.

    Args:
        boxes: one per frame; labels index ``spec.head.classes``.
        spec: the detector the targets are for.
        max_objects: kept per frame and task, in order.

    Returns:
        One entry per task, on the CPU.
    """
    frames = [assign_targets(frame, spec, max_objects=max_objects) for frame in boxes]
    return tuple(_stack([frame[task] for frame in frames]) for task in range(len(spec.head.tasks)))


def _stack(frames: Sequence[TaskTargets]) -> BatchTargets:
    heatmap = np.stack([frame.heatmap for frame in frames]).astype(np.float32, copy=False)
    size = heatmap.shape[2] * heatmap.shape[3]
    cell = np.concatenate([frame.cell + index * size for index, frame in enumerate(frames)])
    values = np.concatenate([frame.values for frame in frames]).astype(np.float32, copy=False)
    mask = np.concatenate([frame.mask for frame in frames]).astype(np.float32)
    values = np.where(mask > 0, values, np.float32(0))  # an unknown velocity is NaN, and NaN times a mask of 0 is NaN
    return BatchTargets(*(torch.from_numpy(part) for part in (heatmap, cell.astype(np.int64), values, mask)))
