"""Overlap of rotated boxes against a polygon library."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity, intersection
from shapely.geometry import box as rectangle

from kd3d.errors import DataError
from kd3d.geometry.iou import bev_corners, bev_intersection, bev_iou, iou_3d

number = st.floats(-6, 6, allow_nan=False, width=32)
size = st.one_of(st.floats(0.125, 12, width=32), st.sampled_from([0.0, 1.0, 4.0]))
angle = st.one_of(st.floats(-10, 10), st.sampled_from([0.0, np.pi / 4, np.pi / 2, np.pi]))
boxes = st.lists(st.tuples(number, number, size, size, angle), min_size=1, max_size=5).map(np.array)


def polygon(row):
    x, y, length, width, yaw = row
    shape = rectangle(-length / 2, -width / 2, length / 2, width / 2)
    return affinity.translate(affinity.rotate(shape, yaw, origin=(0, 0), use_radians=True), x, y)


def shapely_iou(a, b):
    first, second = polygon(a), polygon(b)
    # Snapped to a fine grid: without it GEOS 3.11 says that some boxes which only touch are the same box.
    common = intersection(first, second, grid_size=1e-9).area
    union = first.area + second.area - common
    return common / union if union > 0 else 0.0


def agree(a, b):
    expected = [[shapely_iou(first, second) for second in b] for first in a]
    np.testing.assert_allclose(bev_iou(a, b), expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(boxes, boxes)
def test_iou_equals_the_polygon_library_on_random_boxes(a, b):
    agree(a, b)


@settings(max_examples=30, deadline=None)
@given(boxes, st.sampled_from([0.0, np.pi / 2, np.pi, 2 * np.pi]))
def test_a_box_turned_by_half_turns_overlaps_itself_fully(a, turn):
    b = a.copy()
    b[:, 4] += turn
    agree(a, b)


@settings(max_examples=30, deadline=None)
@given(boxes, st.floats(0.1, 1.0))
def test_a_shrunk_copy_is_contained(a, factor):
    b = a.copy()
    b[:, 2:4] *= factor
    np.testing.assert_allclose(np.diag(bev_intersection(a, b)), b[:, 2] * b[:, 3], atol=1e-9)
    agree(a, b)


@settings(max_examples=30, deadline=None)
@given(boxes)
def test_boxes_that_share_an_edge_or_a_corner_do_not_overlap(a):
    cos, sin = np.cos(a[:, 4]), np.sin(a[:, 4])
    for along, across in ((1, 0), (0, 1), (1, 1)):
        b = a.copy()
        b[:, 0] += along * a[:, 2] * cos - across * a[:, 3] * sin
        b[:, 1] += along * a[:, 2] * sin + across * a[:, 3] * cos
        assert np.diag(bev_intersection(a, b)).max() < 1e-6
        agree(a, b)


def test_hand_values():
    square = np.array([[0, 0, 2, 2, 0.0]])
    turned = np.array([[0, 0, 2, 2, np.pi / 4]])
    octagon = 8 * (np.sqrt(2) - 1)
    assert bev_intersection(square, turned)[0, 0] == pytest.approx(octagon)
    assert bev_iou(square, np.array([[1, 0, 2, 2, 0.0]]))[0, 0] == pytest.approx(1 / 3)
    np.testing.assert_allclose(bev_corners(square)[0], [[1, 1], [-1, 1], [-1, -1], [1, -1]])


def test_boxes_without_area_have_no_overlap_even_with_themselves():
    flat = np.array([[0, 0, 0, 0, 0.0], [0, 0, 3, 0, 0.5], [0, 0, -1, 2, 0]])
    assert bev_iou(flat, flat).max() == 0


def test_far_from_the_origin_no_digits_are_lost():
    a = np.array([[1e6, -1e6, 4, 2, 0.3]])
    b = a + np.array([1.0, 0.5, 0, 0, 0.7])
    near = bev_iou(a - [1e6, -1e6, 0, 0, 0], b - [1e6, -1e6, 0, 0, 0])
    np.testing.assert_allclose(bev_iou(a, b), near, atol=1e-9)


def test_many_pairs_are_done_in_parts_with_the_same_result():
    rng = np.random.default_rng(0)
    a = np.column_stack([rng.uniform(-3, 3, (260, 2)), rng.uniform(1, 4, (260, 2)), rng.uniform(-3, 3, 260)])
    whole = bev_iou(a, a)
    np.testing.assert_allclose(whole[100:103], bev_iou(a[100:103], a), atol=1e-12)
    np.testing.assert_allclose(whole, whole.T, atol=1e-9)


def test_volume_overlap_counts_height():
    a = np.array([[0, 0, 0, 4, 2, 2, 0.3, 9, 9]])
    b = a.copy()
    b[0, 2] = 1.0
    assert iou_3d(a, b)[0, 0] == pytest.approx(1 / 3)
    b[0, 2] = 2.0
    assert iou_3d(a, b)[0, 0] == 0
    assert iou_3d(a, a)[0, 0] == pytest.approx(1)


def test_no_boxes_give_an_empty_table():
    none = np.zeros((0, 5))
    assert bev_iou(none, np.ones((3, 5))).shape == (0, 3)
    assert iou_3d(np.ones((2, 7)), np.zeros((0, 7))).shape == (2, 0)


def test_a_wrong_shape_or_a_nan_is_named():
    with pytest.raises(DataError, match=r"\(N, 5\), but got shape \(1, 7\)"):
        bev_iou(np.ones((1, 7)), np.ones((1, 5)))
    bad = np.ones((2, 5))
    bad[1, 0] = np.nan
    with pytest.raises(DataError, match="box 1 has NaN"):
        bev_iou(bad, np.ones((1, 5)))
