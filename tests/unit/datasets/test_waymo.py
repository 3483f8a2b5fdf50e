import pickle
from itertools import pairwise

import numpy as np
import pytest

from kd3d.datasets.check import check_dataset
from kd3d.datasets.frames import portable_frames
from kd3d.datasets.open import open_dataset, recognise
from kd3d.datasets.waymo import WaymoDataset
from kd3d.errors import DataError, UsageError
from kd3d.runtime.frames import read_frames, write_frames

FIRST = 1_550_000_000_000_000


def expected(frame):
    return np.concatenate([frame.points[key] for key in sorted(frame.points)])


def test_the_layout_is_recognised_and_frames_are_named_by_segment_and_time(waymo_world):
    root, _ = waymo_world
    assert recognise(root) == "waymo"
    dataset = open_dataset(root, split="train")
    assert isinstance(dataset, WaymoDataset)
    assert dataset.kind == "waymo"
    assert dataset.tokens == [f"training-{s}_{FIRST + 100_000 * f}" for s in (0, 1) for f in (0, 1)]


def test_points_of_all_lidars_and_both_returns_come_back_where_they_were_put(waymo_world):
    root, made = waymo_world
    dataset = WaymoDataset(root, split="train")
    for index, frame in enumerate([*made["training-0"], *made["training-1"]]):
        sample = dataset[index]
        assert sample.features == ("x", "y", "z", "intensity", "elongation")
        np.testing.assert_allclose(sample.points, expected(frame), atol=1e-5)
    assert {key for key, points in made["training-0"][0].points.items() if len(points)} >= {(1, 0), (1, 1), (2, 0)}


def test_returned_points_lie_on_the_ground_or_on_a_box(waymo_world, waymo):
    sample = WaymoDataset(waymo_world[0], split="val")[0]
    world = sample.points[:, :3] @ sample.ego2global[:3, :3].T + sample.ego2global[:3, 3]
    on_ground = np.abs(world[:, 2]) < 1e-3
    on_box = np.zeros(len(world), bool)
    for _, x, y, z, *size, heading, _, _ in waymo.OBJECTS:
        offset = (sample.points[:, :3] - [x, y, z]) @ waymo.rotation(0, 0, heading)
        beyond = np.abs(offset) - np.array(size) / 2
        on_box |= np.abs(beyond.max(axis=1)) < 1e-3
    assert (on_ground | on_box).all()
    assert 20 < on_box.sum() < on_ground.sum()


