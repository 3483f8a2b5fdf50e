"""Neighbour tables of sparse 3D convolutions: which input each tap of each output reads.

With a table ``[M, K]``, a convolution is a gather and one matrix product, ``out[m] = sum_k in[table[m, k]] @ w[k]``;
row N of the input is zero and stands for "nothing there". Taps are in row-major order of (z, y, x), as in a dense
weight ``[kz, ky, kx]``, and a tap reads the site ``out * stride - padding + tap`` (a cross-correlation, as in torch).

Sites are ``[N, 3]`` z, y, x, or ``[N, 4]`` batch, z, y, x; sites of different batches are no neighbours. Here are the
checks, and loops compiled by numba; ``sparse_reference`` has the definition in numpy, used where numba is missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError, UsageError
from kd3d.runtime.sparse_kernel import Kernels, compiled
from kd3d.runtime.sparse_reference import strided_reference, submanifold_reference

Sites = NDArray[np.int32]
Table = NDArray[np.int32]
Triple = tuple[int, int, int]


def submanifold_table(coords: NDArray[np.integer], shape: Sequence[int], kernel: Sequence[int]) -> Table:
    """The table of a submanifold convolution: outputs are the inputs' own sites (Graham et al., 2018).

    Args:
        coords: ``[N, 3]`` or ``[N, 4]`` distinct sites, in any order.
        shape: of the volume in sites: z, y, x.
        kernel: taps along z, y, x; odd.

    Returns:
        ``[N, kz * ky * kx]`` int32 indices of inputs, N where there is no input. Rows in the order of ``coords``.

    Raises:
        DataError: ``coords`` has another shape or type, a site is outside of ``shape``, or two are equal.
        UsageError: an even kernel, or triples that are not three positive numbers.
    """
    kernel = _triple("kernel", kernel, lowest=1)
    if any(taps % 2 == 0 for taps in kernel):
        raise UsageError(f"a submanifold kernel has a centre: each side must be odd, but it is {kernel}.")
    sites, shape = _sites(coords, shape)
    kernels = compiled()
    if kernels is None:
        return submanifold_reference(sites, shape, kernel)
    half = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return _table(kernels, sites, (sites, (1, 1, 1)), _box(sites, shape, (kernel, half)))


def strided_table(
    coords: NDArray[np.integer],
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> tuple[Sites, Table, Triple]:
    """Output sites and the table of a strided convolution: an output is active where any input falls into its window.

    Args:
        coords: as in ``submanifold_table``.
        shape: likewise.
        kernel: taps along z, y, x.
        stride: sites along z, y, x.
        padding: likewise, on both sides.

    Returns:
        ``out_coords`` ``[M, 3]`` or ``[M, 4]`` int32, sorted by (batch,) z, y, x; the table ``[M, kz * ky * kx]`` int32
        of indices into ``coords``, N where there is no input; and the output's shape ``(n + 2 p - k) // s + 1``.

    Raises:
        DataError: as in ``submanifold_table``.
        UsageError: triples that are not three numbers in range, or a kernel larger than the padded volume.
    """
    kernel, stride = _triple("kernel", kernel, lowest=1), _triple("stride", stride, lowest=1)
    padding = _triple("padding", padding, lowest=0)
    sites, shape = _sites(coords, shape)
    out_shape = output_shape(shape, kernel, stride, padding)
    kernels = compiled()
    if kernels is None:
        out, table = strided_reference(sites, shape, kernel, stride, padding)
    else:
        out = _reached(kernels, sites, (kernel, stride, padding), out_shape)
        table = _table(kernels, sites, (out, stride), _box(sites, shape, (kernel, padding)))
    return (out if np.shape(coords)[1] == 4 else out[:, 1:].copy()), table, out_shape


def output_shape(shape: Triple, kernel: Triple, stride: Triple, padding: Triple) -> Triple:
    """``(n + 2 p - k) // s + 1`` along each axis.

    Raises:
        UsageError: the kernel is larger than the padded volume.
    """
    z, y, x = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape, kernel, stride, padding, strict=True))
    if min(z, y, x) < 1:
        raise UsageError(f"a kernel of {kernel} is larger than the volume of {shape} with a padding of {padding}.")
    return z, y, x


def _table(
    kernels: Kernels,
    sites: Sites,
    outputs: tuple[Sites, Triple],
    box: tuple[NDArray[np.int64], NDArray[np.int64], Triple],
) -> Table:
    """Sort inputs and outputs by code in a box with a margin, where no window wraps around an edge; then sweep."""
    low, size, kernel = box
    out, stride = outputs
    codes, order = _sorted(kernels, sites, low, size)
    if len(order) > 1 and (codes[1:] == codes[:-1]).any():
        at = int(np.flatnonzero(codes[1:] == codes[:-1])[0])
        raise DataError(
            f"rows {order[at]} and {order[at + 1]} of the sites are equal: {sites[order[at]].tolist()}. "
            f"Merge points of one voxel first."
        )
    steps = _strides(size)
    if out is sites:  # submanifold: the first tap lies half a kernel before the site
        shift = (np.array([0, *(taps // 2 for taps in kernel)]) * steps).sum()
        bases, rows = codes - shift, order
    else:
        # In the box, which begins at -padding, the window of place p begins at p * stride.
        bases = (out.astype(np.int64) * np.array([1, *stride]) * steps).sum(axis=1)
        rows = np.arange(len(out), dtype=np.int32)
    offsets = (np.arange(kernel[0])[:, None] * steps[1] + np.arange(kernel[1]) * steps[2]).ravel()
    table = np.full((len(out), math.prod(kernel)), len(sites), np.int32)
    kernels.sweep(codes, order, bases, rows, offsets, table)
    return table


def _sorted(
    kernels: Kernels, sites: Sites, low: NDArray[np.int64], size: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Codes in ascending order, and the row of each."""
    codes, order = np.empty(len(sites), np.int64), np.arange(len(sites), dtype=np.int32)
    if not kernels.encode(sites, low, size, codes):
        scratch = (np.empty_like(codes), np.empty_like(order))
        kernels.sort_codes(codes, order, int(codes.max()), scratch)
    return codes, order


