import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.datasets.inside import points_in_boxes


def slow(points, boxes):
    out = np.zeros((len(boxes), len(points)), bool)
    for m, (x, y, z, length, width, height, yaw) in enumerate(boxes[:, :7]):
        turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
        for n, p in enumerate(points):
            a, b = turn @ (p[:2] - [x, y])
            out[m, n] = abs(a) <= length / 2 and abs(b) <= width / 2 and abs(p[2] - z) <= height / 2
    return out


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_membership_equals_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-5, 5, (60, 4))
    boxes = np.column_stack([rng.uniform(-4, 4, (7, 3)), rng.uniform(0.1, 8, (7, 3)), rng.uniform(-9, 9, 7)])
    np.testing.assert_array_equal(points_in_boxes(points, boxes), slow(points[:, :3], boxes))


def test_the_faces_belong_to_the_box():
    box = np.array([[0, 0, 0, 2, 2, 2, 0]], float)
    points = np.array([[1, 1, 1], [1, 1, 1.001], [0, 0, 0], [-1, 0, 0]])
    assert points_in_boxes(points, box).tolist() == [[True, False, True, True]]


def test_nothing_in_nothing_out():
    assert points_in_boxes(np.zeros((0, 4)), np.zeros((3, 9))).shape == (3, 0)
    assert points_in_boxes(np.zeros((5, 4)), np.zeros((0, 9))).shape == (0, 5)