def test_the_roofs_pixels_are_moved_by_their_own_poses(waymo_world, broken_waymo, waymo):
    def frozen(table):
        name = "[LiDARPoseComponent].range_image_return1.values"
        rows = table.column(name).to_pylist()
        first = [np.tile(np.reshape(row, (-1, 6))[0], len(row) // 6).tolist() for row in rows]
        return table.set_column(table.schema.names.index(name), name, waymo.pa.array(first, waymo.IMAGE))

    waymo.edit(broken_waymo / "validation/lidar_pose/validation-0.parquet", frozen)
    right, wrong = WaymoDataset(waymo_world[0], split="val")[0], WaymoDataset(broken_waymo, split="val")[0]
    top = sum(len(points) for (number, _), points in waymo_world[1]["validation-0"][0].points.items() if number == 1)
    gap = np.abs(right.points - wrong.points)[:, :3].max(axis=1)
    assert gap[:top].max() > 0.1
    np.testing.assert_array_equal(gap[top:], 0)


def test_boxes_are_those_that_were_written_without_the_sign(waymo_world, waymo):
    dataset = WaymoDataset(waymo_world[0], split="val")
    boxes = dataset[1].boxes
    written = [row for row in waymo.OBJECTS if row[0] != waymo.SIGN]
    np.testing.assert_allclose(boxes.array[:, :7], [row[1:8] for row in written], atol=1e-6)
    assert [dataset.classes[label] for label in boxes.label] == ["Vehicle", "Pedestrian", "Cyclist", "Vehicle"]


def test_velocities_are_turned_from_the_world_into_the_vehicle(waymo_world, waymo):
    dataset = WaymoDataset(waymo_world[0], split="val")
    sample = dataset[0]
    flat = np.column_stack([[row[8] for row in waymo.OBJECTS if row[0] != waymo.SIGN], np.zeros(4)])
    np.testing.assert_allclose(sample.boxes.velocity_m_s, (flat @ sample.ego2global[:3, :3])[:, :2], atol=1e-6)
    assert np.hypot(*sample.boxes.velocity_m_s[0]) == pytest.approx(np.hypot(5, 1), rel=1e-3)


def test_the_difficulty_is_the_written_one_or_follows_from_the_points(waymo_world):
    labels = WaymoDataset(waymo_world[0], split="val").labels(0)
    assert labels.level.tolist() == [1, 2, 1, 2]  # more than five points, written, written, no point
    assert labels.lidar_points[0] > 5
    assert labels.lidar_points[3] == 0


def test_boxes_without_points_are_left_out_of_training_only(waymo_world):
    root, _ = waymo_world
    assert len(open_dataset(root, split="train")[0].boxes) == 3
    assert len(open_dataset(root, split="train", drop_empty=False)[0].boxes) == 4
    assert len(open_dataset(root, split="val")[0].boxes) == 4


def test_the_test_split_has_points_and_no_labels(waymo_world):
    sample = open_dataset(waymo_world[0], split="test")[0]
    assert sample.boxes is None
    assert len(sample.points)


def test_frames_know_their_pose_time_and_predecessor(waymo_world):
    dataset = WaymoDataset(waymo_world[0], split="train")
    samples = [dataset[index] for index in range(4)]
    assert [sample.previous for sample in samples] == [None, dataset.tokens[0], None, dataset.tokens[2]]
    assert samples[1].timestamp_s - samples[0].timestamp_s == pytest.approx(0.1, abs=1e-6)
    np.testing.assert_allclose(samples[1].ego2global[:3, 3], [121, -45, 0])


@pytest.mark.parametrize("order", [None, "laser"])
@pytest.mark.parametrize("row_group_size", [None, 3])
def test_frames_are_found_in_any_order_of_rows_and_asked_for_in_any_order(waymo, tmp_path, order, row_group_size):
    folder = tmp_path / "validation"
    made = waymo.write_segment(folder, "one", frames=3, order=order, row_group_size=row_group_size)
    dataset = WaymoDataset(tmp_path, split="val")
    for index in (0, 1, 2, 1, 2, 0, 0):
        points, wanted = dataset[index].points, expected(made[index])
        np.testing.assert_allclose(points, wanted, atol=1e-5)


def test_a_data_set_moves_to_a_worker_while_files_are_open(waymo_world):
    dataset = WaymoDataset(waymo_world[0], split="train")
    first = dataset[0].points
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset))[0].points, first)


def test_more_segments_than_are_kept_open_can_be_read(waymo, tmp_path):
    for index in range(6):
        waymo.write_segment(tmp_path / "training", f"s{index}", frames=1)
    dataset = WaymoDataset(tmp_path, split="train")
    assert len({len(dataset[index].points) for index in (0, 1, 2, 3, 4, 5, 0)}) == 1


def test_a_lidar_without_a_second_return_has_only_its_first(waymo, broken_waymo, waymo_world):
    def without(table):
        for part, kind in (("values", waymo.IMAGE), ("shape", waymo.pa.list_(waymo.pa.int32()))):
            name = f"[LiDARComponent].range_image_return2.{part}"
            column = waymo.pa.array([None] * len(table), kind)
            table = table.set_column(table.schema.names.index(name), name, column)
        return table

    waymo.edit(broken_waymo / "validation/lidar/validation-0.parquet", without)
    frame = waymo_world[1]["validation-0"][0]
    firsts = np.concatenate([points for (_, place), points in sorted(frame.points.items()) if place == 0])
    np.testing.assert_allclose(WaymoDataset(broken_waymo, split="val")[0].points, firsts, atol=1e-5)


