"""A reference for sparse convolutions that shares no code with the library: tables by dictionaries, dense conv3d."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Triple = tuple[int, int, int]


def random_sites(count: int, shape: Triple, *, frames: int = 1, seed: int = 0) -> np.ndarray:
    """Distinct sites ``[N, 4]`` (frame, z, y, x), in random order."""
    rng = np.random.default_rng(seed)
    size = frames * shape[0] * shape[1] * shape[2]
    return np.stack(np.unravel_index(rng.permutation(size)[:count], (frames, *shape)), axis=1).astype(np.int32)


def clustered_sites(count: int, shape: Triple, seed: int = 0) -> np.ndarray:
    """Sites of one frame in clumps, as a LiDAR's are: a site has several neighbours. Sorted."""
    rng = np.random.default_rng(seed)
    heart = np.stack([rng.integers(2, side - 2, count // 60) for side in shape], axis=1)
    at = heart[rng.integers(0, len(heart), count * 3)] + np.rint(rng.normal(0, (1, 3, 3), (count * 3, 3))).astype(int)
    at = np.unique(at[((at >= 0) & (at < np.array(shape))).all(axis=1)], axis=0)
    at = at[np.sort(rng.permutation(len(at))[:count])]
    return np.concatenate([np.zeros((len(at), 1), int), at], axis=1).astype(np.int32)


def submanifold(sites: np.ndarray) -> np.ndarray:
    """``[N, 27]``."""
    place = {tuple(site): row for row, site in enumerate(sites.tolist())}
    table = [
        [place.get((b, z + dz, y + dy, x + dx), len(sites)) for dz, dy, dx in product((-1, 0, 1), repeat=3)]
        for b, z, y, x in sites.tolist()
    ]
    return np.array(table, np.int32).reshape(-1, 27)


def strided(sites: np.ndarray, shape: Triple, kernel: Triple, stride: Triple, padding: Triple):
    """Output sites ``[M, 4]``, table ``[M, K]``, output shape."""
    sizes = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(shape, padding, kernel, stride, strict=True)]
    place = {tuple(site): row for row, site in enumerate(sites.tolist())}
    found: dict[tuple[int, ...], list[int]] = {}
    taps = list(product(*(range(k) for k in kernel)))
    for (b, *site), row in place.items():
        for index, tap in enumerate(taps):
            parts = [divmod(v + p - t, s) for v, p, t, s in zip(site, padding, tap, stride, strict=True)]
            if all(rest == 0 and 0 <= at < size for (at, rest), size in zip(parts, sizes, strict=True)):
                key = (b, *(at for at, _ in parts))
                found.setdefault(key, [len(sites)] * len(taps))[index] = row
    ordered = sorted(found)
    return np.array(ordered, np.int32).reshape(-1, 4), np.array([found[key] for key in ordered], np.int32), tuple(sizes)


def to_dense(features: Tensor, sites: np.ndarray, shape: Triple, frames: int = 1) -> Tensor:
    """``[N, C]`` to ``[frames, C, z, y, x]``."""
    b, z, y, x = torch.from_numpy(sites.astype(np.int64)).T
    empty = features.new_zeros((frames, *shape, features.shape[1]))
    return empty.index_put((b, z, y, x), features).permute(0, 4, 1, 2, 3)


def at_sites(dense: Tensor, sites: np.ndarray) -> Tensor:
    """``[frames, C, z, y, x]`` to ``[N, C]``."""
    b, z, y, x = torch.from_numpy(sites.astype(np.int64)).T
    return dense.permute(0, 2, 3, 4, 1)[b, z, y, x]


def active_after(active: Tensor, kernel: Triple, stride: Triple, padding: Triple) -> Tensor:
    """``[frames, 1, z, y, x]`` of zeros and ones: outputs whose window holds an active site."""
    ones = torch.ones(1, 1, *kernel)
    return (functional.conv3d(active, ones, stride=stride, padding=padding) > 0).float()
