from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.datasets.augment import Augmentation, augment, transform
from kd3d.datasets.inside import points_in_boxes
from kd3d.datasets.sample import Sample
from kd3d.errors import UsageError
from kd3d.geometry.boxes import Boxes3D

FEATURES = ("x", "y", "z", "intensity", "time_lag")


def make_sample(seed: int = 0, boxes: int = 12) -> Sample:
    rng = np.random.default_rng(seed)
    array = np.column_stack(
        [
            rng.uniform(-30, 30, (boxes, 2)),
            rng.uniform(-2, 0, boxes),
            rng.uniform(0.5, 8, (boxes, 3)),
            rng.uniform(-np.pi, np.pi, boxes),
            rng.uniform(-9, 9, (boxes, 2)),
        ]
    )
    array[0, 7:] = np.nan
    points = np.column_stack([rng.uniform(-32, 32, (4000, 2)), rng.uniform(-4, 4, 4000), rng.random((4000, 2))])
    return Sample(
        token="t", points=points.astype(np.float32), features=FEATURES,
        boxes=Boxes3D(array, rng.integers(0, 2, boxes)), classes=("car", "truck"),
        lidar2image=np.array([[700.0, 0, 600, 40], [0, 700, 180, 0], [0, 0, 1, 0]]) @ np.eye(4)[[1, 2, 0, 3]],
    )  # fmt: skip


motions = st.fixed_dictionaries(
    {
        "mirror_x": st.booleans(),
        "mirror_y": st.booleans(),
        "angle_rad": st.floats(-3.2, 3.2),
        "scale": st.floats(0.8, 1.25),
    }
)


@settings(max_examples=25, deadline=None)
@given(motions, st.integers(0, 1000))
def test_points_stay_inside_the_boxes_they_were_in(motion, seed):
    sample = make_sample(seed)
    changed = transform(sample, **motion)
    before = points_in_boxes(sample.points, sample.boxes.array)
    after = points_in_boxes(changed.points, changed.boxes.array)
    # Rounding may move a point across a face.
    assert (before != after).sum() <= 3
    assert before.sum() > 10


@settings(max_examples=25, deadline=None)
@given(motions, motions)
def test_the_inverse_of_the_recorded_matrix_restores_points_and_centres(first, second):
    sample = make_sample()
    changed = transform(transform(sample, **first), **second)
    back = np.linalg.inv(changed.augmentation)
    for before, after in (
        (sample.points[:, :3], changed.points[:, :3]),
        (sample.boxes.center_m, changed.boxes.center_m),
    ):
        np.testing.assert_allclose(after @ back[:3, :3].T + back[:3, 3], before, atol=1e-4)
    np.testing.assert_array_equal(changed.points[:, 3:], sample.points[:, 3:])


@settings(max_examples=25, deadline=None)
@given(motions)
def test_velocity_keeps_its_angle_to_the_heading_and_the_image_keeps_its_points(motion):
    sample = make_sample()
    changed = transform(sample, **motion)
    moved = sample.boxes.array.astype(float)
    # Where the centre is a moment later must be where the changed box is a moment later.
    moved[1:, :2] += 0.1 * moved[1:, 7:9]
    later = transform(_with_boxes(sample, moved), **motion).boxes.center_m[1:, :2]
    np.testing.assert_allclose(later, (changed.boxes.center_m[:, :2] + 0.1 * changed.boxes.velocity_m_s)[1:], atol=1e-4)
    assert np.isnan(changed.boxes.velocity_m_s[0]).all()
    assert (np.abs(changed.boxes.yaw_rad) <= np.pi + 1e-6).all()
    before = np.c_[sample.points[:, :3], np.ones(4000)] @ sample.lidar2image.T
    np.testing.assert_allclose(np.c_[changed.points[:, :3], np.ones(4000)] @ changed.lidar2image.T, before, atol=0.05)


def _with_boxes(sample, array):
    return replace(sample, boxes=Boxes3D(array, sample.boxes.label))


def test_a_flip_of_x_mirrors_the_heading():
    boxes = Boxes3D(np.array([[3, 4, 0, 4, 2, 1, 0.3, 2, 1]], float), np.zeros(1, int))
    sample = replace(make_sample(), boxes=boxes)
    changed = transform(sample, mirror_x=True, mirror_y=False, angle_rad=0.0, scale=1.0).boxes
    np.testing.assert_allclose(changed.array[0], [-3, 4, 0, 4, 2, 1, np.pi - 0.3, -2, 1], atol=1e-6)


def test_the_same_generator_state_gives_the_same_frame_and_the_input_is_not_changed():
    sample = make_sample()
    points, boxes = sample.points.copy(), sample.boxes.array.copy()
    chosen = Augmentation(flip_x=True, flip_y=True, rotation_rad=0.78, scale=(0.9, 1.1))
    one, two, other = (augment(sample, np.random.default_rng(seed), chosen) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.points, two.points)
    np.testing.assert_array_equal(one.boxes.array, two.boxes.array)
    assert not np.allclose(one.points, other.points)
    np.testing.assert_array_equal(sample.points, points)
    np.testing.assert_array_equal(sample.boxes.array, boxes)


def test_the_default_augmentation_changes_nothing():
    sample = make_sample()
    same = augment(sample, np.random.default_rng(0), Augmentation())
    np.testing.assert_array_equal(same.points, sample.points)
    np.testing.assert_allclose(same.boxes.array, sample.boxes.array, atol=1e-6)
    np.testing.assert_array_equal(same.augmentation, np.eye(4))


def test_drawn_values_stay_in_their_ranges_and_flips_happen_half_of_the_time():
    rng = np.random.default_rng(1)
    sample = make_sample()
    matrices = [
        augment(sample, rng, Augmentation(flip_y=True, rotation_rad=0.5, scale=(0.9, 1.1))).augmentation
        for _ in range(200)
    ]
    scales = np.array([m[2, 2] for m in matrices])
    mirrored = np.array([np.linalg.det(m[:2, :2]) < 0 for m in matrices])
    angles = np.array([np.arctan2(m[1, 0], m[0, 0]) for m in matrices])
    assert 0.9 <= scales.min() < 0.92 < 1.08 < scales.max() <= 1.1
    assert -0.5 <= angles.min() < -0.45 < 0.45 < angles.max() <= 0.5
    assert 70 < mirrored.sum() < 130


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rotation_rad": -1.0}, "rotation_rad must be 0 or more, not -1"),
        ({"scale": (1.1, 0.9)}, r"scale must be \(low, high\)"),
        ({"paste": (("car", -2),)}, "paste counts must be 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        Augmentation(**values)


def test_pasting_without_a_database_is_refused():
    with pytest.raises(UsageError, match="there is no sample database"):
        augment(make_sample(), np.random.default_rng(0), Augmentation(paste=(("car", 3),)))
