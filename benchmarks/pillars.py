"""Points to pillars against spconv's CPU voxeliser: same cloud, same grid, one thread, interleaved repeats.

    python benchmarks/pillars.py

Writes benchmarks/results/pillars.json. ``ratio`` is our grouping (raw points by pillar, counts, cells: what spconv
gives) over spconv's ``PointToVoxel``, best time over best time, on the 250,000-point LiDAR-like cloud; below 1
is faster. Our complete ``hard_pillars`` also decorates, which spconv leaves to the network. The bare spconv class hands
out its own buffer without a copy; it is listed so that the copy in ``PointToVoxel`` hides nothing.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: spconv is compared on one thread

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from spconv.pytorch.utils import PointToVoxel

from kd3d.geometry.grid import BevGrid
from kd3d.runs.atomic import write_json
from kd3d.runs.environment import record
from kd3d.runtime.pillars import group_points, hard_pillars, hard_pillars_reference
from kd3d.runtime.points import KITTI_COLUMNS, NUSCENES_COLUMNS, read_points

GRID = BevGrid(-51.2, -51.2, -5, 51.2, 51.2, 3, 0.2)
CAPS = {"max_points": 20, "max_pillars": 60000}
POINTS, FEATURES = 250_000, 5
ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("KD3D_SHARED", ROOT.parent / "shared")) / "data"


def lidar_cloud(rng: np.random.Generator) -> np.ndarray:
    """Ten sweeps of a 32-ring scanner over walls at random distance and the ground, points in order of the beam."""
    rings, columns = 32, POINTS // 320
    azimuth = np.linspace(-np.pi, np.pi, columns, endpoint=False)
    elevation = np.deg2rad(np.linspace(-30, 10, rings))
    sweeps = []
    for lag in range(10):
        wall = np.repeat(rng.lognormal(3.2, 0.5, columns // 11 + 1), 11)[:columns]
        ground = 1.84 / np.maximum(-np.sin(elevation), 1e-3)
        reach = np.minimum(wall[:, None] / np.cos(elevation), ground[None]) + rng.normal(0, 0.03, (columns, rings))
        flat = reach * np.cos(elevation)
        x, y = flat * np.cos(azimuth)[:, None] + 0.5 * lag, flat * np.sin(azimuth)[:, None]
        rest = rng.uniform(0, 255, (columns, rings)), np.full((columns, rings), lag * 0.05)
        sweeps.append(np.stack([x, y, reach * np.sin(elevation), *rest], axis=-1).reshape(-1, FEATURES))
    cloud = np.concatenate(sweeps).astype(np.float32)
    return np.concatenate([cloud, scattered_cloud(rng)[: POINTS - len(cloud)]])


def scattered_cloud(rng: np.random.Generator) -> np.ndarray:
    """No two neighbours in memory are neighbours in space: the worst case for caches, and beyond the pillar cap."""
    x, y = rng.normal(0, 25, (2, POINTS))
    rest = rng.random((2, POINTS))
    return np.stack([x, y, rng.normal(-1, 1, POINTS), *rest], axis=1).astype(np.float32)


def real_clouds() -> Iterator[tuple[str, np.ndarray]]:
    """The real frames, where they are."""
    for path in sorted((SHARED / "nuscenes_keyframe").glob("*.pcd.bin")):
        yield "real nuScenes key frame", read_points(path, NUSCENES_COLUMNS)
    for path in sorted((SHARED / "kitti/training/velodyne").glob("*.bin"))[:1]:
        yield f"real KITTI frame {path.stem}", read_points(path, KITTI_COLUMNS)


def contenders(points: np.ndarray) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; the results of the first two are compared before."""
    low, high = [GRID.x_min_m, GRID.y_min_m, GRID.z_min_m], [GRID.x_max_m, GRID.y_max_m, GRID.z_max_m]
    size = [GRID.cell_m, GRID.cell_m, GRID.height_m]
    theirs = PointToVoxel(size, [*low, *high], points.shape[1], CAPS["max_pillars"], CAPS["max_points"])
    tensor = torch.from_numpy(points)
    return {
        "spconv PointToVoxel": lambda: theirs(tensor),
        "kd3d group_points": lambda: group_points(points, GRID, **CAPS),
        "kd3d hard_pillars": lambda: hard_pillars(points, GRID, **CAPS),
        **_bare_spconv(points, size, [*low, *high]),
    }


