import json
import pickle

import numpy as np
import pytest

from kd3d.datasets.inside import points_in_boxes
from kd3d.datasets.nuscenes import NuScenesDataset
from kd3d.datasets.nuscenes_tables import CLASSES, open_database
from kd3d.errors import DataError, UsageError


@pytest.fixture(scope="module")
def nusc(tiny_root):
    return open_database(tiny_root, "v1.0-mini")


def test_splits_of_a_mini_version_are_the_mini_splits(tiny_root):
    train, val = NuScenesDataset(tiny_root, split="train"), NuScenesDataset(tiny_root, split="val")
    assert (train.split, val.split) == ("mini_train", "mini_val")
    assert train.tokens == ["scene-0061-s0", "scene-0061-s1", "scene-0061-s2"]
    assert not set(train.tokens) & set(val.tokens)


@pytest.mark.parametrize("sweeps", [0, 2, 4, 9])
def test_accumulated_sweeps_equal_the_devkits(tiny_root, nusc, sweeps):
    from nuscenes.utils.data_classes import LidarPointCloud

    dataset = NuScenesDataset(tiny_root, split="train", sweeps=sweeps)
    for i, token in enumerate(dataset.tokens):
        sample = nusc.get("sample", token)
        cloud, lag = LidarPointCloud.from_file_multisweep(nusc, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=sweeps + 1)
        points = dataset[i].points
        assert points.shape == (cloud.points.shape[1], 6)
        np.testing.assert_allclose(points[:, :4], cloud.points.T, atol=2e-4)
        np.testing.assert_allclose(points[:, 5], lag[0], atol=1e-6)


def test_sweeps_stop_at_the_start_of_the_scene_and_older_ones_lag_more(tiny_root):
    dataset = NuScenesDataset(tiny_root, split="train", sweeps=9)
    lags = [np.unique(sample.points[:, 5]) for sample in (dataset[0], dataset[1])]
    assert lags[0].tolist() == [0.0]
    np.testing.assert_allclose(lags[1], [0, 1 / 6, 1 / 3, 1 / 2], atol=1e-5)


def test_boxes_equal_the_devkits_in_the_lidar_frame(tiny_root, nusc):
    dataset = NuScenesDataset(tiny_root, split="val")
    for i, token in enumerate(dataset.tokens):
        _, boxes, _ = nusc.get_sample_data(nusc.get("sample", token)["data"]["LIDAR_TOP"])
        wanted = [box for box in boxes if box.name != "static_object.bicycle_rack"]
        mine = dataset[i].boxes
        assert len(mine) == len(wanted) == 11
        np.testing.assert_allclose(mine.center_m, [box.center for box in wanted], atol=1e-3)
        np.testing.assert_allclose(mine.size_m, [box.wlh[[1, 0, 2]] for box in wanted], atol=1e-5)
        front = np.array([box.orientation.rotation_matrix[:2, 0] for box in wanted])
        np.testing.assert_allclose(np.cos(mine.yaw_rad - np.arctan2(front[:, 1], front[:, 0])), 1, atol=1e-6)
        assert [CLASSES[label] for label in mine.label][:3] == ["car", "truck", "bus"]


def test_velocity_points_along_the_heading_of_a_moving_object_and_is_in_the_lidar_frame(tiny_root, tiny):
    boxes = NuScenesDataset(tiny_root, split="train")[1].boxes
    speed = np.hypot(*boxes.velocity_m_s.T)
    wanted = [obj[2] for obj in tiny.OBJECTS if obj[0] != "static_object.bicycle_rack"]
    np.testing.assert_allclose(speed, wanted, atol=0.01)
    moving = speed > 1
    direction = np.arctan2(boxes.velocity_m_s[moving, 1], boxes.velocity_m_s[moving, 0])
    np.testing.assert_allclose(np.cos(direction - boxes.yaw_rad[moving]), 1, atol=1e-3)


def test_labelled_point_counts_are_found_inside_the_boxes(tiny_root):
    dataset = NuScenesDataset(tiny_root, split="train", sweeps=0)
    sample = dataset[2]
    assert (points_in_boxes(sample.points, sample.boxes.array).sum(axis=1) >= dataset.records[2].lidar_points).all()


def test_boxes_without_points_are_left_out_when_asked(tiny_root):
    kept = NuScenesDataset(tiny_root, split="train", drop_empty=True)
    assert len(kept[0].boxes) == 10
    assert (kept.records[0].lidar_points > 0).all()


def test_unknown_velocity_stays_nan(broken_root):
    edit(broken_root, "sample_annotation", lambda rows: [row.update(prev="", next="") for row in rows])
    boxes = NuScenesDataset(broken_root, split="train")[0].boxes
    assert np.isnan(boxes.velocity_m_s).all()


