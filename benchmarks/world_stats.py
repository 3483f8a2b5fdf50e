"""Compares the generated world with a real nuScenes key frame: points per sweep, per ring, and per box by range.

    python benchmarks/world_stats.py [--scenes 12] [--seed 1000]

Writes benchmarks/results/world_stats.json. The real frame is read from the shared data folder (KD3D_SHARED, or
../shared beside the repository).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from kd3d.datasets.world import write_world
from kd3d.runs import environment
from kd3d.runs.atomic import write_json

ROOT = Path(__file__).resolve().parents[1]
RANGES_M = ((0, 15), (15, 30), (30, 45), (45, 60))
GROUPS = {
    "movable_object.barrier": "barrier",
    "vehicle.car": "car",
    "barrier": "barrier",
    "car": "car",
}


def sweep_stats(points: np.ndarray) -> dict[str, Any]:
    """Counts of one sweep ``[N, 5]``; returns nearer than 2 m are the vehicle itself or no return."""
    range_m = np.linalg.norm(points[:, :3], axis=1)
    far = range_m > 2.0
    return {
        "rows": len(points),
        "points": int(far.sum()),
        "range_median_m": float(np.median(range_m[far])),
        "range_p90_m": float(np.percentile(range_m[far], 90)),
        "points_beyond_30_m": int((range_m > 30).sum()),
        "intensity_median": float(np.median(points[far, 3])),
    }


def real_frame() -> tuple[dict[str, Any], list[tuple[str, float, int]]] | None:
    """Sweep statistics and (class, range, points) of every box of the real key frame, or ``None`` without it."""
    folder = Path(os.environ.get("KD3D_SHARED", ROOT.parent / "shared")) / "data" / "nuscenes_keyframe"
    if not (folder / "annotations.json").is_file():
        return None
    record = json.loads((folder / "annotations.json").read_text())
    points = np.fromfile(folder / record["lidar"]["lidar_path"], np.float32).reshape(-1, 5)
    boxes = [(b["class"], float(np.hypot(*b["box"][:2])), int(b["num_lidar_pts"])) for b in record["boxes"]]
    return sweep_stats(points), boxes


def world_frames(root: Path) -> tuple[dict[str, Any], list[tuple[str, float, int]], dict[str, float]]:
    """Mean sweep statistics, boxes, and boxes per frame by category of a generated world."""
    tables = {p.stem: json.loads(p.read_text()) for p in (root / "v1.0-trainval").glob("*.json")}
    key = [data for data in tables["sample_data"] if data["is_key_frame"]]
    pose = {record["token"]: record["translation"] for record in tables["ego_pose"]}
    ego = {data["sample_token"]: pose[data["ego_pose_token"]] for data in key}
    names = {record["token"]: record["name"] for record in tables["category"]}
    category = {record["token"]: names[record["category_token"]] for record in tables["instance"]}
    stats: dict[str, list[float]] = defaultdict(list)
    for data in key:
        for name, value in sweep_stats(np.fromfile(root / data["filename"], np.float32).reshape(-1, 5)).items():
            stats[name].append(value)
    boxes, counts = [], Counter[str]()
    for annotation in tables["sample_annotation"]:
        name = category[annotation["instance_token"]]
        range_m = float(np.hypot(*np.subtract(annotation["translation"], ego[annotation["sample_token"]])[:2]))
        boxes.append((name, range_m, int(annotation["num_lidar_pts"])))
        counts[name] += range_m < 55 and annotation["num_lidar_pts"] > 0
    frequency = {name: count / len(key) for name, count in counts.most_common()}
    return {name: float(np.mean(values)) for name, values in stats.items()}, boxes, frequency


def by_range(boxes: list[tuple[str, float, int]]) -> dict[str, dict[str, float]]:
    """Mean points per box with any point, by class and range bin; bins with fewer than 3 boxes are left out.

    Points fall with the square of the range, so counts are scaled to the middle of the bin: otherwise the comparison
    would depend on where in a bin the real frame's few boxes happen to stand.
    """
    result: dict[str, dict[str, float]] = {}
    for group in ("pedestrian", "barrier", "car"):
        for low, high in RANGES_M:
            middle = (low + high) / 2
            counts = [
                n * (r / middle) ** 2 for name, r, n in boxes if low <= r < high and n > 0 and group == _group(name)
            ]
            if len(counts) >= 3:
                result.setdefault(group, {})[f"{low}-{high} m"] = float(np.mean(counts))
    return result


def _group(name: str) -> str:
    return "pedestrian" if "pedestrian" in name else GROUPS.get(name, "other")


def compare(real: dict[str, Any], world: dict[str, Any]) -> dict[str, float]:
    """World over real, for every number that both have."""
    ratios = {}
    for name, value in real.items():
        if isinstance(value, dict):
            ratios |= {f"{name} {key}": ratio for key, ratio in compare(value, world.get(name, {})).items()}
        elif name in world and value:
            ratios[name] = world[name] / value
    return ratios


def main() -> None:
    """Generate, compare, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_world(
            Path(folder) / "world",
            scenes=options.scenes,
            seed=options.seed,
            version="v1.0-trainval",
            samples_per_scene=options.samples,
            cameras=False,
            split="train",
            sweeps=0,
        )
        seconds = time.perf_counter() - start
        sweep, boxes, frequency = world_frames(Path(folder) / "world")
    report: dict[str, Any] = {
        "benchmark": "world_stats",
        "frames": options.scenes * options.samples,
        "seed": options.seed,
        "seconds": round(seconds, 1),
        "world": {"sweep": sweep, "points_per_box": by_range(boxes), "boxes_per_frame_within_55_m": frequency},
    }
    real = real_frame()
    if real is not None:
        report["real"] = {"sweep": real[0], "points_per_box": by_range(real[1])}
        report["ratio"] = compare(report["real"], report["world"])
    else:
        print("The real key frame is absent: the world's own figures are recorded without the comparison.")
    report["environment"] = environment.record()
    write_json(ROOT / "benchmarks" / "results" / "world_stats.json", report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
