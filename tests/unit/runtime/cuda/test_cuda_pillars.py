"""The pillar kernels, run on the processor, against the numpy reference: equal to the bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kd3d.errors import DataError
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.cuda.pillars import HEAD, PLAN, STATS, Crop, DevicePillars
from kd3d.runtime.pillars import hard_pillars_reference
from kd3d.runtime.points import crop_to_image_reference, select_features
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec

NAMES = ("x", "y", "z", "intensity", "ring")
SPEC = DetectorSpec(
    name="test",
    points=PointSpec(),
    grid=BevGrid(-4, -2, -1, 4, 2, 3, 0.5),
    encoder=PillarEncoderSpec(max_points=5, max_pillars=60),
    backbone=BevBackboneSpec((2,), (1,), (8,), (1,), (8,)),
    head=CenterHeadSpec(tasks=(("car",),)),
    decode=DecodeSpec(1, 500, 0.1, (-20, -20, -10, 20, 20, 10), "none", (0.2,), 1000, 83),
)
ORDERS = st.integers(0, 2)
RELAXED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def capped(max_points, max_pillars, **points):
    encoder = PillarEncoderSpec(max_points=max_points, max_pillars=max_pillars)
    return replace(SPEC, encoder=encoder, points=PointSpec(**points) if points else SPEC.points)


def cloud(seed, count, spread=5.0):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-spread, spread, (count, 5)).astype(np.float32)
    points[: count // 3, :2] = np.round(points[: count // 3, :2] * 2) / 2  # on cell borders
    return points


def on_device(gpu, points, spec, *, rows=None, crop=None, columns=NAMES, capacity=None, wide=True):
    pillars = DevicePillars(gpu, spec, columns, capacity=capacity or len(points), wide=wide)
    found = pillars.group(points, crop=crop)
    rows, slots = rows or max(found.pillars, 1), spec.pillar_encoder.max_points
    index = np.int64 if wide else np.int32
    out = (
        gpu.array((rows, slots, spec.point_inputs), np.float32),
        gpu.array((rows,), index),
        gpu.array((rows,), index),
    )
    pillars.write(rows, *out)
    return found, *(gpu.fetch(array) for array in out)


def same(found, points, spec):
    counted, features, counts, cells = found
    wanted = hard_pillars_reference(
        points, spec.grid, max_points=spec.pillar_encoder.max_points, max_pillars=spec.pillar_encoder.max_pillars
    )
    assert counted == (len(wanted.counts), wanted.dropped_points, wanted.dropped_pillars)
    real = counted.pillars
    np.testing.assert_array_equal(features[:real], wanted.features)
    np.testing.assert_array_equal(counts[:real], wanted.counts)
    np.testing.assert_array_equal(cells[:real], wanted.cells)
    assert not features[real:].any()
    assert not counts[real:].any()
    assert (cells[real:] == spec.grid.nx * spec.grid.ny).all()


def test_the_structures_are_laid_out_as_the_kernels_read_them(shim_library):
    sizes = {"PillarPlan": PLAN, "FrameHead": HEAD, "PillarStats": STATS}
    assert {name: shim_library.shim_size(name.encode()) for name in sizes} == {
        name: dtype.itemsize for name, dtype in sizes.items()
    }


@RELAXED
@given(st.integers(0, 10**6), st.integers(0, 400), st.integers(1, 6), st.integers(1, 150), ORDERS)
def test_pillars_equal_numpy_in_every_order_of_threads(new_gpu, seed, count, max_points, max_pillars, order):
    points, spec = cloud(seed, count), capped(max_points, max_pillars)
    found = on_device(new_gpu(order), points, spec, rows=160)
    same(found, select_features(points, NAMES, spec.points), spec)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_crowded_cell_keeps_its_first_points(new_gpu, order):
    points = np.tile(np.float32([[0.1, 0.1, 0, 0, 0]]), (3000, 1))
    points[:, 3] = np.arange(3000)
    points[::7, 0] = 2.1
    spec = capped(20, 9)
    found = on_device(new_gpu(order), points, spec)
    same(found, select_features(points, NAMES, spec.points), spec)
    assert found[0].dropped_points == 2960


@pytest.mark.parametrize("count", [0, 1])
def test_no_point_and_one_point(new_gpu, count):
    points = cloud(0, 3, spread=1.0)[:count]
    found = on_device(new_gpu(), points, SPEC, rows=4)
    same(found, select_features(points, NAMES, SPEC.points), SPEC)
    assert found[0].pillars == count


def test_one_device_takes_cloud_after_cloud(new_gpu):
    gpu = new_gpu()
    pillars = DevicePillars(gpu, SPEC, NAMES, capacity=500)
    out = [gpu.array((60, 5, 10), np.float32), gpu.array((60,), np.int64), gpu.array((60,), np.int64)]
    for seed, count in enumerate((500, 3, 0, 250)):
        points = cloud(seed, count)
        found = pillars.group(points)
        pillars.write(60, *out)
        same((found, *map(gpu.fetch, out)), select_features(points, NAMES, SPEC.points), SPEC)


@pytest.mark.parametrize("intensity", ["raw", "unit", "tanh"])
def test_columns_are_chosen_and_intensity_scaled(new_gpu, intensity):
    points = cloud(5, 300)
    spec = capped(4, 80, features=("x", "y", "z", "time_lag", "intensity", "ring"), intensity=intensity)
    columns = ("intensity", "y", "x", "ring", "z")
    wanted = select_features(points, columns, spec.points)
    counted, features, _, _ = on_device(new_gpu(), points, spec, columns=columns)
    reference = hard_pillars_reference(wanted, spec.grid, max_points=4, max_pillars=80)
    assert counted.pillars == len(reference.counts)
    np.testing.assert_allclose(features, reference.features, atol=1e-6)


def test_engines_without_int64_get_int32(new_gpu):
    points = cloud(6, 200)
    same(on_device(new_gpu(), points, SPEC, wide=False), select_features(points, NAMES, SPEC.points), SPEC)


@RELAXED
@given(st.integers(0, 10**6), st.integers(0, 300), ORDERS)
def test_the_camera_s_view_is_that_of_the_processor(new_gpu, seed, count, order):
    points = cloud(seed, count)
    matrix = np.array([[5, -7, 0.3, 1], [4.5, 0.2, -6, 2], [1, 0.02, 0.01, 0.1]])
    found = on_device(new_gpu(order), points, SPEC, crop=Crop(matrix, (12, 9)))
    kept = crop_to_image_reference(select_features(points, NAMES, SPEC.points), matrix, (12, 9))
    same(found, kept, SPEC)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_points_that_are_not_numbers_are_counted_and_named(new_gpu, order):
    points = cloud(7, 50)
    points[[9, 4, 30], [0, 3, 2]] = np.nan, np.inf, -np.inf
    with pytest.raises(DataError, match=r"frame 7: 3 of 50 points have NaN or infinite values, the first in row 4\."):
        DevicePillars(new_gpu(order), SPEC, NAMES, capacity=50).group(points, where="frame 7")


def test_clouds_that_do_not_fit_are_refused(new_gpu):
    pillars = DevicePillars(new_gpu(), SPEC, NAMES, capacity=10)
    with pytest.raises(DataError, match="a cloud of 11 points does not fit into room for 10"):
        pillars.group(cloud(0, 11))
    with pytest.raises(DataError, match=r"points have shape \(4, 3\), but 5 columns are named"):
        pillars.group(np.zeros((4, 3), np.float32))
    with pytest.raises(DataError, match=r"needs the point column\(s\) intensity, but the cloud has x, y, z"):
        DevicePillars(new_gpu(), SPEC, ("x", "y", "z"), capacity=10)


def test_pillars_of_real_clouds_equal_numpy(new_gpu, shared_data):
    clouds = [
        (np.fromfile(path, np.float32).reshape(-1, 4), 70.4, ("x", "y", "z", "intensity"))
        for path in sorted((shared_data / "kitti/training/velodyne").glob("*.bin"))[:2]
    ]
    path = next((shared_data / "nuscenes_keyframe").glob("*.pcd.bin"))
    clouds.append((np.fromfile(path, np.float32).reshape(-1, 5), 51.2, NAMES))
    for order, (points, reach, columns) in enumerate(clouds):
        grid = BevGrid(-reach, -reach, -5, reach, reach, 3, 0.2)
        spec = replace(SPEC, grid=grid, encoder=PillarEncoderSpec(max_points=20, max_pillars=12000))
        found = on_device(new_gpu(order), points, spec, columns=columns, capacity=130000)
        same(found, points[:, :4], spec)
        assert found[0].pillars > 2000
