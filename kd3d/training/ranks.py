"""Sums over the processes of a data-parallel run; nothing happens in a run of one process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed


def ranks() -> int:
    """Processes that share the work."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum of each tensor over all processes; all of them must call this with equal shapes.

    One collective per data type, so that many small tensors cost as much as one large one.
    """
    if ranks() == 1 or not tensors:
        return list(tensors)
    found: list[Tensor] = list(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        mine = [index for index, tensor in enumerate(tensors) if tensor.dtype == dtype]
        flat = torch.cat([tensors[index].detach().reshape(-1) for index in mine])
        distributed.all_reduce(flat)
        for index, part in zip(mine, flat.split([tensors[i].numel() for i in mine]), strict=True):
            found[index] = part.view(tensors[index].shape)
    return found
