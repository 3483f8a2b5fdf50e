"""Targets of an anchor head for a batch as tensors; the assignment itself is ``kd3d.runtime.anchor_targets``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.anchor_targets import assign_anchors
from kd3d.spec import DetectorSpec


@dataclass(frozen=True)
class AnchorBatchTargets:
    """Targets of a batch over ``N = H * W * A`` anchors per frame; anchors of objects in one list, without padding.

    Args:
        label: ``[B, N]`` int8: class + 1, 0 for background, -1 for anchors that do not count.
        place: ``[M]`` int64: anchors that stand for objects, ``frame * N + (row * W + column) * A + anchor``.
        codes: ``[M, 7]`` float32: their box residuals.
        direction: ``[M]`` int64: their heading bins.
    """

    label: Tensor
    place: Tensor
    codes: Tensor
    direction: Tensor

    def to(self, device: torch.device | str) -> AnchorBatchTargets:
        """The same targets on ``device``."""
        return AnchorBatchTargets(*(part.to(device, non_blocking=True) for part in self._parts()))

    def pin_memory(self) -> AnchorBatchTargets:
        """The same targets in page-locked memory, as DataLoader asks for."""
        return AnchorBatchTargets(*(part.pin_memory() for part in self._parts()))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.label, self.place, self.codes, self.direction


def assign_anchors_batch(boxes: Sequence[Boxes3D], spec: DetectorSpec) -> AnchorBatchTargets:
    """Targets of a batch of frames, on the CPU.

    Args:
        boxes: one per frame; labels index ``spec.head.classes``.
        spec: the detector the targets are for.
    """
    frames = [assign_anchors(frame, spec) for frame in boxes]
    label = np.stack([frame.label for frame in frames])
    place = np.concatenate([frame.place + index * label.shape[1] for index, frame in enumerate(frames)])
    codes, direction = (np.concatenate([getattr(frame, name) for frame in frames]) for name in ("codes", "direction"))
    return AnchorBatchTargets(*(torch.from_numpy(part) for part in (label, place, codes, direction)))
