"""Neighbour tables in plain numpy: what the compiled loops and the CUDA kernels are tested against."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError

Sites = NDArray[np.int32]
Triple = tuple[int, int, int]


def submanifold_reference(sites: Sites, shape: Triple, kernel: Triple) -> NDArray[np.int32]:
    """``submanifold_table`` of checked ``sites [N, 4]`` (batch, z, y, x)."""
    half = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return _look_up(sites, shape, (sites, (1, 1, 1)), (kernel, half))


def strided_reference(
    sites: Sites, shape: Triple, kernel: Triple, stride: Triple, padding: Triple
) -> tuple[Sites, NDArray[np.int32]]:
    """``out_coords [M, 4]`` and the table of ``strided_table``, of checked ``sites [N, 4]`` (batch, z, y, x)."""
    limit = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape, kernel, stride, padding, strict=True)]
    found = [np.zeros((0, 4), np.int64)]
    for tap in product(*(range(taps) for taps in kernel)):
        moved = sites.astype(np.int64) + np.array([0, *padding]) - np.array([0, *tap])
        place = moved // [1, *stride]
        valid = (moved % [1, *stride] == 0).all(axis=1) & (place >= 0).all(axis=1) & (place[:, 1:] < limit).all(axis=1)
        found.append(place[valid])
    out = np.unique(np.concatenate(found), axis=0).astype(np.int32)
    return out, _look_up(sites, shape, (out, stride), (kernel, padding))


def _look_up(
    sites: Sites, shape: Triple, outputs: tuple[Sites, Triple], window: tuple[Triple, Triple]
) -> NDArray[np.int32]:
    out, stride = outputs
    kernel, padding = window
    codes = _code(sites.astype(np.int64), shape)
    order = np.argsort(codes, kind="stable")
    ascending = np.append(codes[order], np.iinfo(np.int64).max)  # a last one that no site equals
    same = np.flatnonzero(ascending[1:] == ascending[:-1])
    if len(same):
        one, other = order[same[0]], order[same[0] + 1]
        raise DataError(
            f"rows {one} and {other} of the sites are equal: {sites[one].tolist()}. Merge points of one voxel first."
        )
    table = np.full((len(out), kernel[0] * kernel[1] * kernel[2]), len(sites), np.int32)
    for column, tap in enumerate(product(*(range(taps) for taps in kernel))):
        wanted = out.astype(np.int64) * [1, *stride] - [0, *padding] + np.array([0, *tap])
        inside = np.flatnonzero(((wanted[:, 1:] >= 0) & (wanted[:, 1:] < shape)).all(axis=1))
        code = _code(wanted[inside], shape)
        at = np.searchsorted(ascending, code)
        hit = ascending[at] == code
        table[inside[hit], column] = order[at[hit]]
    return table


def _code(sites: NDArray[np.int64], shape: Triple) -> NDArray[np.int64]:
    code: NDArray[np.int64] = ((sites[:, 0] * shape[0] + sites[:, 1]) * shape[1] + sites[:, 2]) * shape[2] + sites[:, 3]
    return code
