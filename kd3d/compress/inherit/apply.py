"""Carry out an inheritance plan: state dict in, state dict out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from kd3d.compress.inherit.plan import FRESH_INDEX, Entry, Fresh, Indices, InheritPlan, Resize
from kd3d.errors import CheckpointError


def apply_plan(plan: InheritPlan, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The student's full state dict after inheritance. Neither input is changed; the result shares no memory with them.

    Raises:
        CheckpointError: lists every tensor that is missing, unaccounted for or of the wrong shape, all at once.
    """
    problems = [f"{name} is not in the plan" for name in student if name not in plan.entries]
    problems += [f"{name} is not a tensor of the student" for name in plan if name not in student]
    result: dict[str, Tensor] = {}
    for name in student:
        if name not in plan.entries:
            continue
        try:
            result[name] = _take(plan.entries[name], student[name], teacher)
        except _MisfitError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise CheckpointError(f"the inheritance plan does not fit, {len(problems)} problem(s): {'; '.join(problems)}.")
    return result


class _MisfitError(Exception):
    """One tensor does not fit; collected into one ``CheckpointError``."""


def _take(entry: Entry, own: Tensor, teacher: Mapping[str, Tensor]) -> Tensor:
    if isinstance(entry, Fresh):
        return own.detach().clone()
    if entry.source not in teacher:
        raise _MisfitError(f"the teacher has no tensor {entry.source}")
    value = teacher[entry.source].detach()
    if len(entry.indices) > value.dim():
        raise _MisfitError(f"{len(entry.indices)} axes asked of {entry.source} with shape {tuple(value.shape)}")
    for axis, indices in enumerate(entry.indices):
        if indices is not None:
            if max(indices, default=0) >= value.shape[axis]:
                raise _MisfitError(
                    f"index {max(indices)} is beyond axis {axis} of {entry.source} with shape {tuple(value.shape)}"
                )
            value = value.index_select(axis, torch.tensor([max(index, 0) for index in indices], device=value.device))
    if isinstance(entry, Resize):
        value = functional.interpolate(value, size=entry.size, mode="nearest")
    if value.shape != own.shape:
        raise _MisfitError(f"gets shape {tuple(value.shape)} but has shape {tuple(own.shape)}")
    return _keep_fresh(value.to(own.device, own.dtype), own.detach(), entry.indices).clone()


def _keep_fresh(value: Tensor, own: Tensor, indices: tuple[Indices | None, ...]) -> Tensor:
    """``value``, with ``own`` wherever an axis has ``FRESH_INDEX``."""
    for axis, wanted in enumerate(indices):
        if wanted is not None and FRESH_INDEX in wanted:
            shape = [1] * value.dim()
            shape[axis] = -1
            fresh = torch.tensor([index == FRESH_INDEX for index in wanted], device=value.device).view(shape)
            value = torch.where(fresh, own, value)
    return value
