"""Suppression against a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.errors import DataError
from kd3d.geometry.iou import bev_iou
from kd3d.geometry.nms import circle_nms, rotated_nms, rotated_reference
from kd3d.geometry.nms_kernel import compiled_suppress


def plain(suppresses, scores, pre, post):
    kept = []
    for i in np.argsort(-scores, kind="stable")[:pre]:
        if not any(suppresses[j, i] for j in kept):
            kept.append(i)
    return kept[:post]


def random_boxes(seed, count):
    rng = np.random.default_rng(seed)
    boxes = np.column_stack(
        [rng.uniform(-8, 8, (count, 2)), rng.uniform(0.5, 5, (count, 2)), rng.uniform(-4, 4, count)]
    )
    return boxes, rng.integers(0, 8, count) / 8


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.sampled_from([0.01, 0.2, 0.7, 1.1]))
def test_rotated_suppression_equals_the_plain_loop(seed, count, threshold):
    boxes, scores = random_boxes(seed, count)
    expected = plain(bev_iou(boxes, boxes) > threshold, scores, 50, 12)
    assert rotated_nms(boxes, scores, threshold=threshold, pre=50, post=12).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 90), st.sampled_from([0.01, 0.2, 0.7]))
def test_the_compiled_loop_equals_numpy(seed, count, threshold):
    suppress = compiled_suppress()
    if suppress is None:
        pytest.skip("numba is not installed")
    boxes, _ = random_boxes(seed, count)
    boxes[::7, 2] = 0
    boxes[1::9] = boxes[: len(boxes[1::9])]
    np.testing.assert_array_equal(suppress(boxes, threshold, 30), rotated_reference(boxes, threshold, 30))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60))
def test_circle_suppression_equals_the_plain_loop(seed, count):
    boxes, scores = random_boxes(seed, count)
    centers = np.round(boxes[:, :2])
    near = ((centers[:, None] - centers[None]) ** 2).sum(2) <= 4
    assert circle_nms(centers, scores, threshold=4, pre=50, post=12).tolist() == plain(near, scores, 50, 12)


def test_circle_suppresses_at_the_threshold_itself_and_compares_squares():
    centers, scores = np.array([[0, 0], [2, 0], [4.5, 0.0]]), np.array([0.9, 0.8, 0.7])
    assert circle_nms(centers, scores, threshold=4.0, pre=10, post=10).tolist() == [0, 2]
    assert circle_nms(centers, scores, threshold=3.9, pre=10, post=10).tolist() == [0, 1, 2]


def test_rotated_does_not_suppress_at_the_threshold_itself():
    boxes, scores = np.array([[0, 0, 2, 2, 0], [1, 0, 2, 2, 0.0]]), np.array([0.5, 0.9])
    third = bev_iou(boxes[1:], boxes[:1])[0, 0]
    assert rotated_nms(boxes, scores, threshold=third, pre=9, post=9).tolist() == [1, 0]
    assert rotated_nms(boxes, scores, threshold=third - 1e-9, pre=9, post=9).tolist() == [1]


def test_a_suppressed_box_suppresses_nothing():
    boxes = np.array([[0, 0, 2, 2, 0], [1, 0, 2, 2, 0], [2, 0, 2, 2, 0.0]])
    assert rotated_nms(boxes, np.array([0.9, 0.8, 0.7]), threshold=0.2, pre=9, post=9).tolist() == [0, 2]


def test_no_boxes_and_bad_input():
    assert rotated_nms(np.zeros((0, 5)), np.zeros(0), threshold=0.2, pre=9, post=9).tolist() == []
    with pytest.raises(DataError, match="shape"):
        circle_nms(np.zeros((2, 3)), np.zeros(2), threshold=1, pre=9, post=9)
    with pytest.raises(DataError, match="NaN"):
        rotated_nms(np.zeros((1, 5)), np.array([np.nan]), threshold=0.2, pre=9, post=9)
