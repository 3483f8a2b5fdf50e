"""Points to pillars: hand values, properties, and the compiled loops against numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.errors import DataError
from kd3d.geometry.grid import BevGrid
from kd3d.runtime import pillars as module
from kd3d.runtime.pillars import flat_pillars, group_points, hard_pillars, hard_pillars_reference, pad_pillars

GRID = BevGrid(-4, -2, -1, 4, 2, 3, 0.5)


def cloud(seed, count, spread=5.0, features=5):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-spread, spread, (count, features)).astype(np.float32)
    points[: count // 3, :2] = np.round(points[: count // 3, :2] * 2) / 2  # on cell borders
    return points


def same(one, other):
    for name in ("features", "counts", "cells"):
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right, err_msg=name)
    assert (one.dropped_points, one.dropped_pillars) == (other.dropped_points, other.dropped_pillars)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 400), st.integers(1, 6), st.integers(1, 150))
def test_compiled_loops_equal_numpy_to_the_bit(seed, count, max_points, max_pillars):
    points = cloud(seed, count)
    caps = {"max_points": max_points, "max_pillars": max_pillars}
    same(hard_pillars(points, GRID, **caps), hard_pillars_reference(points, GRID, **caps))


def test_numba_is_used_where_it_is_installed():
    pytest.importorskip("numba")
    assert module.compiled() is not None


def test_without_numba_numpy_takes_over(monkeypatch):
    points = cloud(1, 200)
    with_numba = hard_pillars(points, GRID, max_points=3, max_pillars=40)
    groups = group_points(points, GRID, max_points=3, max_pillars=40)
    monkeypatch.setattr(module, "compiled", lambda: None)
    same(hard_pillars(points, GRID, max_points=3, max_pillars=40), with_numba)
    np.testing.assert_array_equal(group_points(points, GRID, max_points=3, max_pillars=40).points, groups.points)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 400), st.integers(1, 6), st.integers(1, 150))
def test_each_kept_point_is_in_its_cell_once_and_padding_is_zero(seed, count, max_points, max_pillars):
    points = cloud(seed, count)
    found = hard_pillars(points, GRID, max_points=max_points, max_pillars=max_pillars)
    assert len(np.unique(found.cells)) == len(found.cells) <= max_pillars
    assert ((found.counts >= 1) & (found.counts <= max_points)).all()
    kept = np.arange(max_points) < found.counts[:, None]
    assert not found.features[~kept].any()
    raw = found.features[kept][:, :5]
    row, column = np.divmod(np.repeat(found.cells, found.counts), GRID.nx)
    assert (np.floor((raw[:, 0] + 4) / np.float32(0.5)) == column).all()
    assert (np.floor((raw[:, 1] + 2) / np.float32(0.5)) == row).all()
    assert ((raw[:, 2] >= -1) & (raw[:, 2] < 3)).all()
    rows = {tuple(point) for point in points}
    assert len({tuple(point) for point in raw}) == len(raw)
    assert all(tuple(point) in rows for point in raw)
    inside = ((points[:, :3] >= [-4, -2, -1]) & (points[:, :3] < [4, 2, 3])).all(axis=1).sum()
    assert inside == found.counts.sum() + found.dropped_points


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 200))
def test_the_order_of_points_changes_nothing_but_the_order(seed, count):
    points = cloud(seed, count)
    shuffled = points[np.random.default_rng(seed).permutation(count)]
    one = hard_pillars(points, GRID, max_points=count, max_pillars=count)
    other = hard_pillars(shuffled, GRID, max_points=count, max_pillars=count)
    a, b = np.argsort(one.cells), np.argsort(other.cells)
    np.testing.assert_array_equal(one.cells[a], other.cells[b])
    np.testing.assert_array_equal(one.counts[a], other.counts[b])
    np.testing.assert_allclose(one.features[a].sum(1), other.features[b].sum(1), atol=1e-3)


def test_decoration_by_hand():
    points = np.array([[0.1, 0.1, 0, 7], [0.3, 0.2, 1, 8], [3.9, 1.9, 2, 9]], np.float32)
    found = hard_pillars(points, GRID, max_points=3, max_pillars=9)
    assert found.cells.tolist() == [4 * 16 + 8, 7 * 16 + 15]
    assert found.counts.tolist() == [2, 1]
    np.testing.assert_allclose(
        found.features[0, :2],
        [[0.1, 0.1, 0, 7, -0.1, -0.05, -0.5, -0.15, -0.15, -1], [0.3, 0.2, 1, 8, 0.1, 0.05, 0.5, 0.05, -0.05, 0]],
        atol=1e-6,
    )
    np.testing.assert_allclose(found.features[1, 0], [3.9, 1.9, 2, 9, 0, 0, 0, 0.15, 0.15, 1], atol=1e-6)


def test_first_come_first_served_and_what_is_dropped_is_counted():
    x = [0.1, 0.2, 0.3, 1.1, 2.1, 2.2, 0.4]
    points = np.array([[value, 0, 0, index] for index, value in enumerate(x)], np.float32)
    found = hard_pillars(points, GRID, max_points=2, max_pillars=2)
    np.testing.assert_array_equal(found.features[:, :, 3], [[0, 1], [3, 0]])
    assert (found.dropped_points, found.dropped_pillars) == (4, 1)


def test_points_just_below_the_range_are_not_in_the_first_cell():
    points = np.array([[-4.2, 0, 0], [0, -2.2, 0], [0, 0, -1.2], [4, 0, 0], [0, 2, 0], [0, 0, 3]], np.float32)
    assert len(hard_pillars(points, GRID, max_points=2, max_pillars=9).counts) == 0
    assert len(hard_pillars_reference(points, GRID, max_points=2, max_pillars=9).counts) == 0


@pytest.mark.parametrize("convert", [hard_pillars, hard_pillars_reference])
@pytest.mark.parametrize(
    "points",
    [np.zeros((0, 4)), np.full((7, 4), 99.0), np.full((3, 4), np.nan), np.full((3, 4), np.inf), np.full((3, 4), -3e38)],
    ids=["empty", "outside", "nan", "infinite", "huge"],
)
def test_clouds_without_a_usable_point_give_no_pillars(convert, points):
    found = convert(points.astype(np.float32), GRID, max_points=4, max_pillars=9)
    assert found.features.shape == (0, 4, 10)
    assert found.cells.shape == found.counts.shape == (0,)
    assert (found.dropped_points, found.dropped_pillars) == (0, 0)


def test_results_a_caller_holds_are_never_overwritten():
    first = hard_pillars(cloud(1, 300), GRID, max_points=4, max_pillars=99)
    copy = first.features.copy()
    view = hard_pillars(cloud(2, 300), GRID, max_points=4, max_pillars=99).features[3:]
    view_copy = view.copy()
    for seed in range(3, 6):
        hard_pillars(cloud(seed, 300), GRID, max_points=4, max_pillars=99)
    np.testing.assert_array_equal(first.features, copy)
    np.testing.assert_array_equal(view, view_copy)


def test_other_layouts_and_types_of_points_are_accepted():
    points = cloud(3, 50)
    expected = hard_pillars(points, GRID, max_points=4, max_pillars=99)
    same(hard_pillars(np.asfortranarray(points), GRID, max_points=4, max_pillars=99), expected)
    same(hard_pillars(points.astype(np.float64), GRID, max_points=4, max_pillars=99), expected)
    points.flags.writeable = False
    same(hard_pillars(points, GRID, max_points=4, max_pillars=99), expected)


@pytest.mark.parametrize("points", [np.zeros(4), np.zeros((4, 2))])
def test_points_of_another_shape_are_refused(points):
    with pytest.raises(DataError, match="points must be an array with shape"):
        hard_pillars(points, GRID, max_points=4, max_pillars=9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 300))
def test_flat_pillars_equal_hard_ones_without_caps_where_z_is_in_range(seed, count):
    points = cloud(seed, count)
    points[:, 2] = np.clip(points[:, 2], -1, 2.5)
    flat = flat_pillars(points, GRID)
    hard = hard_pillars(points, GRID, max_points=max(count, 1), max_pillars=max(count, 1))
    np.testing.assert_array_equal(flat.cells, hard.cells)
    np.testing.assert_array_equal(np.bincount(flat.pillar, minlength=len(flat.cells)), hard.counts)
    order = np.argsort(flat.pillar, kind="stable")
    kept = np.arange(hard.features.shape[1]) < hard.counts[:, None]
    np.testing.assert_array_equal(flat.features[order], hard.features[kept])


def test_flat_pillars_do_not_test_z():
    points = np.array([[0.1, 0.1, 50.0, 1], [9.0, 0, 0, 1]], np.float32)
    flat = flat_pillars(points, GRID)
    assert flat.pillar.tolist() == [0]
    assert flat.features[0, 2] == 50
    assert flat_pillars(np.zeros((0, 4), np.float32), GRID).features.shape == (0, 10)


def test_padding_rows_are_empty_and_name_the_spare_cell():
    found = hard_pillars(cloud(0, 300), GRID, max_points=4, max_pillars=5)
    padded = pad_pillars(found, 9, 128)
    np.testing.assert_array_equal(padded.features[:5], found.features)
    assert not padded.features[5:].any()
    assert padded.counts[5:].tolist() == [0] * 4
    assert padded.cells[5:].tolist() == [128] * 4
    with pytest.raises(DataError, match="5 pillars do not fit into 4 rows"):
        pad_pillars(found, 4, 128)


def test_real_clouds_convert_alike(shared_data):
    clouds = [
        (np.fromfile(path, np.float32).reshape(-1, 4), 70.4)
        for path in sorted((shared_data / "kitti/training/velodyne").glob("*.bin"))[:2]
    ]
    clouds += [
        (np.fromfile(path, np.float32).reshape(-1, 5), 51.2)
        for path in (shared_data / "nuscenes_keyframe").glob("*.pcd.bin")
    ]
    assert len(clouds) == 3
    for points, reach in clouds:
        grid = BevGrid(-reach, -reach, -5, reach, reach, 3, 0.2)
        found = hard_pillars(points, grid, max_points=20, max_pillars=30000)
        same(found, hard_pillars_reference(points, grid, max_points=20, max_pillars=30000))
        assert len(found.counts) > 2000
