"""Sparse 3D convolution in plain torch: neighbour tables in, a gather and a matrix product per layer.

A table ``[M, K]`` says, for each of ``M`` output sites and each of the ``K`` taps of the kernel (z, y, x order), which
of the ``N`` input sites the tap falls on; ``N`` stands for none and reads a row of zeros. All submanifold convolutions
of a stage share one table, so tables are built once, outside the network. The sums are those of a dense convolution
(cross-correlation, as torch's and spconv's) at the active sites.

Backward stores the features and the table only and gathers again. Two routes give the same numbers:

- ``table``: one gather and one matrix product. Exports as it is. Its gradient is of the same form with the transposed
  table (for a submanifold convolution the mirrored taps), so nothing is added atomically and a GPU repeats its results.
- ``pairs``: tap by tap, only the sites that exist. A cloud fills 2 to 9 of 27 taps, so on a CPU it is the faster one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_CHUNK_ELEMENTS = 1 << 26  # of a gathered block: 256 MB of float32


class Pairs(NamedTuple):
    """The pairs of sites that a convolution joins, tap by tap; within a tap ascending by output site.

    Args:
        source: ``[P]`` int64 input sites.
        target: ``[P]`` int64 output sites.
        sizes: pairs of each tap. The centre of a submanifold convolution has none here: it joins every site to itself.
        order: ``[P]`` int32, the pairs ascending by output site.
        bags: ``[M + 1]`` int32, where in ``order`` the pairs of each output site begin.
    """

    source: Tensor
    target: Tensor
    sizes: tuple[int, ...]
    order: Tensor
    bags: Tensor


@dataclass(frozen=True)
class KernelMap:
    """A table and what follows from it.

    Args:
        table: ``[M, K]`` int32, entries below ``sites`` are input sites, ``sites`` is none.
        sites: input sites, ``N``.
        submanifold: output sites are the input sites, the kernel is odd and centred.
    """

    table: Tensor
    sites: int
    submanifold: bool

    @cached_property
    def transposed(self) -> KernelMap:
        """The map of the gradient: from output sites to the input sites that they read, tap by tap.

        That of a submanifold convolution is its own, with the taps in reverse order.
        """
        if self.submanifold:
            return self
        rows, taps = self.table.shape
        found = self.table.new_full((self.sites + 1, taps), rows)
        tap = torch.arange(taps, device=self.table.device).expand(rows, taps)
        row = torch.arange(rows, device=self.table.device, dtype=self.table.dtype)[:, None].expand(rows, taps)
        # An input site meets an output site in one tap at most; only the spare row is written more than once.
        found[self.table.long(), tap] = row
        return KernelMap(found[: self.sites], rows, False)

    @cached_property
    def pairs(self) -> Pairs:
        """The table as lists."""
        taps = self.table.shape[1]
        columns = self.table.t().contiguous()
        valid = columns < self.sites
        if self.submanifold:
            valid[taps // 2] = False
        place = valid.flatten().cumsum(0, dtype=torch.int32).sub_(1).view(taps, -1)
        by_site = valid.t().contiguous()
        bags = by_site.new_zeros(len(by_site) + 1, dtype=torch.int32)
        torch.cumsum(by_site.sum(1, dtype=torch.int32), 0, out=bags[1:])
        return Pairs(
            columns[valid].long(),
            valid.nonzero()[:, 1],
            tuple(valid.sum(1).tolist()),
            place.t().contiguous()[by_site],
            bags,
        )


def sparse_conv(features: Tensor, weight: Tensor, kernel_map: KernelMap, *, route: str | None = None) -> Tensor:
    """Convolve the features of active sites.

    Args:
        features: ``[N, C]``.
        weight: ``[C', C, K]``, or with the kernel's axes apart as a dense convolution's.
        kernel_map: of ``N`` input sites and ``K`` taps.
        route: ``table`` or ``pairs``; by default ``pairs`` on a CPU.

    Returns:
        ``[M, C']``.
    """
    chosen = route or ("pairs" if features.device.type == "cpu" else "table")
    function = _PairConv if chosen == "pairs" else _TableConv
    result: Tensor = function.apply(features, tap_matrices(weight), kernel_map)
    return result


def tap_matrices(weight: Tensor) -> Tensor:
    """``[C', C, K]`` (or ``[C', C, kz, ky, kx]``) to ``[K, C, C']``."""
    return weight.flatten(2).permute(2, 1, 0).contiguous()


def gather_product(features: Tensor, table: Tensor, matrix: Tensor) -> Tensor:
    """One gather and one matrix product: ``[N, C]``, ``[M, K]`` and ``[K * C, C']`` to ``[M, C']``."""
    rows = torch.cat([features, features.new_zeros((1, features.shape[1]))])
    gathered = torch.index_select(rows, 0, table.reshape(-1))
    return torch.mm(gathered.reshape(-1, matrix.shape[0]), matrix)


class SparseConv(nn.Module):
    """A sparse convolution.

    Its weight ``[C', C, K]`` is that of ``nn.Conv3d`` with the kernel flattened, and so are its initial values. (Torch
    would want a rank-5 parameter in a memory format of its own where the 2D layers are made channels-last.)
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: tuple[int, int, int] = (3, 3, 3), bias: bool = False):
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(outputs, inputs, math.prod(kernel)))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.bias: nn.Parameter | None = None
        if bias:
            bound = 1 / math.sqrt(inputs * math.prod(kernel))
            self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, features: Tensor, kernel_map: KernelMap) -> Tensor:
        """``[N, C]`` to ``[M, C']``."""
        out = sparse_conv(features, self.weight, kernel_map)
        return out if self.bias is None else out + self.bias


class PackedSparseConv(nn.Module):
    """A trained sparse convolution as exports have it: one matrix, read by table; made by ``fold``."""

    def __init__(self, conv: SparseConv) -> None:
        super().__init__()
        matrix = tap_matrices(conv.weight.detach()).flatten(0, 1)
        bias = matrix.new_zeros(matrix.shape[1]) if conv.bias is None else conv.bias.detach().clone()
        self.matrix = nn.Parameter(matrix, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, features: Tensor, kernel_map: KernelMap) -> Tensor:
        """``[N, C]`` to ``[M, C']``."""
        return gather_product(features, kernel_map.table, self.matrix) + self.bias


class _TableConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, taps: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, taps)
        ctx.kernel_map = kernel_map
        return _by_table(features, taps, kernel_map.table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, taps = ctx.saved_tensors
        (gradient,), kernel_map = gradients, ctx.kernel_map
        to_features = to_taps = None
        if ctx.needs_input_grad[0]:
            to_features = _by_table(gradient, _turned(taps, kernel_map), kernel_map.transposed.table)
        if ctx.needs_input_grad[1]:
            to_taps = _taps_by_table(features, gradient, kernel_map.table)
        return to_features, to_taps, None


class _PairConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, taps: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, taps)
        ctx.kernel_map = kernel_map
        return _by_pairs(features, taps, kernel_map)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, taps = ctx.saved_tensors
        kernel_map, gradient = ctx.kernel_map, gradients[0].contiguous()
        to_features = to_taps = None
        if ctx.needs_input_grad[0]:
            to_features = _by_pairs(gradient, _turned(taps, kernel_map), kernel_map.transposed)
        if ctx.needs_input_grad[1]:
            to_taps = _taps_by_pairs(features, gradient, kernel_map)
        return to_features, to_taps, None


def _turned(taps: Tensor, kernel_map: KernelMap) -> Tensor:
    """The matrices of the gradient, in the order of the transposed map's taps."""
    ordered = taps.flip(0) if kernel_map.submanifold else taps
    return ordered.transpose(1, 2).contiguous()


def _by_pairs(features: Tensor, taps: Tensor, kernel_map: KernelMap) -> Tensor:
    pairs, width = kernel_map.pairs, taps.shape[2]
    products = features.new_empty((len(pairs.source), width))
    sources, slots = pairs.source.split(pairs.sizes), products.split(pairs.sizes)
    for source, slot, matrix in zip(sources, slots, taps, strict=True):
        if len(source):
            torch.mm(features.index_select(0, source), matrix, out=slot)
    if len(products):
        # The sum of each bag of rows, several times faster than adding into the rows of the output.
        out = functional.embedding_bag(pairs.order, products, pairs.bags, mode="sum", include_last_offset=True)
    else:
        out = features.new_zeros((len(kernel_map.table), width))
    return out.addmm_(features, taps[len(taps) // 2]) if kernel_map.submanifold else out


def _taps_by_pairs(features: Tensor, gradient: Tensor, kernel_map: KernelMap) -> Tensor:
    pairs = kernel_map.pairs
    total = features.new_zeros((len(pairs.sizes), features.shape[1], gradient.shape[1]))
    parts = zip(total, pairs.source.split(pairs.sizes), pairs.target.split(pairs.sizes), strict=True)
    for part, source, target in parts:
        if len(source):
            torch.mm(features.index_select(0, source).t(), gradient.index_select(0, target), out=part)
    if kernel_map.submanifold:
        torch.mm(features.t(), gradient, out=total[len(total) // 2])
    return total


def _by_table(features: Tensor, taps: Tensor, table: Tensor) -> Tensor:
    matrix = taps.flatten(0, 1)
    parts = [gather_product(features, part, matrix) for part in _blocks(table, features.shape[1])]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _taps_by_table(features: Tensor, gradient: Tensor, table: Tensor) -> Tensor:
    rows = torch.cat([features, features.new_zeros((1, features.shape[1]))])
    width = table.shape[1] * features.shape[1]
    total, at = features.new_zeros((width, gradient.shape[1])), 0
    for part in _blocks(table, features.shape[1]):
        gathered = torch.index_select(rows, 0, part.reshape(-1)).view(-1, width)
        total.addmm_(gathered.t(), gradient[at : at + len(part)])
        at += len(part)
    return total.view(table.shape[1], features.shape[1], gradient.shape[1])


def _blocks(table: Tensor, channels: int) -> tuple[Tensor, ...]:
    """Rows of ``table`` whose gathered features stay within a bounded block of memory."""
    return table.split(max(1, _CHUNK_ELEMENTS // (table.shape[1] * channels)))
