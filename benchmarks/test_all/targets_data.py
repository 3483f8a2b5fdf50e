"""Data sets, point clouds and portable frames, damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from targets import Target, command, finite, support

CALIB = """P0: 721.5377 0 609.5593 0 0 721.5377 172.854 0 0 0 1 0
P2: 721.5377 0 609.5593 44.85728 0 721.5377 172.854 0.2163791 0 0 1 0.002745884
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27
"""
CAR = "Car 0.00 0 1.55 614.24 181.78 727.31 284.77 1.57 1.73 4.15 1.00 1.75 13.22 1.62"
VAN = CAR.replace("Car", "Van")
DONT_CARE = "DontCare -1 -1 -10 5.00 229.89 214.12 367.61 -1 -1 -1 -1000 -1000 -1000 -10"
COLUMNS = ("x", "y", "z", "intensity", "ring")


def _cloud(rows: int = 400) -> Any:
    return np.random.default_rng(1).uniform(-40, 40, (rows, 5)).astype(np.float32)


def _clouds(folder: Path) -> None:
    cloud = _cloud()
    cloud.tofile(folder / "a.bin")
    np.save(folder / "a.npy", cloud)
    np.savez(folder / "a.npz", points=cloud)
    np.savez_compressed(folder / "b.npz", points=cloud)


def _read_clouds(folder: Path) -> Any:
    from kd3d.detectors.presets import preset
    from kd3d.runtime.pillars import hard_pillars
    from kd3d.runtime.points import read_points, select_features

    spec = preset("world-centerpoint-pillar-tiny")
    found = [read_points(path, COLUMNS) for path in sorted(folder.iterdir())]
    chosen = [select_features(points, COLUMNS, spec.points) for points in found]
    return [hard_pillars(points, spec.grid, max_points=8, max_pillars=500).features for points in chosen]


def _numbers(arrays: Any) -> str:
    return "" if all(finite(array) for array in arrays) else "numbers that are not finite"


def _frames(folder: Path) -> None:
    from kd3d.geometry.boxes import Boxes3D
    from kd3d.runtime.frames import Frame, write_frames

    boxes = Boxes3D(np.random.default_rng(2).uniform(1, 9, (3, 9)), np.array([0, 1, 0]))
    made = [
        Frame(f"t{index}", _cloud(60), COLUMNS, boxes, ("car", "bus"), np.eye(4), np.eye(4), np.eye(4)[:3], (64, 36))
        for index in range(3)
    ]
    write_frames(made, folder / "frames")


def _read_frames(folder: Path) -> Any:
    from kd3d.runtime.frames import read_frames

    return list(read_frames(folder / "frames"))


def _framed(frames: Any) -> str:
    for frame in frames:
        if not all(isinstance(name, str) for name in (*frame.features, *frame.classes)):
            return f"names that are no text: {frame.features!r} {frame.classes!r}"
        if frame.lidar2ego.shape != (4, 4) or frame.ego2global.shape != (4, 4):
            return "a pose that is no 4 x 4 matrix"
        if frame.boxes is not None and (frame.boxes.label >= len(frame.classes)).any():
            return "a label without a class"
        if not finite(frame.lidar2ego) or not finite(frame.ego2global):
            return "a pose that is not finite"  # points are looked at when they become pillars
    return ""


def _nuscenes(folder: Path) -> None:
    support("tiny_nuscenes").write_tiny(folder / "data")


def _read_dataset(folder: Path) -> Any:
    """Every frame, as training and evaluation ask for them."""
    from kd3d.datasets.open import open_dataset

    kind = "train" if (folder / "data" / "training").exists() else "mini_train"
    dataset = open_dataset(folder / "data", split=kind, sweeps=0 if kind == "train" else 2)
    return [dataset[index] for index in range(len(dataset))]


def _sampled(samples: Any) -> str:
    for sample in samples:
        if not finite(sample.points):
            return "points that are not finite"
        if sample.boxes is not None and not finite(sample.boxes.array[:, :7]):
            return "boxes that are not finite"
    return ""


def _check(folder: Path) -> Any:
    return command("data", "check", "--data", "data")


def _kitti(folder: Path) -> None:
    training = folder / "data" / "training"
    for kind in ("velodyne", "calib", "label_2"):
        (training / kind).mkdir(parents=True)
    for index in range(3):
        _cloud(30)[:, :4].tofile(training / "velodyne" / f"{index:06d}.bin")
        (training / "calib" / f"{index:06d}.txt").write_text(CALIB)
        (training / "label_2" / f"{index:06d}.txt").write_text(f"{CAR}\n{VAN}\n{DONT_CARE}\n")
    (folder / "data" / "ImageSets").mkdir()
    (folder / "data" / "ImageSets" / "train.txt").write_text("000000\n000001\n000002\n")


def _waymo(folder: Path) -> None:
    support("waymo_writer").write_dataset(folder / "data", segments=1, frames=2)


def _objects(folder: Path) -> None:
    from kd3d.datasets.open import open_dataset
    from kd3d.datasets.paste import build_database

    _nuscenes(folder)
    build_database(open_dataset(folder / "data", split="mini_train"), folder / "objects")


def _read_objects(folder: Path) -> Any:
    from kd3d.datasets.open import open_dataset
    from kd3d.datasets.paste import SampleDatabase

    found = SampleDatabase(folder / "objects")
    sample = open_dataset(folder / "data", split="mini_train")[0]
    pasted = found.paste(sample, np.random.default_rng(3), [(name, 3) for name in sample.classes])
    return [*(found.points(index) for index in range(len(found))), pasted.points, pasted.boxes.array[:, :7]]


def _results(folder: Path) -> None:
    """Official results whose boxes are the labels."""
    from kd3d.datasets.open import open_dataset
    from kd3d.evaluation.results import write_results
    from kd3d.geometry.boxes import Boxes3D

    _nuscenes(folder)
    dataset = open_dataset(folder / "data", split="mini_val", drop_empty=False)
    found = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        boxes = sample.boxes
        found[sample.token] = Boxes3D(np.nan_to_num(boxes.array), boxes.label, np.full(len(boxes), 0.5, np.float32))
    write_results(found, dataset, dataset.classes, folder / "results.json")


def _score(folder: Path) -> Any:
    return command("eval", "--results", "results.json", "--data", "data", "--split", "val")


def _scored(found: Any) -> str:
    return "" if 0 <= found["mAP"] <= 1 and 0 <= found["NDS"] <= 1 else f"mAP {found['mAP']}, NDS {found['NDS']}"


def _problems(found: Any) -> str:
    return "" if isinstance(found["problems"], list) and found["frames"] >= 0 else "no report"


DATA = (
    Target("points", _clouds, ("*",), _read_clouds, _numbers, 400),
    Target("frames", _frames, ("frames/*",), _read_frames, _framed, 400),
    Target("nuscenes-tables", _nuscenes, ("data/v1.0-mini/*.json",), _read_dataset, _sampled, 400),
    Target(
        "nuscenes-clouds",
        _nuscenes,
        ("data/samples/LIDAR_TOP/*", "data/sweeps/LIDAR_TOP/*"),
        _read_dataset,
        _sampled,
        100,
    ),
    Target("nuscenes-check", _nuscenes, ("data/**/*",), _check, _problems, 200),
    Target("kitti", _kitti, ("data/**/*",), _read_dataset, _sampled, 300),
    Target("kitti-check", _kitti, ("data/**/*",), _check, _problems, 150),
    Target("waymo", _waymo, ("data/**/*.parquet",), _read_dataset, _sampled, 200),
    Target("objects-to-paste", _objects, ("objects/*",), _read_objects, _numbers, 200),
    Target("results", _results, ("results.json",), _score, _scored, 200),
)
