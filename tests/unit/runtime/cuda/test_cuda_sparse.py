"""The neighbour-table kernels, run on the processor, against numpy: equal."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kd3d.errors import UsageError
from kd3d.runtime.cuda.sparse import DeviceSites, StridedTable, SubmanifoldTable
from kd3d.runtime.sparse_tables import strided_table, submanifold_table

STRIDED = [
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (0, 1, 1)),
    ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
    ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ((1, 2, 3), (3, 1, 2), (2, 0, 4)),
]
RELAXED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def some_sites(seed, count, shape, batches=2):
    rng = np.random.default_rng(seed)
    places = rng.permutation(batches * int(np.prod(shape)))[:count]
    return np.stack(np.unravel_index(places, (batches, *shape)), axis=1).astype(np.int32)


def put(gpu, sites, coords):
    sites.build()  # with noise, as a frame before would have left it
    if len(coords):
        gpu.device.to_device(sites.sites.address, np.ascontiguousarray(coords), gpu.stream)
    gpu.device.to_device(sites.count.address, np.array([len(coords)], np.int32), gpu.stream)
    sites.build()


def empty(gpu, shape, capacity):
    sites = DeviceSites(gpu, shape, capacity=capacity)
    gpu.fill(sites.count, 0)
    return sites


def test_the_structures_are_laid_out_as_the_kernels_read_them(shim_library):
    assert shim_library.shim_size(b"Volume") == 4 * 4
    assert shim_library.shim_size(b"Window") == 9 * 4


@RELAXED
@given(
    st.integers(0, 10**6), st.integers(0, 300), st.sampled_from([(3, 3, 3), (3, 1, 1), (1, 3, 5)]), st.integers(0, 2)
)
def test_submanifold_tables_equal_numpy_in_every_order_of_threads(new_gpu, seed, count, kernel, order):
    gpu, shape = new_gpu(order), (7, 12, 11)
    coords = some_sites(seed, count, shape)
    sites = empty(gpu, (2, *shape), 320)
    put(gpu, sites, coords)
    maker = SubmanifoldTable(gpu, sites, kernel)
    maker.run()
    np.testing.assert_array_equal(gpu.fetch(maker.table)[:count], submanifold_table(coords, shape, kernel))
    assert gpu.fetch(sites.distinct)[0] == count


@RELAXED
@given(st.integers(0, 10**6), st.integers(0, 300), st.sampled_from(STRIDED), st.integers(0, 2))
def test_strided_tables_equal_numpy_in_every_order_of_threads(new_gpu, seed, count, window, order):
    gpu, shape = new_gpu(order), (7, 12, 11)
    sites = empty(gpu, (2, *shape), 300)
    maker = StridedTable(gpu, sites, window, capacity=4000)
    for frame in range(2):
        coords = some_sites(seed + frame, count, shape)
        put(gpu, sites, coords)
        maker.run()
        out, table, out_shape = strided_table(coords, shape, *window)
        assert maker.out.shape == (2, *out_shape)
        assert gpu.fetch(maker.out.count)[0] == len(out)
        np.testing.assert_array_equal(gpu.fetch(maker.out.sites)[: len(out)], out)
        np.testing.assert_array_equal(gpu.fetch(maker.table)[: len(out)], table)


def test_outputs_past_the_room_are_counted_and_the_rest_is_right(new_gpu):
    gpu, shape, window = new_gpu(), (7, 12, 11), STRIDED[0]
    coords = some_sites(0, 200, shape)
    sites = empty(gpu, (2, *shape), 200)
    put(gpu, sites, coords)
    maker = StridedTable(gpu, sites, window, capacity=50)
    maker.run()
    out, table, _ = strided_table(coords, shape, *window)
    assert gpu.fetch(maker.out.count)[0] == len(out) > 50
    np.testing.assert_array_equal(gpu.fetch(maker.out.sites), out[:50])
    np.testing.assert_array_equal(gpu.fetch(maker.table), table[:50])


def test_of_equal_sites_the_first_counts(new_gpu):
    gpu = new_gpu(1)
    sites = empty(gpu, (1, 3, 3, 3), 8)
    put(gpu, sites, np.array([[0, 1, 1, 1], [0, 1, 1, 2], [0, 1, 1, 1]], np.int32))
    maker = SubmanifoldTable(gpu, sites, (1, 1, 3))
    maker.run()
    assert gpu.fetch(maker.table)[:3].tolist() == [[3, 0, 1], [0, 1, 3], [3, 0, 1]]
    assert gpu.fetch(sites.distinct)[0] == 2


def test_stages_of_a_real_cloud_equal_numpy(new_gpu, shared_data):
    """Tables of a stage are built from the sites that the stage before left on the device."""
    path = next((shared_data / "nuscenes_keyframe").glob("*.pcd.bin"))
    points = np.fromfile(path, np.float32).reshape(-1, 5)[:, :3]
    index = np.floor((points - np.float32([-54, -54, -5])) / np.float32([0.3, 0.3, 0.2])).astype(np.int64)
    index = index[((index >= 0) & (index < [360, 360, 40])).all(axis=1)]
    _, first = np.unique(index, axis=0, return_index=True)
    coords, shape = np.insert(index[np.sort(first)][:, ::-1].astype(np.int32), 0, 0, axis=1), (41, 360, 360)
    gpu = new_gpu(2)
    sites = empty(gpu, (1, *shape), 20000)
    put(gpu, sites, coords)
    for window in (STRIDED[0], STRIDED[0], STRIDED[1], STRIDED[2]):
        same, down = SubmanifoldTable(gpu, sites, (3, 3, 3)), StridedTable(gpu, sites, window, capacity=20000)
        same.run()
        down.run()
        np.testing.assert_array_equal(gpu.fetch(same.table)[: len(coords)], submanifold_table(coords, shape, (3, 3, 3)))
        out, table, shape = strided_table(coords, shape, *window)
        assert 500 < len(out) < 20000
        np.testing.assert_array_equal(gpu.fetch(down.table)[: len(out)], table)
        coords, sites = out, down.out
        sites.build()


def test_what_the_kernels_cannot_do_is_refused(new_gpu):
    with pytest.raises(UsageError, match="the kernels count up to 4294967295"):
        DeviceSites(new_gpu(), (400, 41, 1440, 1440), capacity=1)
    with pytest.raises(UsageError, match=r"each side must be odd, but it is \(2, 3, 3\)"):
        SubmanifoldTable(new_gpu(), empty(new_gpu(), (1, 4, 4, 4), 1), (2, 3, 3))
