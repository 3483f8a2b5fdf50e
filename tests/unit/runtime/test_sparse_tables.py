"""Neighbour tables: hand values, the definition, compiled loops against numpy, and real clouds."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.errors import DataError, UsageError
from kd3d.runtime import sparse_kernel
from kd3d.runtime import sparse_tables as module
from kd3d.runtime.sparse_tables import strided_table, submanifold_table

KERNELS = [(3, 3, 3), (3, 1, 1), (1, 3, 3), (1, 1, 1), (5, 3, 1)]
STRIDED = [
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (0, 1, 1)),
    ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
    ((2, 2, 2), (2, 2, 2), (0, 0, 0)),
    ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ((1, 2, 3), (3, 1, 2), (2, 0, 4)),
]


def sites(seed, count, shape, batches=0):
    rng = np.random.default_rng(seed)
    places = rng.permutation(max(batches, 1) * int(np.prod(shape)))[:count]
    coords = np.stack(np.unravel_index(places, (max(batches, 1), *shape)), axis=1).astype(np.int32)
    return coords if batches else coords[:, 1:]


def expected_submanifold(coords, kernel):
    where = {tuple(site): row for row, site in enumerate(coords.tolist())}
    half = [taps // 2 for taps in kernel]
    table = []
    for site in coords.tolist():
        lead, place = tuple(site[:-3]), site[-3:]
        moved = [
            tuple(p + t - h for p, t, h in zip(place, tap, half, strict=True))
            for tap in product(*(range(n) for n in kernel))
        ]
        table.append([where.get(lead + one, len(coords)) for one in moved])
    return np.array(table, np.int32).reshape(len(coords), int(np.prod(kernel)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.sampled_from(KERNELS), st.integers(0, 3))
def test_a_submanifold_table_is_its_definition(seed, count, kernel, batches):
    coords = sites(seed, count, (4, 5, 6), batches)
    np.testing.assert_array_equal(submanifold_table(coords, (4, 5, 6), kernel), expected_submanifold(coords, kernel))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.sampled_from(STRIDED), st.integers(0, 3))
def test_a_strided_table_is_its_definition(seed, count, window, batches):
    kernel, stride, padding = window
    shape = (4, 5, 6)
    coords = sites(seed, count, shape, batches)
    out, table, out_shape = strided_table(coords, shape, kernel, stride, padding)
    assert out_shape == tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape, *window, strict=True))
    where = {tuple(site): row for row, site in enumerate(coords.tolist())}
    rows = {}
    for lead in range(max(batches, 1)):
        for place in product(*(range(n) for n in out_shape)):
            row = [
                where.get(
                    ((lead,) if batches else ())
                    + tuple(o * s - p + t for o, s, p, t in zip(place, stride, padding, tap, strict=True)),
                    len(coords),
                )
                for tap in product(*(range(n) for n in kernel))
            ]
            if min(row) < len(coords):
                rows[((lead,) if batches else ()) + place] = row
    assert out.dtype == table.dtype == np.int32
    assert [tuple(site) for site in out.tolist()] == sorted(rows)
    np.testing.assert_array_equal(table, np.array(list(rows.values()), np.int32).reshape(table.shape))
    assert table.shape == (len(rows), int(np.prod(kernel)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 400), st.sampled_from(STRIDED), st.integers(0, 2))
def test_compiled_loops_equal_numpy(seed, count, window, batches):
    coords, shape = sites(seed, count, (9, 40, 33), batches), (9, 40, 33)
    results = []
    for loops in (sparse_kernel.compiled(), None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "compiled", lambda loops=loops: loops)
            results.append((submanifold_table(coords, shape, (3, 3, 3)), *strided_table(coords, shape, *window)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_loops_are_valid_as_plain_python(monkeypatch):
    coords = sites(3, 80, (5, 9, 8), 2)
    window = STRIDED[0]
    wanted = (submanifold_table(coords, (5, 9, 8), (3, 3, 3)), *strided_table(coords, (5, 9, 8), *window))
    names = sparse_kernel.Kernels._fields
    plain = sparse_kernel.Kernels(*(getattr(sparse_kernel, name) for name in names))
    monkeypatch.setattr(module, "compiled", lambda: plain)
    found = (submanifold_table(coords, (5, 9, 8), (3, 3, 3)), *strided_table(coords, (5, 9, 8), *window))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_numba_is_used_where_it_is_installed():
    pytest.importorskip("numba")
    assert sparse_kernel.compiled() is not None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300))
def test_submanifold_neighbours_are_mutual(seed, count):
    """Tap k of a leads to b exactly where the mirrored tap of b leads to a."""
    table = submanifold_table(sites(seed, count, (6, 20, 20)), (6, 20, 20), (3, 3, 3))
    row, tap = np.nonzero(table < count)
    np.testing.assert_array_equal(table[table[row, tap], 26 - tap], row)
    np.testing.assert_array_equal(table[:, 13], np.arange(count))


def test_two_sites_by_hand():
    table = submanifold_table(np.array([[1, 1, 1], [1, 1, 2]]), (3, 3, 3), (3, 3, 3))
    assert table[0, 13:15].tolist() == [0, 1]
    assert table[1, 12:14].tolist() == [0, 1]
    assert (table == 2).sum() == 50
    out, table, shape = strided_table(np.array([[0, 0, 3]]), (1, 1, 5), (1, 1, 3), (1, 1, 2), (0, 0, 1))
    assert (out.tolist(), table.tolist(), shape) == ([[0, 0, 1], [0, 0, 2]], [[1, 1, 0], [0, 1, 1]], (1, 1, 3))


@pytest.mark.parametrize("loops", ["numba", "numpy"])
def test_unusable_sites_and_windows_are_refused(loops, monkeypatch):
    if loops == "numpy":
        monkeypatch.setattr(module, "compiled", lambda: None)
    volume, cube = (4, 4, 4), (3, 3, 3)
    with pytest.raises(DataError, match=r"site 1 is \[0, 4, 0\], outside of a volume of \(4, 4, 4\)"):
        submanifold_table(np.array([[0, 0, 0], [0, 4, 0]]), volume, cube)
    with pytest.raises(DataError, match=r"site 0 is \[-1, 0, 0, 0\]"):
        submanifold_table(np.array([[-1, 0, 0, 0]]), volume, cube)
    with pytest.raises(DataError, match=r"rows 0 and 2 of the sites are equal: \[0, 1, 1, 1\]"):
        submanifold_table(np.array([[1, 1, 1], [2, 1, 1], [1, 1, 1]]), volume, cube)
    with pytest.raises(DataError, match="rows 1 and 2 of the sites are equal"):
        strided_table(np.array([[0, 0, 0], [3, 3, 3], [3, 3, 3]]), volume, cube, (2, 2, 2), (1, 1, 1))
    with pytest.raises(DataError, match=r"sites must be integers .* got float64 of shape \(2, 3\)"):
        submanifold_table(np.zeros((2, 3)), volume, cube)
    with pytest.raises(UsageError, match=r"each side must be odd, but it is \(3, 2, 3\)"):
        submanifold_table(np.zeros((1, 3), int), volume, (3, 2, 3))
    with pytest.raises(UsageError, match="stride must be three numbers of at least 1"):
        strided_table(np.zeros((1, 3), int), volume, cube, (2, 0, 2), (1, 1, 1))
    with pytest.raises(UsageError, match=r"a kernel of \(9, 1, 1\) is larger than the volume"):
        strided_table(np.zeros((1, 3), int), volume, (9, 1, 1), (1, 1, 1), (1, 0, 0))


def test_tables_of_real_clouds_equal_numpy(shared_data, monkeypatch):
    """The stages of CenterPoint-Voxel, its sites from real frames in their order of arrival."""
    path = next((shared_data / "nuscenes_keyframe").glob("*.pcd.bin"))
    points = np.fromfile(path, np.float32).reshape(-1, 5)[:, :3]
    index = np.floor((points - np.float32([-54, -54, -5])) / np.float32([0.075, 0.075, 0.2])).astype(np.int64)
    index = index[((index >= 0) & (index < [1440, 1440, 40])).all(axis=1)]
    _, first = np.unique(index, axis=0, return_index=True)
    coords, shape = index[np.sort(first)][:, ::-1].astype(np.int32), (41, 1440, 1440)
    assert len(coords) > 15000
    for padding in ((1, 1, 1), (1, 1, 1), (0, 1, 1)):
        window = ((3, 3, 3), (2, 2, 2), padding)
        fast = (submanifold_table(coords, shape, (3, 3, 3)), *strided_table(coords, shape, *window))
        with monkeypatch.context() as patch:
            patch.setattr(module, "compiled", lambda: None)
            slow = (submanifold_table(coords, shape, (3, 3, 3)), *strided_table(coords, shape, *window))
        for one, other in zip(fast, slow, strict=True):
            np.testing.assert_array_equal(one, other)
        coords, shape = fast[1], fast[3]
    assert shape == (5, 180, 180)
