"""Clouds from files, good and bad."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.errors import DataError
from kd3d.runtime import points as module
from kd3d.runtime.points import (
    KITTI_COLUMNS,
    NUSCENES_COLUMNS,
    check_finite,
    crop_to_image,
    crop_to_image_reference,
    read_points,
    select_features,
)
from kd3d.spec import PointSpec

POINTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_bin_npy_and_npz_give_the_same_points(tmp_path):
    POINTS.tofile(tmp_path / "a.bin")
    np.save(tmp_path / "a.npy", POINTS)
    np.savez(tmp_path / "a.npz", points=POINTS.astype(np.float64))
    for name in ("a.bin", "a.npy", "a.npz"):
        found = read_points(tmp_path / name, KITTI_COLUMNS)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, POINTS)


def test_an_empty_file_is_an_empty_cloud(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"")
    assert read_points(tmp_path / "a.bin", NUSCENES_COLUMNS).shape == (0, 5)


@pytest.mark.parametrize("size", [1, 15, 18, 47])
def test_a_truncated_bin_is_refused_with_its_size(tmp_path, size):
    (tmp_path / "a.bin").write_bytes(POINTS.tobytes()[:size])
    with pytest.raises(DataError, match=rf"a.bin: {size} bytes are not a whole number of points of 16 bytes"):
        read_points(tmp_path / "a.bin", KITTI_COLUMNS)


def test_points_that_are_not_finite_are_counted(tmp_path):
    bad = POINTS.copy()
    bad[1, 3], bad[2, 0] = np.inf, np.nan
    bad.tofile(tmp_path / "a.bin")
    with pytest.raises(DataError, match=r"a.bin: 2 of 3 points have NaN or infinite values, the first in row 1"):
        read_points(tmp_path / "a.bin", KITTI_COLUMNS)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.npy", b"junk", "not readable as a numpy file"),
        ("a.npz", b"PK\x03\x04junk", "not readable as a numpy file"),
        ("a.npy", b"", "not readable as a numpy file"),
        ("a.txt", b"1 2 3", "a cloud is a .bin, .npy or .npz file"),
    ],
)
def test_damaged_and_foreign_files_are_named(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: {text}"):
        read_points(tmp_path / name, KITTI_COLUMNS)


def test_a_pickle_inside_a_numpy_file_is_not_run(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], object), allow_pickle=True)
    with pytest.raises(DataError, match="not readable"):
        read_points(tmp_path / "a.npy", KITTI_COLUMNS)


def test_wrong_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", cloud=POINTS)
    with pytest.raises(DataError, match="no array 'points', only cloud"):
        read_points(tmp_path / "other.npz", KITTI_COLUMNS)
    np.save(tmp_path / "wide.npy", np.zeros((3, 7)))
    with pytest.raises(DataError, match=r"shape \(N, 4\) for the columns x, y, z, intensity, but are float64 of shape"):
        read_points(tmp_path / "wide.npy", KITTI_COLUMNS)
    with pytest.raises(DataError, match="no such file"):
        read_points(tmp_path / "none.bin", KITTI_COLUMNS)


def test_columns_are_reordered_and_a_missing_time_lag_is_zero():
    spec = PointSpec(features=("x", "y", "z", "ring", "time_lag", "intensity"), intensity="unit")
    found = select_features(np.array([[1, 2, 3, 51, 9.0]]), NUSCENES_COLUMNS, spec)
    np.testing.assert_allclose(found, [[1, 2, 3, 9, 0, 0.2]])


def test_intensity_is_transformed_as_the_specification_says():
    points = np.array([[0, 0, 0, 2.0]], np.float32)
    assert select_features(points, KITTI_COLUMNS, PointSpec())[0, 3] == 2
    assert select_features(points, KITTI_COLUMNS, PointSpec(intensity="tanh"))[0, 3] == pytest.approx(np.tanh(2))
    assert points[0, 3] == 2


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match=r"needs the point column\(s\) ring, but the cloud has x, y, z, intensity"):
        select_features(POINTS, KITTI_COLUMNS, PointSpec(features=("x", "y", "z", "ring")))
    with pytest.raises(DataError, match="5 columns are named"):
        select_features(POINTS, NUSCENES_COLUMNS, PointSpec())


def test_the_crop_keeps_what_the_camera_sees():
    # x forward is depth; focal length 100 px, centre (50, 25).
    matrix = np.array([[50, -100, 0, 0], [25, 0, -100, 0], [1, 0, 0, 0.0]])
    points = np.array([[10, 0, 0, 1], [-10, 0, 0, 2], [10, 5, 0, 3], [10, 5.1, 0, 4], [10, -5, 0, 5], [0, 0, 0, 6]])
    assert crop_to_image(points, matrix, (100, 50))[:, 3].tolist() == [1, 3]
    for crop in (crop_to_image, crop_to_image_reference):
        assert crop(points, matrix, (100, 50))[:, 3].tolist() == [1, 3]
        with pytest.raises(DataError, match=r"shape \(3, 4\)"):
            crop(points, np.eye(4), (100, 50))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 300), st.integers(3, 6), st.sampled_from([np.float32, np.float64]))
def test_the_compiled_crop_equals_numpy_to_the_bit(seed, count, columns, dtype):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-20, 20, (count, columns)).astype(dtype)
    points[: count // 3] = np.round(points[: count // 3])  # on the borders of the image, and of depth zero
    aligned = np.array([[50, -100, 0, 0], [25, 0, -100, 0], [1, 0, 0, 0.0]])
    matrix = aligned if seed % 2 else aligned + rng.normal(0, 3, (3, 4))
    found = crop_to_image(points, matrix, (100, 50))
    expected = crop_to_image_reference(points, matrix, (100, 50))
    assert found.dtype == expected.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_the_crop_needs_no_numba_and_no_order_in_memory(monkeypatch):
    matrix = np.array([[50, -100, 0, 0], [25, 0, -100, 0], [1, 0, 0, 0.0]])
    points = np.random.default_rng(0).uniform(-20, 20, (500, 6)).astype(np.float32)
    found = crop_to_image(points[::2, 1:], matrix, (100, 50))
    assert 0 < len(found) < 250
    monkeypatch.setattr(module, "compiled", lambda: None)
    np.testing.assert_array_equal(crop_to_image(points[::2, 1:], matrix, (100, 50)), found)


def test_finite_points_pass_however_large():
    largest = np.full((3, 4), np.finfo(np.float32).max, np.float32)
    assert check_finite(largest, "here") is largest


def test_real_kitti_frames_are_cropped_alike(shared_data):
    from kd3d.datasets.open import open_dataset

    sample = open_dataset(shared_data / "kitti", split="train")[0]
    found = crop_to_image(sample.points, sample.lidar2image, sample.image_size_px)
    expected = crop_to_image_reference(sample.points, sample.lidar2image, sample.image_size_px)
    np.testing.assert_array_equal(found, expected)
    assert 15_000 < len(found) < 25_000 < len(sample.points)


def test_real_nuscenes_key_frame_is_read(shared_data):
    (path,) = (shared_data / "nuscenes_keyframe").glob("*.pcd.bin")
    assert read_points(path, NUSCENES_COLUMNS).shape == (34688, 5)
