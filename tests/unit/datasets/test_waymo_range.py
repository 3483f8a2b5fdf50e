import numpy as np
import pytest

from kd3d.datasets.waymo_range import LidarCalibration, range_image_points
from kd3d.errors import DataError


def level(height=1, width=4, *, yaw=0.0, shift=(0, 0, 0), span=0.0):
    """A sensor turned by ``yaw``, all of whose pixels are at 10 m."""
    extrinsic = np.eye(4)
    extrinsic[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    extrinsic[:3, 3] = shift
    image = np.zeros((height, width, 4), np.float32)
    image[..., 0] = 10
    return image, LidarCalibration(extrinsic, (-span, span))


def test_columns_run_from_behind_over_the_left_to_ahead_and_the_right():
    points = range_image_points(*level())
    root = 10 / np.sqrt(2)
    wanted = [[-root, root, 0], [root, root, 0], [root, -root, 0], [-root, -root, 0]]
    np.testing.assert_allclose(points[:, :3], wanted, atol=1e-5)


def test_columns_mean_the_same_directions_of_the_vehicle_however_the_sensor_is_turned():
    turned = range_image_points(*level(yaw=2.0, shift=(1, 2, 3)))
    np.testing.assert_allclose(turned[:, :3] - [1, 2, 3], range_image_points(*level())[:, :3], atol=1e-5)


def test_rows_run_from_the_highest_beam_down_and_lie_at_the_centres_of_equal_parts():
    image, calibration = level(height=2, span=0.4)
    points = range_image_points(image, calibration).reshape(2, 4, 5)
    np.testing.assert_allclose(points[:, 0, 2], [10 * np.sin(0.2), -10 * np.sin(0.2)], rtol=1e-6)


def test_listed_beams_are_the_lowest_first():
    image, calibration = level(height=2)
    listed = LidarCalibration(calibration.extrinsic, calibration.inclination_rad, np.array([-0.3, 0.1]))
    points = range_image_points(image, listed).reshape(2, 4, 5)
    np.testing.assert_allclose(points[:, 0, 2], [10 * np.sin(0.1), 10 * np.sin(-0.3)], rtol=1e-6)


def test_pixels_without_a_return_are_left_out_and_the_others_keep_their_features():
    image, calibration = level()
    image[0, 1] = [7, 123.5, 0.25, 1]
    image[0, [0, 2], 0] = [0, -1]
    points = range_image_points(image, calibration)
    assert points.shape == (2, 5)
    assert points.dtype == np.float32
    assert points[0, 3:].tolist() == [123.5, 0.25]


def test_a_pixel_with_a_pose_is_moved_by_the_difference_of_poses():
    image, calibration = level()
    pose = np.zeros((1, 4, 6), np.float32)
    pose[..., 3:] = [100, 50, 1]
    pose[0, 1] = [0, 0, np.pi / 2, 103, 50, 1]  # a quarter turn to the left, and three metres on
    vehicle2world = np.eye(4)
    vehicle2world[:3, 3] = [100, 50, 1]
    still, moved = (
        range_image_points(image, calibration),
        range_image_points(image, calibration, pixel_pose=pose, vehicle2world=vehicle2world),
    )
    np.testing.assert_allclose(moved[[0, 2, 3]], still[[0, 2, 3]], atol=1e-5)
    x, y, z = still[1, :3]
    np.testing.assert_allclose(moved[1, :3], [3 - y, x, z], atol=1e-5)


@pytest.mark.parametrize(("axis", "wanted"), [(0, [1, -3, 2]), (1, [3, 2, -1]), (2, [-2, 1, 3])])
def test_roll_pitch_and_yaw_turn_about_x_y_and_z(axis, wanted):
    from kd3d.datasets.waymo_range import _posed

    pose = np.zeros((1, 6))
    pose[0, axis] = np.pi / 2
    np.testing.assert_allclose(_posed(np.array([[1.0, 2.0, 3.0]]), pose)[0], wanted, atol=1e-12)


def test_roll_comes_first_and_yaw_last():
    from kd3d.datasets.waymo_range import _posed

    pose = np.array([[np.pi / 2, 0, np.pi / 2, 0, 0, 0]])
    # (0, 1, 0) is rolled up to (0, 0, 1), which yaw leaves alone; the other order would give (-1, 0, 0).
    np.testing.assert_allclose(_posed(np.array([[0.0, 1.0, 0.0]]), pose)[0], [0, 0, 1], atol=1e-12)


def test_arrays_that_do_not_fit_together_are_refused():
    image, calibration = level()
    with pytest.raises(DataError, match=r"must have shape \(H, W, 4\), but has \(1, 4\)"):
        range_image_points(image[..., 0], calibration)
    with pytest.raises(DataError, match=r"poses of shape \(1, 3, 6\) do not fit a range image of shape \(1, 4, 4\)"):
        range_image_points(image, calibration, pixel_pose=np.zeros((1, 3, 6)), vehicle2world=np.eye(4))
    listed = LidarCalibration(calibration.extrinsic, (0, 1), np.zeros(64))
    with pytest.raises(DataError, match="lists 64 beam inclinations, the range image has 1 rows"):
        range_image_points(image, listed)