def test_labels_without_speed_or_difficulty_are_read(waymo, broken_waymo):
    def bare(table):
        return table.drop_columns([name for name in table.schema.names if "speed" in name or "difficulty" in name])

    waymo.edit(broken_waymo / "validation/lidar_box/validation-0.parquet", bare)
    dataset = WaymoDataset(broken_waymo, split="val")
    assert np.isnan(dataset[0].boxes.velocity_m_s).all()
    assert dataset.labels(0).level.tolist() == [1, 1, 1, 2]


def test_portable_frames_hold_the_same_points_and_boxes(waymo_world, tmp_path):
    dataset = open_dataset(waymo_world[0], split="val")
    assert write_frames(portable_frames(dataset), tmp_path / "frames") == 2
    for frame, index in zip(read_frames(tmp_path / "frames"), range(2), strict=True):
        np.testing.assert_array_equal(frame.points, dataset[index].points)
        np.testing.assert_array_equal(frame.boxes.array, dataset[index].boxes.array)


def test_a_whole_data_set_has_no_problems(waymo_world):
    steps = []
    report = check_dataset(waymo_world[0], progress=lambda *step: steps.append(step))
    assert report.to_json() == {"format": "waymo", "frames": 8, "problems": []}
    assert steps[-1] == (8, 8)
    assert all(before[0] + 1 == after[0] for before, after in pairwise(steps))


def replaced(waymo, name, values, kind):
    def change(table):
        return table.set_column(table.schema.names.index(name), name, waymo.pa.array(values(table), kind))

    return change


RANGE = "[LiDARComponent].range_image_return1"
TIME = "key.frame_timestamp_micros"


def damages(waymo):
    """What is done to a file of the validation segment, and what is said of it."""
    pa = waymo.pa

    def column(name, values, kind):
        return replaced(waymo, name, values, kind)

    def nan_pixel(table):
        rows = table.column(f"{RANGE}.values").to_pylist()
        rows[0][0] = float("nan")
        return rows

    def skew(table):
        rows = table.column("[LiDARCalibrationComponent].extrinsic.transform").to_pylist()
        return [[2.0, *row[1:]] for row in rows]

    pose = "[VehiclePoseComponent].world_from_vehicle.transform"
    boxes = "[LiDARBoxComponent]"
    extrinsic = "[LiDARCalibrationComponent].extrinsic.transform"
    roof, no_column = "LiDAR 1 at 1550000000000000 microseconds: ", "has no column .*"
    calibration = "lidar_calibration/validation-0.parquet"

    def tall(table):
        return [[24, 36, 4], *table.column(f"{RANGE}.shape").to_pylist()[1:]]

    def lasers(number):
        return column("key.laser_name", lambda table: [number] * len(table), pa.int8())

    return {
        "lidar": [
            (column(f"{RANGE}.values", nan_pixel, waymo.IMAGE), "missing, NaN or infinite values"),
            (column(f"{RANGE}.shape", lambda t: [[3, 3, 4]] * len(t), waymo.SHAPE), r"for the shape \[3, 3, 4\]"),
            (column(f"{RANGE}.shape", tall, waymo.SHAPE), f"{roof}.*12 beam inclinations, the range image has 24 rows"),
            (column(TIME, lambda t: [5] * len(t), pa.int64()), "has no rows at 1550000000000000 microseconds"),
            (lambda t: t.drop_columns([f"{RANGE}.values"]), f"{no_column}range_image_return1.values"),
            (lasers(9), f"{calibration}: has no LiDAR 9"),
        ],
        "lidar_pose": [
            (lasers(2), "no poses of the LiDAR on the roof at 15500"),
            (lambda t: t.slice(0, 1), "has no rows at 1550000000100000 microseconds"),
        ],
        "lidar_calibration": [
            (lambda t: t.slice(0, 2), "has no LiDAR 3"),
            (column(extrinsic, skew, waymo.MATRIX), "is not a rotation and a shift in every row"),
            (
                column(extrinsic, lambda t: [[1.0] * 9] * len(t), pa.list_(pa.float64())),
                "must have 16 numbers per row, but has 9",
            ),
        ],
        "vehicle_pose": [
            (column(pose, lambda t: [[None] * 16] * len(t), waymo.MATRIX), "missing, NaN or infinite values"),
            (column(pose, lambda t: ["x"] * len(t), pa.string()), "holds something else than numbers"),
            (lambda t: t.drop_columns([pose]), f"{no_column}world_from_vehicle"),
        ],
        "lidar_box": [
            (column(f"{boxes}.type", lambda t: [7] * len(t), pa.int8()), "unknown object type 7"),
            (column(f"{boxes}.box.size.x", lambda t: [None] * len(t), pa.float64()), "box.size.x has missing"),
            (column(TIME, lambda t: [5] * len(t), pa.int64()), "boxes at 5 microseconds, where vehicle_pose has no"),
            (lambda t: t.drop_columns([f"{boxes}.box.heading"]), f"{no_column}box.heading"),
        ],
    }


