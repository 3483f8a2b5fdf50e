"""Gradients of several losses side by side: their dot products, and their sum over processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from kd3d.training.ranks import ranks, sum_over_ranks

CHUNK = 1 << 20  # elements that are held in double precision at a time

Gradients = dict[str, list[Tensor | None]]
"""Per loss, one gradient per slot (a parameter, or the neck's map); ``None`` where the loss does not reach it."""


def gradients_of(losses: Mapping[str, Tensor], slots: Sequence[Tensor], scale: Callable[[Tensor], Tensor]) -> Gradients:
    """Gradients of each loss with respect to ``slots``; the graph is freed with the last one.

    ``torch.autograd.grad`` goes past the hooks of ``DistributedDataParallel``, so gradients stay those of this process,
    whether its forward pass was inside ``no_sync`` or not.
    """
    live = [name for name, loss in losses.items() if loss.requires_grad]
    found: Gradients = {name: [None] * len(slots) for name in losses}
    for name in live:
        keep = name != live[-1]
        loss = scale(losses[name])
        found[name] = list(torch.autograd.grad(loss, slots, retain_graph=keep, allow_unused=True))
    return found


def added(one: Gradients, other: Gradients) -> Gradients:
    """The sum of two micro-batches."""
    return {
        name: [b if a is None else a if b is None else a + b for a, b in zip(one[name], other[name], strict=True)]
        for name in one
    }


def summed_over_ranks(found: Gradients, slots: Sequence[Tensor]) -> Gradients:
    """The sum over processes, before any dot product; a loss reaches a slot if it does so in any process."""
    if ranks() == 1:
        return found
    reaches = torch.tensor([[g is not None for g in row] for row in found.values()], dtype=torch.int32)
    (reaches,) = sum_over_ranks([reaches.to(slots[0].device)])
    where = [(name, i) for name, row in zip(found, reaches.tolist(), strict=True) for i, n in enumerate(row) if n]
    full = []
    for name, index in where:
        gradient = found[name][index]
        full.append(torch.zeros_like(slots[index]) if gradient is None else gradient.to(slots[index].dtype))
    result: Gradients = {name: [None] * len(slots) for name in found}
    for (name, index), gradient in zip(where, sum_over_ranks(full), strict=True):
        result[name][index] = gradient
    return result


def gram(found: Gradients, shared: Sequence[int], *, exact: bool = True, rates: Sequence[float] = ()) -> Tensor:
    """Dot products ``[K, K]`` of the losses' gradients over the ``shared`` slots, in double precision.

    Args:
        found: the gradients.
        shared: slots that count.
        exact: ``False`` multiplies in single precision, 65,536 numbers at a time, and adds up in double: for maps,
            which are large and come from half precision.
        rates: what the products of each slot count; empty: all alike.
    """
    rows = list(found.values())
    device = next((g.device for row in rows for g in row if g is not None), torch.device("cpu"))
    result = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=device)
    for slot in shared:
        present = [index for index, row in enumerate(rows) if row[slot] is not None]
        flat = [row[slot].reshape(-1) for row in rows if row[slot] is not None]  # type: ignore[union-attr]
        part = torch.zeros(len(present), len(present), dtype=torch.float64, device=device)
        chunk, kind = (CHUNK, torch.float64) if exact else (CHUNK >> 4, torch.float32)
        for start in range(0, flat[0].numel() if flat else 0, chunk):
            block = torch.stack([vector[start : start + chunk].to(kind) for vector in flat])
            part += block @ block.T
        where = torch.tensor(present, dtype=torch.long, device=device)
        result[where[:, None], where] += part * rates[slot] if rates else part
    return result
