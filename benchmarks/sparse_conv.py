"""Sparse convolution forward and backward against spconv's CPU build: same sites, one thread each, in turns.

    python benchmarks/sparse_conv.py

Writes benchmarks/results/sparse_conv.json. 60,000 voxels in three layouts: scattered at random, in clumps, and from
whole KITTI scans. A stage is four submanifold layers that share one table, as a residual stage has. ``ratio`` is our
forward plus backward over spconv's, best time over best time, both with their index structures built anew for the
stage; ``ratio_layers`` leaves those out on both sides. Values and gradients are compared first, on one layer.
Memory is what a layer keeps from forward to backward beside its input and weights (nothing), the shared
table and pair lists per stage, and the largest block alive inside a layer.

spconv 2.3.8 needs one line replaced to run backward without CUDA, and races with more than one thread.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import spconv.pytorch as spconv
import torch
from spconv.pytorch import ops
from torch import Tensor

from kd3d.detectors.sparse import KernelMap, sparse_conv
from kd3d.runs.atomic import write_json
from kd3d.runs.environment import record
from kd3d.runtime.sparse_tables import submanifold_table

SHAPE = (41, 1440, 1440)
VOXELS, LAYERS = 60_000, 4
ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("KD3D_SHARED", ROOT.parent / "shared")) / "data"


def scattered(rng: np.random.Generator) -> np.ndarray:
    """Sites that seldom have a neighbour."""
    return _distinct(np.stack([rng.integers(0, side, 2 * VOXELS) for side in SHAPE], axis=1), rng)


def clumped(rng: np.random.Generator) -> np.ndarray:
    """Sites around 800 hearts."""
    heart = np.stack([rng.integers(2, 12, 800), *(rng.integers(0, 1440, 800) for _ in range(2))], axis=1)
    at = heart[rng.integers(0, 800, 3 * VOXELS)] + np.rint(rng.normal(0, (1.5, 4, 4), (3 * VOXELS, 3))).astype(int)
    return _distinct(at[((at >= 0) & (at < np.array(SHAPE))).all(axis=1)], rng)


def scans(rng: np.random.Generator) -> np.ndarray | None:
    """Voxels of 0.1 x 0.1 x 0.15 m of whole KITTI scans, each in a part of the range; ``None`` without the data."""
    files = sorted((SHARED / "kitti" / "training" / "velodyne").glob("*.bin"))[:2]
    if not files:
        return None
    found = []
    for index, file in enumerate(files):
        points = np.fromfile(file, np.float32).reshape(-1, 4)[:, :3]
        place = np.floor((points - (-72, -72, -3)) / (0.1, 0.1, 0.15)).astype(int)[:, ::-1]
        inside = ((place >= 0) & (place < np.array(SHAPE))).all(axis=1) & ((place[:, 1] < 720) == (index == 0))
        found.append(place[inside])
    return _distinct(np.concatenate(found), rng, shuffle=False)


def _distinct(at: np.ndarray, rng: np.random.Generator, *, shuffle: bool = True) -> np.ndarray:
    at = np.unique(at, axis=0)
    keep = np.sort(rng.permutation(len(at))[:VOXELS]) if shuffle else np.arange(min(len(at), VOXELS))
    return np.insert(at[keep], 0, 0, axis=1).astype(np.int32)


def best_ms(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Best time of each, in turns."""
    found = dict.fromkeys(runs, np.inf)
    for _ in range(repeats + 1):  # the first round warms up, and is never the best
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            found[name] = min(found[name], time.perf_counter() - start)
    return {name: 1e3 * value for name, value in found.items()}


def differences(ours: list[Tensor], theirs: list[Tensor]) -> list[float]:
    """Largest difference of value and gradients, relative to the largest value where that is above 1."""
    pairs = zip(ours, theirs, strict=True)
    return [float((one - other).abs().max() / max(1.0, float(other.abs().max()))) for one, other in pairs]


def compare(sites: np.ndarray, width: int, repeats: int) -> dict[str, Any]:
    """One layout at one width."""
    at, rows = torch.from_numpy(sites), len(sites)
    features = torch.randn(rows, width, requires_grad=True)
    gradient = torch.randn(rows, width)
    layer = spconv.SubMConv3d(width, width, 3, bias=False, indice_key="stage", algo=spconv.ConvAlgo.Native)
    weight = layer.weight.detach().permute(0, 4, 1, 2, 3).contiguous().requires_grad_()

    def fresh() -> KernelMap:
        return KernelMap(torch.from_numpy(submanifold_table(sites, SHAPE, (3, 3, 3))), rows, True)

    def ours(kernel_map: KernelMap) -> None:
        x = features
        for _ in range(LAYERS):
            x = sparse_conv(x, weight, kernel_map)
        torch.autograd.grad(x, (features, weight), gradient)

    ready = fresh()
    known = layer(spconv.SparseConvTensor(features, at, SHAPE, 1)).indice_dict

    def theirs(*, build: bool) -> None:
        x = spconv.SparseConvTensor(features, at, SHAPE, 1)
        if not build:
            x.indice_dict = dict(known)
        for _ in range(LAYERS):
            x = layer(x)
        torch.autograd.grad(x.features, (features, layer.weight), gradient)

    one = sparse_conv(features, weight, ready)
    other = layer(spconv.SparseConvTensor(features, at, SHAPE, 1)).features
    wanted = list(torch.autograd.grad(other, (features, layer.weight), gradient))
    wanted[1] = wanted[1].permute(0, 4, 1, 2, 3)
    gaps = differences(
        [one.detach(), *torch.autograd.grad(one, (features, weight), gradient)], [other.detach(), *wanted]
    )
    runs = {
        "ours": lambda: ours(fresh()),
        "spconv": lambda: theirs(build=True),
        "ours_layers": lambda: ours(ready),
        "spconv_layers": lambda: theirs(build=False),
    }
    took = best_ms(runs, repeats)
    pairs = ready.pairs
    return {
        "channels": width,
        "ms": {name: round(value, 2) for name, value in took.items()},
        "ratio": round(took["ours"] / took["spconv"], 3),
        "ratio_layers": round(took["ours_layers"] / took["spconv_layers"], 3),
        "difference": dict(zip(("value", "to_features", "to_weight"), gaps, strict=True)),
        "memory_mb": {
            "kept_per_layer": 0.0,
            "table_per_stage": round(27 * rows * 4 / 1e6, 2),
            "pairs_per_stage": round(sum(t.nbytes for t in pairs if isinstance(t, Tensor)) / 1e6, 2),
            "block_in_a_layer": round(len(pairs.source) * width * 4 / 1e6, 2),
            "gathered_whole": round(27 * rows * width * 4 / 1e6, 2),
        },
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "sparse_conv.json")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ops.get_current_stream = lambda: 0  # asks CUDA for a stream otherwise
    layouts = {}
    for name, make in (("scattered", scattered), ("clumped", clumped), ("kitti", scans)):
        sites = make(np.random.default_rng(0))
        if sites is None:
            continue
        table = submanifold_table(sites, SHAPE, (3, 3, 3))
        rows = [compare(sites, width, arguments.repeats) for width in arguments.widths]
        neighbours = float((table < len(sites)).sum() / len(sites))
        layouts[name] = {"voxels": len(sites), "pairs_per_site": round(neighbours, 2), "rows": rows}
        for row in rows:
            print(name, row["channels"], row["ms"], row["ratio"], row["ratio_layers"], row["difference"])
    write_json(arguments.out, {"layers": LAYERS, "seed": 0, "layouts": layouts, "environment": record()})


if __name__ == "__main__":
    main()
