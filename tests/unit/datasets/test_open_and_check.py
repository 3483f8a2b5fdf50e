import json

import numpy as np
import pytest

from kd3d.datasets.check import check_dataset
from kd3d.datasets.kitti import KittiDataset
from kd3d.datasets.nuscenes import NuScenesDataset
from kd3d.datasets.open import open_dataset, recognise
from kd3d.errors import DataError


@pytest.fixture
def kitti_root(tmp_path):
    for kind in ("velodyne", "calib", "label_2"):
        (tmp_path / "training" / kind).mkdir(parents=True)
    for token in ("000000", "000001", "000002", "000003", "000004"):
        np.ones((4, 4), np.float32).tofile(tmp_path / "training/velodyne" / f"{token}.bin")
        (tmp_path / "training/calib" / f"{token}.txt").write_text(
            f"P2: 700 0 600 0 0 700 180 0 0 0 1 0\nR0_rect: {' '.join(map(str, np.eye(3).ravel()))}\n"
            "Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
        )
        (tmp_path / "training/label_2" / f"{token}.txt").write_text("")
    return tmp_path


def test_the_layout_tells_the_data_set(tiny_root, kitti_root):
    assert recognise(tiny_root) == "nuscenes"
    assert recognise(kitti_root) == "kitti"
    assert isinstance(open_dataset(tiny_root, split="val"), NuScenesDataset)
    assert isinstance(open_dataset(kitti_root, split="val"), KittiDataset)


def test_boxes_without_points_are_left_out_of_training_only(tiny_root):
    assert len(open_dataset(tiny_root, split="train")[0].boxes) == 10
    assert len(open_dataset(tiny_root, split="val")[0].boxes) == 11
    assert len(open_dataset(tiny_root, split="train", drop_empty=False)[0].boxes) == 11


def test_sweeps_and_cameras_reach_the_data_set(tiny_root):
    dataset = open_dataset(tiny_root, split="train", sweeps=1, cameras=True)
    assert len(np.unique(dataset[1].points[:, 5])) == 2
    assert len(dataset[1].cameras) == 2


def test_other_folders_are_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"neither nuScenes \(a v1.0-\* folder\) nor KITTI \(training/velodyne\)"):
        open_dataset(tmp_path, split="train")
    with pytest.raises(DataError, match="absent: no such folder"):
        check_dataset(tmp_path / "absent")


def test_a_whole_database_has_no_problems_and_progress_ends_at_the_last_file(tiny_root):
    steps: list[tuple[int, int]] = []
    report = check_dataset(tiny_root, progress=lambda *step: steps.append(step))
    assert report.ok
    assert report.to_json() == {"format": "nuscenes", "frames": 6, "problems": []}
    assert steps[-1] == (26, 26)


def test_every_damaged_file_is_listed_at_once(broken_root):
    lidar = broken_root / "samples/LIDAR_TOP"
    (lidar / "scene-0061-l0.pcd.bin").unlink()
    truncated = lidar / "scene-0103-l0.pcd.bin"
    truncated.write_bytes(truncated.read_bytes()[:-1])
    sweep = broken_root / "sweeps/LIDAR_TOP/scene-0103-l1.pcd.bin"
    points = np.fromfile(sweep, np.float32)
    points[0] = np.nan
    points.tofile(sweep)
    camera = broken_root / "samples/CAM_FRONT"
    (camera / "scene-0061-CAM_FRONT-0.jpg").unlink()
    cut = camera / "scene-0061-CAM_FRONT-1.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    table = broken_root / "v1.0-mini/category.json"
    rows = json.loads(table.read_text())
    rows[0]["name"] = "vehicle.spaceship"
    table.write_text(json.dumps(rows))
    problems = "\n".join(check_dataset(broken_root).problems)
    for name in (
        "unknown category 'vehicle.spaceship'", "scene-0061-l0.pcd.bin: no such", "scene-0103-l0.pcd.bin: ",
        "scene-0103-l1.pcd.bin: 1 of", "CAM_FRONT-0.jpg: the file is missing", "CAM_FRONT-1.jpg: not readable",
    ):  # fmt: skip
        assert name in problems
    assert problems.count("\n") == 5


def test_an_image_of_another_size_is_listed(broken_root):
    from PIL import Image

    Image.new("RGB", (10, 10)).save(broken_root / "samples/CAM_BACK/scene-0061-CAM_BACK-0.jpg")
    (problem,) = check_dataset(broken_root).problems
    assert "the image is 10x10, the table says 64x36" in problem


def test_all_missing_tables_are_listed_at_once(broken_root):
    for name in ("map", "sample"):
        (broken_root / f"v1.0-mini/{name}.json").unlink()
    (broken_root / "v1.0-mini/log.json").write_text("[")
    report = check_dataset(broken_root)
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in report.problems] == ["log.json", "sample.json", "map.json"]
    assert report.frames == 0


def test_damaged_kitti_frames_are_listed(kitti_root):
    assert check_dataset(kitti_root).to_json() == {"format": "kitti", "frames": 5, "problems": []}
    (kitti_root / "training/velodyne/000001.bin").write_bytes(b"123")
    (kitti_root / "training/label_2/000003.txt").write_text("Lorry 1 2 3\n")
    (kitti_root / "training/calib/000004.txt").unlink()
    problems = check_dataset(kitti_root).problems
    assert len(problems) == 3
    assert "000001.bin" in problems[0]
    assert "000003.txt line 1" in problems[1]
    assert "000004.txt: the calibration is missing" in problems[2]


def test_the_real_frames_have_no_problems(shared_data):
    report = check_dataset(shared_data / "kitti")
    assert (report.frames, report.problems) == (27, ())