def test_cameras_project_as_the_devkit_does(tiny_root, nusc):
    from nuscenes.utils.geometry_utils import BoxVisibility

    sample = NuScenesDataset(tiny_root, split="train", cameras=True)[1]
    assert [view.name for view in sample.cameras] == ["CAM_BACK", "CAM_FRONT"]
    for view in sample.cameras:
        token = nusc.get("sample", sample.token)["data"][view.name]
        path, boxes, intrinsic = nusc.get_sample_data(token, box_vis_level=BoxVisibility.NONE)
        centers = np.array([box.center for box in boxes if box.name != "static_object.bicycle_rack"])
        mine = np.c_[sample.boxes.center_m, np.ones(len(sample.boxes))] @ view.lidar2camera.T
        np.testing.assert_allclose(mine[:, :3], centers, atol=1e-3)
        np.testing.assert_array_equal(view.intrinsic, intrinsic)
        assert str(view.path) == path
        assert view.size_px == (64, 36)


def test_the_data_set_pickles_small_and_reads_the_same(tiny_root):
    dataset = NuScenesDataset(tiny_root, split="train", sweeps=2, cameras=True)
    packed = pickle.dumps(dataset)
    assert len(packed) < 20_000 * len(dataset)
    np.testing.assert_array_equal(pickle.loads(packed)[1].points, dataset[1].points)


def test_the_larger_version_is_preferred_and_the_other_can_be_named(tiny, tmp_path):
    tiny.write_tiny(tmp_path)
    tiny.write_tiny(tmp_path, version="v1.0-trainval")
    assert NuScenesDataset(tmp_path, split="train").version == "v1.0-trainval"
    assert NuScenesDataset(tmp_path, split="train", version="v1.0-mini").split == "mini_train"
    with pytest.raises(DataError, match=r"has no version v1.0-test; it has v1.0-trainval, v1.0-mini"):
        NuScenesDataset(tmp_path, split="train", version="v1.0-test")


@pytest.mark.parametrize("split", ["train_detect", "test", "nonsense"])
def test_a_split_of_another_version_is_refused(tiny_root, split):
    with pytest.raises(UsageError, match=f"{split}: v1.0-mini has no such split. Choose one of mini_train, mini_val"):
        NuScenesDataset(tiny_root, split=split)


def test_a_database_without_scenes_of_the_split_is_refused(tiny, tmp_path):
    tiny.write_tiny(tmp_path, scenes=tiny.SCENES[:1])
    with pytest.raises(DataError, match="none of its 1 scenes belongs to the split mini_val"):
        NuScenesDataset(tmp_path, split="val")


def test_a_missing_table_is_named(broken_root):
    (broken_root / "v1.0-mini" / "ego_pose.json").unlink()
    with pytest.raises(DataError, match=r"v1.0-mini/ego_pose.json: the table is missing. Restore it"):
        NuScenesDataset(broken_root, split="train")


def test_a_damaged_table_is_named(broken_root):
    path = broken_root / "v1.0-mini" / "sample_data.json"
    path.write_text(path.read_text()[:-10])
    with pytest.raises(DataError, match=r"sample_data.json: the table is not valid JSON"):
        NuScenesDataset(broken_root, split="train")


def test_tables_that_do_not_fit_together_are_refused(broken_root):
    edit(broken_root, "ego_pose", lambda rows: rows.pop(0))
    with pytest.raises(DataError, match=r"the tables do not fit together \(nothing has 'ego-scene-0061-l0'\)"):
        NuScenesDataset(broken_root, split="train")


def test_a_missing_map_is_refused(broken_root):
    (broken_root / "maps" / "map.png").unlink()
    with pytest.raises(DataError, match=r"the devkit cannot open it .*map.png"):
        NuScenesDataset(broken_root, split="train")


def test_a_missing_sweep_is_named(broken_root):
    (broken_root / "sweeps/LIDAR_TOP/scene-0061-l2.pcd.bin").unlink()
    dataset = NuScenesDataset(broken_root, split="train", sweeps=1)
    assert len(dataset[0].points)
    with pytest.raises(DataError, match=r"scene-0061-l2.pcd.bin: no such file"):
        dataset[1]


def test_a_truncated_sweep_is_named(broken_root):
    path = broken_root / "samples/LIDAR_TOP/scene-0061-l0.pcd.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"scene-0061-l0.pcd.bin: .*truncated"):
        NuScenesDataset(broken_root, split="train")[0]


