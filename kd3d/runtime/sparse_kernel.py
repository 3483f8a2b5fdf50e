"""Loops that build neighbour tables, written for numba and valid as plain Python. Compiled on first use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kd3d.optional import with_numba

_DIGIT = 2048


def encode(coords: Any, low: Any, size: Any, codes: Any) -> Any:
    """Write ``codes [N]`` int64, row-major places of ``coords [N, 4]`` (batch, z, y, x) in a box.

    Args:
        coords: int32.
        low: ``[4]`` int64, the box's first place along each column.
        size: ``[4]`` int64, its extent.
        codes: the result.

    Returns:
        Whether the codes ascend strictly.
    """
    ascending = True
    for i in range(len(coords)):
        code = np.int64(0)
        for axis in range(4):
            code = code * size[axis] + (coords[i, axis] - low[axis])
        codes[i] = code
        if i and code <= codes[i - 1]:
            ascending = False
    return ascending


def sort_codes(codes: Any, order: Any, largest: Any, scratch: Any) -> None:
    """Sort ``codes [N]`` in place, by digits, and write the permutation to ``order [N]``; equal ones keep their order.

    Args:
        codes: int64, 0 or more.
        order: int32.
        largest: no code is above it.
        scratch: ``[N]`` int64 and ``[N]`` int32.
    """
    count = np.zeros(_DIGIT + 1, np.int64)
    source, target, index, moved = codes, scratch[0], order, scratch[1]
    for i in range(len(codes)):
        index[i] = i
    shift, passes = 0, 0
    while (largest >> shift) > 0:
        count[:] = 0
        for i in range(len(codes)):
            count[((source[i] >> shift) & (_DIGIT - 1)) + 1] += 1
        for digit in range(_DIGIT):
            count[digit + 1] += count[digit]
        for i in range(len(codes)):
            digit = (source[i] >> shift) & (_DIGIT - 1)
            place = count[digit]
            target[place] = source[i]
            moved[place] = index[i]
            count[digit] += 1
        source, target, index, moved = target, source, moved, index
        shift, passes = shift + 11, passes + 1
    if passes % 2:
        codes[:] = source
        order[:] = index


def reach(coords: Any, kernel: Any, stride: Any, padding: Any, out_size: Any, words: Any) -> Any:  # noqa: PLR0917
    """Mark each output site of a strided convolution in a bit map.

    Args:
        coords: ``[N, 4]`` int32, batch, z, y, x.
        kernel: ``[4]`` int64, 1 for the batch; likewise ``stride`` (1), ``padding`` (0) and ``out_size``.
        stride: see kernel.
        padding: see kernel.
        out_size: see kernel.
        words: ``[ceil(places / 64)]`` uint64, all zero.

    Returns:
        How many bits are set.
    """
    found = 0
    first, last = np.zeros(4, np.int64), np.zeros(4, np.int64)
    for i in range(len(coords)):
        for axis in range(4):
            top = coords[i, axis] + padding[axis]
            # A place p sees top - p * stride as its tap, which must be in 0..kernel - 1.
            first[axis] = max(0, (top - kernel[axis] + stride[axis]) // stride[axis])
            last[axis] = min(out_size[axis] - 1, top // stride[axis])
        for z in range(first[1], last[1] + 1):
            for y in range(first[2], last[2] + 1):
                row = ((first[0] * out_size[1] + z) * out_size[2] + y) * out_size[3]
                for x in range(first[3], last[3] + 1):
                    place = np.uint64(row + x)
                    bit = np.uint64(1) << (place & np.uint64(63))
                    word = place >> np.uint64(6)
                    if not words[word] & bit:
                        words[word] |= bit
                        found += 1
    return found


def sites(words: Any, out_size: Any, out_coords: Any) -> None:
    """Write ``out_coords [M, 4]`` int32, the places of the set bits, ascending."""
    found = 0
    zero, one = np.uint64(0), np.uint64(1)
    for word in range(len(words)):
        rest = words[word]
        place = np.int64(word) * 64
        while rest != zero:
            if rest & one:
                code = place
                for axis in range(3, 0, -1):
                    out_coords[found, axis] = code % out_size[axis]
                    code = code // out_size[axis]
                out_coords[found, 0] = code
                found += 1
            rest = rest >> one
            place += 1


def sweep(codes: Any, order: Any, bases: Any, rows: Any, offsets: Any, table: Any) -> None:  # noqa: PLR0917
    """Fill a neighbour table by walking the sorted inputs once per row of the kernel.

    The taps of one kernel row (same z and y) are neighbours in x, so their codes are consecutive, and as the outputs
    ascend, so does the place where each row begins.

    Args:
        codes: ``[N]`` int64, sorted.
        order: ``[N]`` int32, index of each sorted input.
        bases: ``[M]`` int64, ascending: code of the first tap of each output.
        rows: ``[M]`` int32, row of ``table`` of each output.
        offsets: ``[R]`` int64, code of the first tap of each kernel row, relative to ``bases``.
        table: ``[rows, R * width]`` int32, filled with N.
    """
    inputs, width = len(codes), table.shape[1] // len(offsets)
    at = np.zeros(len(offsets), np.int64)
    for m in range(len(bases)):
        target = rows[m]
        for r in range(len(offsets)):
            wanted = bases[m] + offsets[r]
            p = at[r]
            while p < inputs and codes[p] < wanted:
                p += 1
            at[r] = p
            while p < inputs and codes[p] < wanted + width:
                table[target, r * width + codes[p] - wanted] = order[p]
                p += 1


class Kernels(NamedTuple):
    """The compiled functions of this module."""

    encode: Callable[..., Any]
    sort_codes: Callable[..., Any]
    reach: Callable[..., Any]
    sites: Callable[..., Any]
    sweep: Callable[..., Any]


@functools.cache
def compiled() -> Kernels | None:
    """The functions above, compiled and cached on disk where possible; ``None`` without a working numba."""
    return with_numba(lambda compile_: Kernels(*map(compile_, (encode, sort_codes, reach, sites, sweep))))
