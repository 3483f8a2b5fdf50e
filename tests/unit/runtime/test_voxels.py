"""Points to voxels, and voxels to the neighbour tables of a network's stages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.errors import DataError
from kd3d.geometry.grid import BevGrid
from kd3d.runtime import voxels
from kd3d.runtime.voxels import mean_voxels, mean_voxels_reference, voxel_inputs
from kd3d.spec import VoxelEncoderSpec
from tests.support import sparse_world

GRID = BevGrid(0.0, -4.0, -1.0, 8.0, 4.0, 1.0, 0.5)
ENCODER = VoxelEncoderSpec(
    height_m=0.25, channels=(4, 4, 4), blocks=(1, 1, 0), input_channels=4, out_channels=4, z_paddings=(1, 1)
)


def _points(count, seed=0, *, spread=1.2):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (count, 5)).astype(np.float32)
    points[:, :3] = points[:, :3] * (4 * spread, 4 * spread, 1 * spread) + (4, 0, 0)
    return points


def _equal(one, other):
    for name in ("features", "sites", "kept_points", "dropped_points", "dropped_voxels"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@given(count=st.integers(0, 400), max_points=st.integers(1, 4), max_voxels=st.integers(1, 300), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_compiled_grouping_equals_the_reference_to_the_bit(count, max_points, max_voxels, seed):
    encoder = replace(ENCODER, max_points=max_points, max_voxels=max_voxels)
    points = _points(count, seed)
    _equal(mean_voxels(points, GRID, encoder), mean_voxels_reference(points, GRID, encoder))


def test_a_voxel_is_the_mean_of_its_first_points_and_the_list_holds_the_first_voxels():
    points = np.array(
        [[0.1, 0.1, 0.1, 1], [7.9, 3.9, 0.9, 5], [0.2, 0.2, 0.2, 3], [0.3, 0.3, 0.1, 99], [4, 0, 0, 7]], np.float32
    )
    found = mean_voxels(points, GRID, replace(ENCODER, max_points=2, max_voxels=2))
    assert found.sites.tolist() == [[4, 8, 0], [7, 15, 15]]
    np.testing.assert_allclose(found.features, [[0.15, 0.15, 0.15, 2], [7.9, 3.9, 0.9, 5]], rtol=1e-6)
    assert (found.kept_points, found.dropped_points, found.dropped_voxels) == (3, 2, 1)


def test_points_on_the_lower_edge_are_inside_and_on_the_upper_edge_or_nan_outside():
    inside, outside = [0, -4, -1, 0], [[8, 0, 0, 0], [0, 4, 0, 0], [0, 0, 1, 0], [np.nan, 0, 0, 0], [-0.01, 0, 0, 0]]
    found = mean_voxels(np.array([inside, *outside], np.float32), GRID, ENCODER)
    assert found.sites.tolist() == [[0, 0, 0]]
    assert found.dropped_points == 0


def test_without_numba_the_reference_answers(monkeypatch):
    points = _points(200)
    wanted = mean_voxels(points, GRID, ENCODER)
    monkeypatch.setattr(voxels, "compiled", lambda: None)
    _equal(mean_voxels(points, GRID, ENCODER), wanted)


def test_points_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"shape \(N, 3 or more\), but got shape \(5,\)"):
        mean_voxels(np.zeros(5, np.float32), GRID, ENCODER)


def test_the_tables_are_those_of_the_stages_and_cells_count_height_fastest():
    clouds = [mean_voxels(_points(150, seed), GRID, ENCODER) for seed in (0, 1)]
    made = voxel_inputs(clouds, GRID, ENCODER)
    sites = np.concatenate([np.insert(cloud.sites, 0, frame, axis=1) for frame, cloud in enumerate(clouds)])
    shape = (9, 16, 16)
    wanted = [sparse_world.submanifold(sites)]
    one, table, shape = sparse_world.strided(sites, shape, (3, 3, 3), (2, 2, 2), (1, 1, 1))
    wanted += [table, sparse_world.submanifold(one)]
    two, table, shape = sparse_world.strided(one, shape, (3, 3, 3), (2, 2, 2), (1, 1, 1))
    last, out, shape = sparse_world.strided(two, shape, (3, 1, 1), (2, 1, 1), (0, 0, 0))
    assert ENCODER.tables == ("submanifold0", "strided1", "submanifold1", "strided2", "strided_out")
    for got, expected in zip(made.tables, [*wanted, table, out], strict=True):
        assert got.dtype == np.int32
        assert np.array_equal(got, expected)
    assert shape == (1, 4, 4)
    assert made.cells.tolist() == [((b * 4 + y) * 4 + x) * 1 + z for b, z, y, x in last.tolist()]
    assert len(made.features) == len(sites)


def test_rows_that_stand_for_no_voxel_see_only_themselves_and_go_to_the_spare_cell():
    empty = mean_voxels(np.zeros((0, 5), np.float32), GRID, ENCODER)
    made = voxel_inputs([empty], GRID, ENCODER, least_rows=2)
    first, strided1, submanifold1, strided2, out = made.tables
    for table in (first, submanifold1):
        assert table[:, 13].tolist() == [0, 1]
        assert (np.delete(table, 13, axis=1) == 2).all()
    for table in (strided1, strided2, out):
        assert (table == 2).all()
    assert made.cells.tolist() == [16, 16]
    assert made.features.shape == (2, 5)


def test_padding_does_not_touch_what_real_rows_read():
    cloud = mean_voxels(_points(3, spread=0.1), GRID, ENCODER)
    bare, padded = (voxel_inputs([cloud], GRID, ENCODER, least_rows=rows) for rows in (1, 50))
    for small, large in zip(bare.tables, padded.tables, strict=True):
        assert len(large) == 50
        read = large[: len(small)]
        assert np.array_equal(np.where(read == 50, -1, read), np.where(small == small.max(), -1, small))