def test_a_missing_image_matters_only_with_cameras(broken_root):
    (broken_root / "samples/CAM_FRONT/scene-0061-CAM_FRONT-0.jpg").unlink()
    assert len(NuScenesDataset(broken_root, split="train")[0].points)
    with pytest.raises(DataError, match=r"scene-0061-CAM_FRONT-0.jpg: the image is missing"):
        NuScenesDataset(broken_root, split="train", cameras=True)[0]


def test_an_unknown_category_is_named(broken_root):
    edit(broken_root, "category", lambda rows: rows[0].update(name="vehicle.spaceship"))
    with pytest.raises(DataError, match=r"sample_annotation.json: an annotation has the unknown category 'vehicle.sp"):
        NuScenesDataset(broken_root, split="train")


def test_a_folder_without_a_database_is_refused(tmp_path):
    with pytest.raises(DataError, match="no nuScenes database"):
        NuScenesDataset(tmp_path, split="train")
    with pytest.raises(DataError, match="no such folder"):
        NuScenesDataset(tmp_path / "absent", split="train")


def test_negative_sweeps_are_refused(tiny_root):
    with pytest.raises(UsageError, match="sweeps must be 0 or more, not -1"):
        NuScenesDataset(tiny_root, split="train", sweeps=-1)


def test_opening_prints_nothing(tiny, tmp_path, capfd):
    NuScenesDataset(tiny.write_tiny(tmp_path), split="train")
    assert capfd.readouterr() == ("", "")


def edit(root, table, change):
    path = root / "v1.0-mini" / f"{table}.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def test_an_empty_cloud_is_a_frame_without_points(broken_root):
    (broken_root / "samples/LIDAR_TOP/scene-0061-l0.pcd.bin").write_bytes(b"")
    assert NuScenesDataset(broken_root, split="train", sweeps=1)[0].points.shape == (0, 6)


def test_workers_of_a_data_loader_read_the_same_frames(tiny_root):
    from torch.utils.data import DataLoader

    dataset = NuScenesDataset(tiny_root, split="train", sweeps=2)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for mine, theirs in zip((dataset[i] for i in range(len(dataset))), loader, strict=True):
        np.testing.assert_array_equal(np.asarray(theirs.points), mine.points)


@pytest.mark.parametrize(
    ("table", "change", "text"),
    [
        ("ego_pose", {"translation": 3}, r"translation 3 are no pose"),
        ("ego_pose", {"translation": [0.0, "x", 1.0]}, r"could not convert string to float"),
        ("ego_pose", {"translation": [0.0, 1e300, 1.0]}, r"are no pose"),
        ("ego_pose", {"rotation": [0, 0, 0, 0]}, r"the rotation \[0, 0, 0, 0\] is no quaternion"),
        ("calibrated_sensor", {"rotation": [1, 0, 0, 0, 0]}, r"are no pose"),
        ("sample_annotation", {"translation": [1.0, [2.0], 3.0]}, r"is of another kind than in nuScenes"),
        ("sample_data", {"filename": [1]}, r"is of another kind than in nuScenes"),
    ],
)
def test_a_value_of_another_kind_in_a_table_is_refused(broken_root, table, change, text):
    edit(broken_root, table, lambda rows: [row.update(change) for row in rows])
    with pytest.raises(DataError, match=text):
        NuScenesDataset(broken_root, split="train", sweeps=2)


@pytest.mark.parametrize(
    ("table", "column", "text"),
    [
        ("scene", "name", r"scene\.json: a scene has no usable 'name'"),
        ("map", "log_tokens", r"the devkit cannot open it \(Error: log_tokens not in map table"),
    ],
)
def test_a_column_without_which_no_frame_is_found_is_named(broken_root, table, column, text):
    edit(broken_root, table, lambda rows: [row.pop(column) for row in rows])
    with pytest.raises(DataError, match=text):
        NuScenesDataset(broken_root, split="train")


def test_a_table_that_is_nested_without_end_is_named(broken_root):
    path = broken_root / "v1.0-mini" / "log.json"
    path.write_text("[" * 20_000 + "]" * 20_000)
    with pytest.raises(DataError, match=r"log\.json: the table is not valid JSON \(it is nested too deeply\)"):
        NuScenesDataset(broken_root, split="train")


def test_the_check_lists_a_record_that_is_not_as_in_nuscenes(broken_root):
    from kd3d.datasets.check import check_dataset

    edit(broken_root, "sample_data", lambda rows: rows[3].update(filename=[1]))
    (problem,) = check_dataset(broken_root).problems
    assert "sample_data.json: record" in problem and "is not as in nuScenes (TypeError" in problem
