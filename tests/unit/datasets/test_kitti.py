import re

import numpy as np
import pytest

from kd3d.datasets.inside import points_in_boxes
from kd3d.datasets.kitti import KittiDataset
from kd3d.datasets.kitti_boxes import camera_annotation, wrap_angle
from kd3d.datasets.kitti_files import read_labels
from kd3d.errors import DataError, UsageError

CALIB = """P2: 721.5377 0 609.5593 44.85728 0 721.5377 172.854 0.2163791 0 0 1 0.002745884
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27
"""
CAR = "Car 0.00 0 1.55 614.24 181.78 727.31 284.77 1.57 1.73 4.15 1.00 1.75 13.22 1.62"
VAN = CAR.replace("Car", "Van")
DONT_CARE = "DontCare -1 -1 -10 5.00 229.89 214.12 367.61 -1 -1 -1 -1000 -1000 -1000 -10"


@pytest.fixture
def root(tmp_path):
    for kind in ("velodyne", "calib", "label_2"):
        (tmp_path / "training" / kind).mkdir(parents=True)
    for i in range(10):
        token = f"{i:06d}"
        np.full((4, 4), i, np.float32).tofile(tmp_path / "training/velodyne" / f"{token}.bin")
        (tmp_path / "training/calib" / f"{token}.txt").write_text(CALIB)
        (tmp_path / "training/label_2" / f"{token}.txt").write_text(f"{CAR}\n{VAN}\n{DONT_CARE}\n")
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/train.txt").write_text("000001\n000003\n")
    (tmp_path / "ImageSets/val.txt").write_text("000002\n")
    return tmp_path


def test_boxes_are_in_the_lidar_frame_with_their_centre_and_counter_clockwise_yaw(root):
    boxes = KittiDataset(root, split="train")[0].boxes
    assert boxes.label.tolist() == [0]
    # x ahead = camera z + 0.27; y left = -camera x; z up = -(camera y) - 0.08 + half the height
    np.testing.assert_allclose(boxes.center_m[0], [13.49, -1.0, -1.75 - 0.08 + 0.785], atol=1e-4)
    np.testing.assert_allclose(boxes.size_m[0], [4.15, 1.73, 1.57], atol=1e-6)
    np.testing.assert_allclose(boxes.yaw_rad[0], wrap_angle(-1.62 - np.pi / 2), atol=1e-6)
    assert np.isnan(boxes.velocity_m_s).all()


def test_other_types_are_kept_for_the_evaluation(root):
    annotation = KittiDataset(root, split="train").annotation(0)
    assert annotation.types == ("Car", "Van", "DontCare")
    np.testing.assert_array_equal(annotation.bbox_px[2], [5, 229.89, 214.12, 367.61])


def test_the_image_matrix_puts_the_box_into_its_outline(root):
    sample = KittiDataset(root, split="train")[0]
    u, v, depth = sample.lidar2image @ np.append(sample.boxes.center_m[0], 1)
    assert 614.24 < u / depth < 727.31
    assert 181.78 < v / depth < 284.77
    assert sample.image_size_px == (1242, 375)


@pytest.mark.parametrize(("focal", "size"), [(707.0493, (1224, 370)), (718.3351, (1238, 374)), (500.0, (1242, 375))])
def test_the_image_size_follows_from_the_focal_length(root, focal, size):
    path = root / "training/calib/000001.txt"
    path.write_text(CALIB.replace("721.5377", str(focal)))
    assert KittiDataset(root, split="train").image_size_px(0) == size


def test_the_image_file_overrules_the_focal_length_and_makes_a_camera_view(root):
    from PIL import Image

    (root / "training/image_2").mkdir()
    Image.new("RGB", (40, 30)).save(root / "training/image_2/000001.png")
    dataset = KittiDataset(root, split="train", cameras=True)
    sample = dataset[0]
    (view,) = sample.cameras
    assert sample.image_size_px == view.size_px == (40, 30)
    through_view = view.intrinsic @ view.lidar2camera[:3]
    np.testing.assert_allclose(through_view, sample.lidar2image, atol=1e-6)
    with pytest.raises(DataError, match=r"000003.png: the image is missing"):
        dataset[1]


def test_without_image_sets_the_last_fifth_is_for_validation(root):
    for path in (root / "ImageSets").iterdir():
        path.unlink()
    train, val = KittiDataset(root, split="train"), KittiDataset(root, split="val")
    assert val.tokens == ["000008", "000009"]
    assert len(train) == 8
    assert not set(train.tokens) & set(val.tokens)


def test_an_absent_split_lists_those_present(root):
    with pytest.raises(UsageError, match=r"has no split trainval. Choose one of train, val"):
        KittiDataset(root, split="trainval")


