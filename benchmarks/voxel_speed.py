"""Latency of an exported voxel detector against its voxels, on the real nuScenes key frame. ONNX Runtime, CPU.

    python benchmarks/voxel_speed.py

Writes benchmarks/results/voxel_speed.json. The detector is SparseKD's CP-Voxel-XS with nuScenes' point columns and
random weights; clouds are the key frame thinned to shares of its points. Per cloud: voxels, building the neighbour
tables, the network, each the median of ``--repeats``; ``tables_share`` is building over network. ``int8_ms`` is the
network with all layers that may in 8 bits, calibrated on the whole frame: its speed, for random weights have no
accuracy to lose. The maps of ONNX Runtime are first compared with torch's on the whole frame.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch

from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.detectors.voxel_batch import VoxelBatch
from kd3d.export.calibrate import thresholds
from kd3d.export.graph import write_graph
from kd3d.export.int8_plan import make_int8_plan
from kd3d.export.precision import with_initializers
from kd3d.export.qdq import activation_levels, quantise
from kd3d.runs.atomic import write_json
from kd3d.runs.environment import record
from kd3d.runtime.points import NUSCENES_COLUMNS, read_points, select_features
from kd3d.runtime.runners import OrtRunner
from kd3d.runtime.voxels import mean_voxels, voxel_inputs
from kd3d.spec import DetectorSpec, PointSpec

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("KD3D_SHARED", ROOT.parent / "shared")) / "data"
SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)


def detector(name: str) -> DetectorSpec:
    """A Waymo voxel preset for nuScenes' columns: as many inputs, so the network is the same."""
    points = PointSpec(features=("x", "y", "z", "intensity", "time_lag"), intensity="unit")
    return replace(preset(name), points=points)


def median_ms(run: Callable[[], Any], repeats: int) -> float:
    """Median time after one round that warms up."""
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(1e3 * (time.perf_counter() - start))
    return round(median(found), 3)


def inputs(spec: DetectorSpec, cloud: np.ndarray) -> dict[str, np.ndarray]:
    """Network inputs of a cloud."""
    made = voxel_inputs([mean_voxels(cloud, spec.grid, spec.encoder)], spec.grid, spec.encoder)
    return {
        "features": made.features,
        **dict(zip(spec.encoder.tables, made.tables, strict=True)),
        "cells": made.cells,
    }


def parity(module: Any, spec: DetectorSpec, runner: OrtRunner, feeds: dict[str, np.ndarray]) -> float:
    """Largest difference of a map from torch's, relative to the map's largest value where that is above 1."""
    batch = VoxelBatch.from_feeds(feeds, spec.encoder)
    with torch.inference_mode():
        wanted = module.forward_tensors(batch.features, *batch.tables, batch.cells)
    pairs = zip(wanted, runner.infer(feeds).values(), strict=True)
    return max(float(np.abs(one.numpy() - got).max() / max(1.0, np.abs(got).max())) for one, got in pairs)


def write_int8(path: Path, out: Path, feeds: dict[str, np.ndarray]) -> None:
    """The graph of ``path`` as ``kd3d export onnx --precision int8 --int8-for cpu`` has it, no layer left out."""
    graph = with_initializers(onnx.load(path))
    plan = make_int8_plan(graph, cpu=True)
    limits = thresholds(graph, activation_levels(graph, plan, cpu=True), [feeds], method="max")
    onnx.save(quantise(graph, plan, limits, cpu=True), out)


def measure(
    spec: DetectorSpec, runners: tuple[OrtRunner, OrtRunner], cloud: np.ndarray, repeats: int
) -> dict[str, Any]:
    """One cloud, in fp32 and in 8 bits."""
    runner, small = runners
    voxels = mean_voxels(cloud, spec.grid, spec.encoder)
    feeds = inputs(spec, cloud)
    tables = median_ms(lambda: voxel_inputs([voxels], spec.grid, spec.encoder), repeats)
    network = median_ms(lambda: runner.infer(feeds), repeats)
    return {
        "points": len(cloud),
        "sites": [len(feeds["features"]), *(len(feeds[name]) for name in spec.encoder.tables if "strided" in name)],
        "voxels_ms": median_ms(lambda: mean_voxels(cloud, spec.grid, spec.encoder), repeats),
        "tables_ms": tables,
        "network_ms": network,
        "tables_share": round(tables / network, 4),
        "int8_ms": median_ms(lambda: small.infer(feeds), repeats),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "voxel_speed.json")
    parser.add_argument("--preset", default="waymo-centerpoint-voxel-xs")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    spec = detector(arguments.preset)
    module = build(spec).eval()
    (file,) = sorted((SHARED / "nuscenes_keyframe").glob("*.pcd.bin"))
    cloud = select_features(read_points(file, NUSCENES_COLUMNS), NUSCENES_COLUMNS, spec.points)
    order = np.random.default_rng(0).permutation(len(cloud))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_graph(module, spec, path, opset=20, pillars=None, weights_sha256="")
        whole = inputs(spec, cloud)
        write_int8(path, Path(folder) / "int8.onnx", whole)
        threads = arguments.threads
        with (
            OrtRunner(path, threads=threads) as runner,
            OrtRunner(Path(folder) / "int8.onnx", threads=threads) as small,
        ):
            gap = parity(module, spec, runner, whole)
            rows = []
            for share in SHARES:
                kept = np.sort(order[: int(share * len(cloud))])
                rows.append(measure(spec, (runner, small), cloud[kept], arguments.repeats))
                print(rows[-1], flush=True)
    found = {"preset": arguments.preset, "threads": arguments.threads, "seed": 0, "difference_to_torch": gap}
    write_json(arguments.out, {**found, "clouds": rows, "environment": record()})
    print("difference to torch", gap)


if __name__ == "__main__":
    main()