def _bare_spconv(points: np.ndarray, size: list[float], limits: list[float]) -> dict[str, Callable[[], Any]]:
    from cumm import tensorview as tv
    from spconv.utils import Point2VoxelCPU3d

    bare = Point2VoxelCPU3d(size, limits, points.shape[1], CAPS["max_pillars"], CAPS["max_points"])
    view = tv.from_numpy(points)  # the caller keeps ``points`` alive, which tensorview does not
    return {"spconv bare, no copy": lambda: bare.point_to_voxel(view)}


def check_equal(points: np.ndarray) -> None:
    """Both group alike, or the comparison means nothing."""
    timed = contenders(points)
    voxels, indices, counts = timed["spconv PointToVoxel"]()
    ours, complete = timed["kd3d group_points"](), hard_pillars_reference(points, GRID, **CAPS)
    np.testing.assert_array_equal(ours.points, voxels.numpy())
    np.testing.assert_array_equal(ours.counts, counts.numpy())
    np.testing.assert_array_equal(ours.cells, (indices[:, 1].long() * GRID.nx + indices[:, 2]).numpy())
    np.testing.assert_array_equal(timed["kd3d hard_pillars"]().features, complete.features)


def measure(points: np.ndarray, repeats: int) -> dict[str, dict[str, float]]:
    """Minimum and median in milliseconds, contenders taking turns in alternating order."""
    timed = contenders(points)
    times: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(repeats + 3):
        for name in list(timed)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            result = timed[name]()
            taken = (time.perf_counter() - start) * 1e3
            del result
            if turn >= 3:  # warm-up
                times[name].append(taken)
    return {name: {"min_ms": round(min(t), 3), "median_ms": round(median(t), 3)} for name, t in times.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/pillars.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    clouds = {"LiDAR-like": lidar_cloud(rng), "scattered": scattered_cloud(rng), **dict(real_clouds())}
    rows = []
    for name, points in clouds.items():
        check_equal(points)
        found = hard_pillars(points, GRID, **CAPS)
        times = measure(points, options.repeats)
        base = times["spconv PointToVoxel"]
        ratios = {
            key: {unit: round(value[f"{unit}_ms"] / base[f"{unit}_ms"], 3) for unit in ("min", "median")}
            for key, value in times.items()
        }
        rows.append(
            {"cloud": name, "points": len(points), "pillars": len(found.counts), "times": times, "ratios": ratios}
        )
        del found
        print(f"\n{name}: {len(points)} points, {rows[-1]['pillars']} pillars")
        for key, value in times.items():
            best, middle = value["min_ms"], value["median_ms"]
            print(f"  {key:22} min {best:7.2f} ms  median {middle:7.2f} ms  x{ratios[key]['min']:.2f}")
    grouping, decorated = rows[0]["ratios"]["kd3d group_points"], rows[0]["ratios"]["kd3d hard_pillars"]
    result = {
        "schema": "kd3d.benchmark.pillars/1",
        "ratio": grouping["min"],
        "ratio_median": grouping["median"],
        "ratio_decorated": decorated["min"],
        "ratio_decorated_median": decorated["median"],
        "settings": {"cells": [GRID.ny, GRID.nx], "cell_m": GRID.cell_m, **CAPS, "repeats": options.repeats},
        "seed": options.seed,
        "threads": 1,
        "clouds": rows,
        "environment": record(),
    }
    write_json(options.out, result)
    print(f"\nratio {result['ratio']} grouping, {result['ratio_decorated']} with decoration. Written to {options.out}")


if __name__ == "__main__":
    main()