def _reached(kernels: Kernels, sites: Sites, window: tuple[Triple, Triple, Triple], out_shape: Triple) -> Sites:
    kernel, stride, padding = (np.array([first, *rest]) for first, rest in zip((1, 1, 0), window, strict=True))
    size = np.array([_batches(sites), *out_shape])
    words = np.zeros(-(-math.prod(size.tolist()) // 64), np.uint64)
    out = np.empty((kernels.reach(sites, kernel, stride, padding, size, words), 4), np.int32)
    kernels.sites(words, size, out)
    return out


def _box(
    sites: Sites, shape: Triple, window: tuple[Triple, Triple]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Triple]:
    """First place and extent of a box around all that a window can see; and the kernel."""
    kernel, padding = window
    low = np.array([0, *(-p for p in padding)])
    size = np.array([_batches(sites), *(n + 2 * p for n, p in zip(shape, padding, strict=True))])
    return low, size, kernel


def _strides(size: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.append(np.cumprod(size[:0:-1])[::-1], 1)


def _batches(sites: Sites) -> int:
    return int(sites[:, 0].max()) + 1 if len(sites) else 1


def _sites(coords: NDArray[np.integer], shape: Sequence[int]) -> tuple[Sites, Triple]:
    """``[N, 4]`` sites, batch first, checked; and the shape."""
    shape, coords = _triple("shape", shape, lowest=1), np.asarray(coords)
    if coords.ndim != 2 or coords.shape[1] not in (3, 4) or coords.dtype.kind not in "iu":
        raise DataError(
            f"sites must be integers of shape (N, 3) z, y, x or (N, 4) batch, z, y, x; "
            f"got {coords.dtype} of shape {coords.shape}."
        )
    sites = np.zeros((len(coords), 4), np.int32)
    sites[:, 4 - coords.shape[1] :] = coords
    if len(coords) and (coords.min() < 0 or (coords[:, -3:].max(axis=0) >= np.array(shape)).any()):
        outside = (coords < 0).any(axis=1) | (coords[:, -3:] >= np.array(shape)).any(axis=1)
        row = int(np.flatnonzero(outside)[0])
        raise DataError(f"site {row} is {coords[row].tolist()}, outside of a volume of {shape} sites (z, y, x).")
    return sites, shape


def _triple(name: str, value: Sequence[int], *, lowest: int) -> Triple:
    numbers = tuple(int(number) for number in value)
    if len(numbers) != 3 or min(numbers) < lowest:
        raise UsageError(f"{name} must be three numbers of at least {lowest}, for z, y and x; got {numbers}.")
    return numbers