@pytest.mark.parametrize("part", ["lidar", "lidar_pose", "lidar_calibration", "vehicle_pose", "lidar_box"])
def test_wrong_contents_are_named_with_their_file(part, waymo, waymo_world, broken_waymo):
    path = broken_waymo / "validation" / part / "validation-0.parquet"
    whole = path.read_bytes()
    for change, said in damages(waymo)[part]:
        path.write_bytes(whole)
        waymo.edit(path, change)
        with pytest.raises(DataError, match=said) as caught:
            _ = [sample.token for sample in iterate(WaymoDataset(broken_waymo, split="val"))]
        assert "validation-0.parquet" in str(caught.value)


def iterate(dataset):
    return (dataset[index] for index in range(len(dataset)))


@pytest.mark.parametrize("part", ["lidar", "lidar_pose", "lidar_calibration", "vehicle_pose", "lidar_box"])
def test_missing_and_truncated_files_are_listed_once_each(part, broken_waymo):
    path = broken_waymo / "training" / part / "training-0.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    other = broken_waymo / "validation" / part / "validation-0.parquet"
    if part != "lidar":  # the files in lidar/ say which segments there are
        other.unlink()
    problems = check_dataset(broken_waymo).problems
    assert [problem for problem in problems if str(path) in problem and "not readable as Parquet" in problem]
    assert [problem for problem in problems if str(other) in problem and "no such file" in problem] or part == "lidar"
    assert len(problems) == (1 if part == "lidar" else 2)


def test_pages_that_were_damaged_later_are_named(broken_waymo):
    path = broken_waymo / "validation/lidar/validation-0.parquet"
    raw = bytearray(path.read_bytes())
    raw[200 : len(raw) // 2] = b"\xff" * (len(raw) // 2 - 200)
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"lidar/validation-0.parquet: "):
        _ = WaymoDataset(broken_waymo, split="val")[0]


def test_requests_that_make_no_sense_are_refused(waymo_world, tmp_path):
    root, _ = waymo_world
    with pytest.raises(UsageError, match=r"trainval: no such split. Choose one of train, val, test"):
        open_dataset(root, split="trainval")
    with pytest.raises(UsageError, match=r"has no segment absent. It has 1"):
        WaymoDataset(root, split="val", segments=("absent",))
    with pytest.raises(UsageError, match="does not read the cameras of the Waymo Open Dataset"):
        open_dataset(root, split="val", cameras=True)
    (tmp_path / "training/lidar").mkdir(parents=True)
    with pytest.raises(DataError, match=r"has no Parquet file. Give the folder of version 2"):
        open_dataset(tmp_path, split="train")
    with pytest.raises(
        DataError, match=r"validation/lidar: no such folder. Give the folder that holds validation/lidar"
    ):
        open_dataset(tmp_path, split="val")
    assert check_dataset(tmp_path).problems == (
        f"{tmp_path / 'training/lidar'}: has no Parquet file. Give the folder of version 2 of the data set.",
    )