def test_a_split_without_frames_is_refused(root):
    (root / "ImageSets/val.txt").write_text("\n")
    with pytest.raises(DataError, match="the split val has no frames"):
        KittiDataset(root, split="val")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CAR.replace("Car", "Lorry"), r"000001.txt line 2: unknown class 'Lorry'. Use one of Car, Van"),
        (CAR + " 0.9", r"000001.txt line 2: 16 fields, but a label has 15"),
        (CAR.replace("1.57", "tall"), r"000001.txt line 2: could not convert string to float: 'tall'"),
        (CAR.replace("1.57", "nan"), r"000001.txt line 2: a value is not finite"),
    ],
)
def test_a_bad_label_names_its_file_and_line(root, line, message):
    (root / "training/label_2/000001.txt").write_text(f"{CAR}\n{line}\n")
    with pytest.raises(DataError, match=message):
        KittiDataset(root, split="train")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P2: 1 2 3\n", "line 1: P2 must be 12 numbers"),
        ("", "has no P2, R0_rect, Tr_velo_to_cam"),
        (CALIB.replace("0 -1 0 0", "0 0 0 0"), "Tr_velo_to_cam is not finite or no rotation"),
        (CALIB.replace("-0.27", "nan"), "Tr_velo_to_cam is not finite or no rotation"),
        (re.sub(r"R0_rect: \S+", "R0_rect: inf", CALIB), "R0_rect is not finite or no rotation"),
    ],
)
def test_a_bad_calibration_is_named(root, text, message):
    (root / "training/calib/000001.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        KittiDataset(root, split="train")[0]


@pytest.mark.parametrize(("kind", "suffix"), [("velodyne", "bin"), ("calib", "txt"), ("label_2", "txt")])
def test_a_missing_file_is_named(root, kind, suffix):
    (root / f"training/{kind}/000001.{suffix}").unlink()
    with pytest.raises(DataError, match=f"{kind}/000001.{suffix}"):
        KittiDataset(root, split="train")[0]


def test_a_frame_without_objects_has_no_boxes(root):
    (root / "training/label_2/000001.txt").write_text("")
    assert len(KittiDataset(root, split="train")[0].boxes) == 0


def test_real_cars_have_points_inside_and_the_way_back_restores_the_labels(shared_data):
    dataset = KittiDataset(shared_data / "kitti", split="train")
    assert len(dataset) == 20
    for i in range(0, 20, 3):
        sample = dataset[i]
        assert (points_in_boxes(sample.points, sample.boxes.array).sum(axis=1) > 0).all()
        labels = dataset.annotation(i)
        keep = labels.is_type(*dataset.classes)
        back = camera_annotation(
            sample.boxes, dataset.calibration(i), classes=dataset.classes, image_size_px=sample.image_size_px
        )
        np.testing.assert_allclose(back.location_m, labels.location_m[keep], atol=1e-3)
        np.testing.assert_allclose(back.size_m, labels.size_m[keep], atol=1e-5)
        np.testing.assert_allclose(wrap_angle(back.rotation_y - labels.rotation_y[keep]), 0, atol=1e-5)


def test_projected_outlines_of_real_labels_agree_with_the_drawn_ones(shared_data):
    dataset = KittiDataset(shared_data / "kitti", split="train")
    errors = []
    for i in range(len(dataset)):
        labels, sample = dataset.annotation(i), dataset[i]
        found = camera_annotation(
            sample.boxes, dataset.calibration(i), classes=dataset.classes, image_size_px=sample.image_size_px
        )
        errors.append(np.abs(found.bbox_px - labels.bbox_px[labels.is_type(*dataset.classes)]))
    assert np.median(np.concatenate(errors)) < 3


def test_a_box_beside_or_behind_the_camera_has_no_height_in_the_image(root):
    from kd3d.geometry.boxes import Boxes3D

    dataset = KittiDataset(root, split="train")
    array = np.zeros((3, 9))
    array[:, :2] = [[-20, 0], [5, 30], [20, 0]]
    array[:, 3:6] = [4, 2, 1.5]
    found = camera_annotation(
        Boxes3D(array, np.zeros(3, int)), dataset.calibration(0), classes=("Car",), image_size_px=(1242, 375)
    )
    height = found.bbox_px[:, 3] - found.bbox_px[:, 1]
    assert height[:2].tolist() == [0, 0]
    assert height[2] > 40


def test_labels_read_alone_have_every_field(root):
    labels = read_labels(root / "training/label_2/000001.txt")
    assert labels.truncation[0] == 0
    assert labels.occlusion.tolist() == [0, 0, -1]
    assert labels.alpha[0] == 1.55
    np.testing.assert_array_equal(labels.size_m[0], [4.15, 1.73, 1.57])


def test_the_test_split_has_no_labels(root):
    (root / "training").rename(root / "testing")
    (root / "ImageSets/test.txt").write_text("000004\n")
    (sample,) = (KittiDataset(root, split="test")[i] for i in range(1))
    assert (sample.token, sample.boxes) == ("000004", None)


def test_an_empty_cloud_is_a_frame_without_points(root):
    (root / "training/velodyne/000001.bin").write_bytes(b"")
    assert KittiDataset(root, split="train")[0].points.shape == (0, 4)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"000001\n\xff\n", r"train\.txt: not readable as a list of frames"),
        (b"000001\n\0\0\n", r"train\.txt: '\\x00\\x00' is no name of a frame, such as 000123"),
        (b"../../000001\n", r"train\.txt: '\.\./\.\./000001' is no name of a frame"),
    ],
)
def test_a_damaged_list_of_frames_is_named(root, content, text):
    (root / "ImageSets" / "train.txt").write_bytes(content)
    with pytest.raises(DataError, match=text):
        KittiDataset(root, split="train")
