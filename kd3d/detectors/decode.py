"""Head maps to boxes in torch, for training-time evaluation and distillation; equal to ``kd3d.runtime.decode``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D, Floats, Ints
from kd3d.runtime.decode import decode, suppress
from kd3d.runtime.heads import AnchorMaps, TaskMaps
from kd3d.spec import DetectorSpec


@torch.no_grad()
def decode_batch(heads: Sequence[Any], spec: DetectorSpec) -> list[Boxes3D]:
    """Boxes of every frame of a batch.

    Args:
        heads: per task, maps ``[B, C, H, W]`` on any device, of any floating type.
        spec: whose ``decode`` says how.

    Returns:
        Scored boxes per frame, ``label`` indexes ``spec.head.classes``, velocity NaN where the head has none.

    Raises:
        DataError: a heatmap holds NaN.
    """
    if isinstance(heads[0], AnchorMaps):  # some hundred boxes of a frame survive: the reference is fast enough
        arrays = [part.detach().float().cpu().numpy() for part in heads[0]]
        return [decode((AnchorMaps(*(part[frame] for part in arrays)),), spec) for frame in range(len(arrays[0]))]
    per_task: list[list[Boxes3D]] = []
    first = 0
    for task, (maps, names) in enumerate(zip(heads, spec.head.tasks, strict=True)):
        if bool(maps.hm.isnan().any()):
            raise DataError(
                f"the heatmap of task {task} holds NaN: the network overflowed or its weights are damaged. "
                "Check the checkpoint, or the precision."
            )
        per_task.append(_task_candidates(maps, spec, first))
        first += len(names)
    return [suppress(Boxes3D.concatenate(parts), spec) for parts in zip(*per_task, strict=True)]


def _task_candidates(maps: TaskMaps, spec: DetectorSpec, first_label: int) -> list[Boxes3D]:
    """Boxes of one task before suppression, per frame, best first."""
    logits: Tensor = maps.hm.float()
    frames, _, _, columns = logits.shape
    score, label, cell = _best(logits, spec)
    planes = [maps.center, maps.center_z, maps.dim, maps.rot, *([] if maps.vel is None else [maps.vel])]
    flat = torch.cat([plane.float() for plane in planes], dim=1).flatten(2)
    values = flat.gather(2, cell[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)  # [B, K, 8 or 10]
    grid = spec.output_grid
    x = (cell % columns + values[..., 0]) * grid.cell_m + grid.x_min_m
    y = (torch.div(cell, columns, rounding_mode="floor") + values[..., 1]) * grid.cell_m + grid.y_min_m
    yaw = torch.atan2(values[..., 6], values[..., 7])
    velocity = values[..., 8:10] if maps.vel is not None else values.new_full((*cell.shape, 2), float("nan"))
    array = torch.cat(
        [torch.stack([x, y, values[..., 2]], -1), values[..., 3:6].exp(), yaw[..., None], velocity], dim=-1
    )
    low, high = array.new_tensor(spec.decode.center_limit_m).view(2, 3)
    centre = array[..., :3]
    keep = (score > spec.decode.score_threshold) & ((centre >= low) & (centre <= high)).all(-1)
    keep &= array[..., :7].isfinite().all(-1)
    rows = [part.cpu().numpy() for part in (array, label + first_label, score, keep)]
    return [_boxes(*(part[frame] for part in rows)) for frame in range(frames)]


def _best(logits: Tensor, spec: DetectorSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Score, class in the task and cell of the best ``top_k`` peaks, each ``[B, K]``, best first."""
    rule = spec.decode
    if rule.peak_kernel > 1:
        highest = functional.max_pool2d(logits, rule.peak_kernel, stride=1, padding=rule.peak_kernel // 2)
        logits = logits.masked_fill(logits != highest, float("-inf"))
    area = logits.shape[2] * logits.shape[3]
    if rule.top_k_rule == "cell":
        per_cell, classes = logits.flatten(2).max(1)
        value, cell = per_cell.topk(min(rule.top_k, area), dim=1)
        return value.sigmoid(), classes.gather(1, cell), cell
    # The best of each class and then of all are the best of all: the first step only saves work.
    value, index = logits.flatten(1).topk(min(rule.top_k, logits.shape[1] * area), dim=1)
    return value.sigmoid(), torch.div(index, area, rounding_mode="floor"), index % area


def _boxes(array: Floats, label: Ints, score: Floats, keep: Ints) -> Boxes3D:
    return Boxes3D(array[keep], label[keep], score[keep])
