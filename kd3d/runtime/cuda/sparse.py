"""Neighbour tables of sparse convolutions on the device: those of ``kd3d.runtime.sparse_tables``."""

from __future__ import annotations

import math

import numpy as np

from kd3d.errors import UsageError
from kd3d.runtime.cuda.gpu import DeviceArray, Gpu
from kd3d.runtime.sparse_tables import Triple, output_shape

_MORE_THAN_ANY_INDEX = 0x7F
_WORD = 32


class DeviceSites:
    """A set of sites on the device, and the index that finds them.

    Args:
        gpu: where.
        shape: of the volume: batches, z, y, x.
        capacity: sites of the largest set.

    Attributes:
        sites: ``[capacity, 4]`` int32 batch, z, y, x; to be filled by whoever makes them.
        count: ``[1]`` int32, how many there are.

    Raises:
        UsageError: the volume has more sites than 32 bits count.
    """

    def __init__(self, gpu: Gpu, shape: tuple[int, int, int, int], *, capacity: int) -> None:
        places = math.prod(shape)
        if places >= 1 << 32:
            raise UsageError(f"a volume of {shape} has {places} sites; the kernels count up to {(1 << 32) - 1}.")
        self._gpu, self.shape, self.capacity = gpu, shape, capacity
        self.sites, self.count = gpu.array((capacity, 4), np.int32), gpu.array((1,), np.int32)
        self.volume = gpu.upload(np.array(shape, np.int32))
        self.bits = gpu.array((-(-places // _WORD),), np.uint32)
        self._ones = gpu.array(self.bits.shape, np.int32)
        self.ranks = gpu.prefix(self.bits.shape[0])
        self.index = gpu.array((capacity,), np.int32)
        self.distinct = gpu.array((1,), np.int32)

    def build(self) -> None:
        """Index the sites; of equal ones the first counts. ``distinct [1]`` says how many differ."""
        gpu, capacity = self._gpu, self.capacity
        gpu.fill(self.bits, 0)
        gpu.per_item("site_bits", self.volume, self.sites, self.count, self.bits, capacity, items=capacity)
        self.rank(self.distinct)
        gpu.fill(self.index, _MORE_THAN_ANY_INDEX)
        gpu.per_item(
            "site_index", self.volume, self.sites, self.count, self.bits, self.ranks.before, self.ranks.sums,
            self.index, capacity, items=capacity,
        )  # fmt: skip

    def rank(self, total: DeviceArray) -> None:
        """Count the bits before each word, and all of them."""
        self._gpu.per_item("bit_counts", self.bits, self._ones, self.bits.shape[0], items=self.bits.shape[0])
        self._gpu.scan(self._ones, self.ranks, total)


class SubmanifoldTable:
    """``submanifold_table`` of one set of sites after another.

    Args:
        gpu: where.
        sites: inputs and outputs; built before ``run``.
        kernel: taps along z, y, x; odd.

    Attributes:
        table: ``[capacity, K]`` int32, of which the first ``sites.count`` rows are written.

    Raises:
        UsageError: an even kernel.
    """

    def __init__(self, gpu: Gpu, sites: DeviceSites, kernel: Triple) -> None:
        if any(taps % 2 == 0 for taps in kernel):
            raise UsageError(f"a submanifold kernel has a centre: each side must be odd, but it is {kernel}.")
        half = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self._gpu, self._sites = gpu, sites
        self._window = gpu.upload(np.array((kernel, (1, 1, 1), half), np.int32))
        self.table = gpu.array((sites.capacity, math.prod(kernel)), np.int32)

    def run(self) -> None:
        """Fill the table."""
        _fill(self._gpu, self._sites, self._sites, self._window, table=self.table)


class StridedTable:
    """``strided_table`` of one set of sites after another.

    Args:
        gpu: where.
        sites: the inputs; built before ``run``.
        window: kernel, stride and padding.
        capacity: outputs there is room for. Where ``out.count`` is larger, the last ones are missing.

    Attributes:
        out: the outputs, sorted; not built.
        table: ``[capacity, K]`` int32, of which the first ``out.count`` rows are written.

    Raises:
        UsageError: the kernel is larger than the padded volume.
    """

    def __init__(self, gpu: Gpu, sites: DeviceSites, window: tuple[Triple, Triple, Triple], *, capacity: int) -> None:
        batches, *volume = sites.shape
        shape = output_shape((volume[0], volume[1], volume[2]), *window)
        self._gpu, self._sites = gpu, sites
        self._window = gpu.upload(np.array(window, np.int32))
        self.out = DeviceSites(gpu, (batches, *shape), capacity=capacity)
        self.table = gpu.array((capacity, math.prod(window[0])), np.int32)

    def run(self) -> None:
        """Find the outputs and fill the table."""
        gpu, sites, out = self._gpu, self._sites, self.out
        words = out.bits.shape[0]
        gpu.fill(out.bits, 0)
        gpu.per_item(
            "strided_bits", out.volume, self._window, sites.sites, sites.count, out.bits, sites.capacity,
            items=sites.capacity,
        )  # fmt: skip
        out.rank(out.count)
        gpu.per_item(
            "strided_sites", out.volume, out.bits, out.ranks.before, out.ranks.sums, out.sites, words, out.capacity,
            items=words,
        )  # fmt: skip
        _fill(gpu, sites, out, self._window, table=self.table)


def _fill(gpu: Gpu, sites: DeviceSites, out: DeviceSites, window: DeviceArray, *, table: DeviceArray) -> None:
    gpu.per_item(
        "table_fill", sites.volume, window, sites.count, sites.bits, sites.ranks.before, sites.ranks.sums, sites.index,
        out.sites, out.count, table, out.capacity, items=math.prod(table.shape),
    )  # fmt: skip
