"""The generated world is a data set that the unmodified nuScenes devkit accepts, and its records tell the truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd3d.datasets.world import write_world

nuscenes = pytest.importorskip("nuscenes.nuscenes")
SAMPLES = 4


def _nusc(root: Path) -> Any:
    return nuscenes.NuScenes("v1.0-mini", str(root), verbose=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "mini"
    write_world(out, scenes=2, seed=11, samples_per_scene=SAMPLES, cameras=False, workers=1)
    return out


@pytest.fixture(scope="module")
def nusc(root: Path) -> Any:
    return _nusc(root)


def _digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def _world_points(nusc: Any, data_token: str) -> np.ndarray:
    from pyquaternion import Quaternion

    data = nusc.get("sample_data", data_token)
    points = np.fromfile(Path(nusc.dataroot) / data["filename"], np.float32).reshape(-1, 5)[:, :3].astype(np.float64)
    for record in (
        nusc.get("calibrated_sensor", data["calibrated_sensor_token"]),
        nusc.get("ego_pose", data["ego_pose_token"]),
    ):
        points = points @ Quaternion(record["rotation"]).rotation_matrix.T + record["translation"]
    return points


def test_the_devkit_loads_all_tables_and_both_official_scenes(nusc: Any) -> None:
    assert len(nusc.category) == 23
    assert {scene["name"] for scene in nusc.scene} == {"scene-0061", "scene-0103"}
    assert len(nusc.sample) == 2 * SAMPLES
    assert len(nusc.sample_annotation) > 10 * len(nusc.sample)


def test_every_key_frame_accumulates_ten_sweeps_of_half_a_second(nusc: Any) -> None:
    from nuscenes.utils.data_classes import LidarPointCloud

    for sample in nusc.sample[:2]:
        cloud, lag = LidarPointCloud.from_file_multisweep(nusc, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=10)
        assert cloud.points.shape[1] > 150_000
        assert len(np.unique(lag.round(3))) == 10
        assert lag.max() == pytest.approx(0.45, abs=1e-3)


def test_sweeps_have_the_ring_layout_of_the_real_sensor(nusc: Any, root: Path) -> None:
    data = nusc.get("sample_data", nusc.sample[0]["data"]["LIDAR_TOP"])
    points = np.fromfile(root / data["filename"], np.float32).reshape(-1, 5)
    assert 17_000 < len(points) <= 32 * 1084
    assert set(np.unique(points[:, 4])) <= set(range(32))
    assert points[:, 3].min() >= 0 and points[:, 3].max() <= 255
    far = np.linalg.norm(points[:, :3], axis=1) > 2
    elevation = np.degrees(np.arctan2(points[far, 2], np.hypot(points[far, 0], points[far, 1])))
    assert np.abs(elevation - (-30.67 + points[far, 4] * 41.34 / 31)).max() < 0.01


def test_num_lidar_pts_counts_the_points_inside_the_box(nusc: Any) -> None:
    from nuscenes.utils.geometry_utils import points_in_box

    checked = 0
    for sample in nusc.sample[::3]:
        world = _world_points(nusc, sample["data"]["LIDAR_TOP"]).T
        for token in sample["anns"]:
            annotation = nusc.get("sample_annotation", token)
            inside = int(points_in_box(nusc.get_box(token), world).sum())
            assert abs(inside - annotation["num_lidar_pts"]) <= 1 + 0.01 * inside
            checked += annotation["num_lidar_pts"] > 5
    assert checked > 20


def test_box_velocity_agrees_with_the_motion_and_the_attribute(nusc: Any) -> None:
    moving = parked = 0
    for annotation in nusc.sample_annotation:
        if not annotation["prev"] or not annotation["next"]:
            continue
        speed = float(np.linalg.norm(nusc.box_velocity(annotation["token"])[:2]))
        names = [nusc.get("attribute", token)["name"] for token in annotation["attribute_tokens"]]
        if "vehicle.moving" in names or "pedestrian.moving" in names:
            before = nusc.get("sample_annotation", annotation["prev"])["translation"]
            step = np.subtract(annotation["translation"], before)[:2]
            assert speed == pytest.approx(float(np.linalg.norm(step)) / 0.5, abs=1.5)
            moving += 1
        elif "vehicle.parked" in names or "pedestrian.standing" in names:
            assert speed < 0.01
            parked += 1
    assert moving > 5 and parked > 5


def test_a_moving_vehicle_drives_along_its_own_heading(nusc: Any) -> None:
    checked = 0
    for annotation in nusc.sample_annotation:
        velocity = nusc.box_velocity(annotation["token"])[:2]
        if annotation["category_name"] != "vehicle.car" or not np.linalg.norm(velocity) > 2:
            continue
        forward = nusc.get_box(annotation["token"]).rotation_matrix[:2, 0]
        assert float(velocity @ forward) > 0.95 * float(np.linalg.norm(velocity))
        checked += 1
    assert checked > 3


def test_instance_chains_are_complete(nusc: Any) -> None:
    for instance in nusc.instance:
        token, count = instance["first_annotation_token"], 0
        while token:
            last, count = token, count + 1
            token = nusc.get("sample_annotation", token)["next"]
        assert (last, count) == (instance["last_annotation_token"], instance["nbr_annotations"])


def test_perfect_predictions_score_near_one_in_the_official_evaluation(nusc: Any, tmp_path: Path) -> None:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval
    from nuscenes.eval.detection.utils import category_to_detection_name

    results: dict[str, list[dict[str, Any]]] = {}
    for sample in nusc.sample:
        rows = results.setdefault(sample["token"], [])
        for token in sample["anns"]:
            annotation = nusc.get("sample_annotation", token)
            if annotation["num_lidar_pts"] == 0:
                continue  # the evaluation drops these from the ground truth
            name = category_to_detection_name(annotation["category_name"])
            attributes = [nusc.get("attribute", key)["name"] for key in annotation["attribute_tokens"]]
            rows.append(
                {
                    "sample_token": sample["token"],
                    "translation": annotation["translation"],
                    "size": annotation["size"],
                    "rotation": annotation["rotation"],
                    "velocity": [float(v) for v in np.nan_to_num(nusc.box_velocity(token)[:2])],
                    "detection_name": name,
                    "detection_score": 0.9,
                    "attribute_name": attributes[0] if attributes else "",
                }
            )
    val = [s["token"] for s in nusc.sample if nusc.get("scene", s["scene_token"])["name"] == "scene-0103"]
    meta = {f"use_{name}": False for name in ("camera", "lidar", "radar", "map", "external")}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"meta": meta, "results": {token: results[token] for token in val}}))
    config = config_factory("detection_cvpr_2019")
    evaluation = DetectionEval(nusc, config, str(path), "mini_val", str(tmp_path / "eval"), verbose=False)
    metrics, _ = evaluation.evaluate()
    present = {box.detection_name for boxes in evaluation.gt_boxes.boxes.values() for box in boxes}
    assert len(present) >= 3
    for name in present:
        assert metrics.mean_dist_aps[name] > 0.99, name


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(root: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_world(again, scenes=2, seed=11, samples_per_scene=SAMPLES, cameras=False, workers=2)
    assert _digest(again) == _digest(root)


def test_another_seed_gives_another_world(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_world(other, scenes=1, seed=12, samples_per_scene=1, cameras=False, workers=1, split="val", sweeps=0)
    assert not set(_digest(other).values()) & set(_digest(root / "samples").values())


def test_the_devkit_renders_pictures_with_their_boxes(tmp_path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    out = tmp_path / "pictures"
    write_world(out, scenes=1, seed=3, samples_per_scene=1, cameras=True, workers=1, split="val", sweeps=0)
    nusc = _nusc(out)
    assert len(nusc.sample[0]["data"]) == 7
    nusc.render_sample(nusc.sample[0]["token"], out_path=str(tmp_path / "sample.png"), verbose=False)
    assert (tmp_path / "sample.png").stat().st_size > 50_000
    from PIL import Image

    for channel, token in nusc.sample[0]["data"].items():
        if channel.startswith("CAM"):
            picture = np.asarray(Image.open(nusc.get_sample_data_path(token)))
            assert picture.shape == (900, 1600, 3)
            assert picture.std() > 15
