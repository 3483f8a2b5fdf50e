"""The decoding and suppression kernels, run on the processor, against the numpy reference."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kd3d.errors import DataError
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.cuda.decode import PLAN, TASK, DeviceDecoder, lowest_logit
from kd3d.runtime.decode import candidates, decode, sigmoid
from kd3d.runtime.heads import TaskMaps, head_names
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec

RULE = DecodeSpec(1, 40, 0.1, (-6, -20, -2, 7, 20, 2), "none", (0.2, 0.3), 1000, 83)
SPEC = DetectorSpec(
    name="test",
    points=PointSpec(),
    grid=BevGrid(-8, -4, -3, 8, 4, 1, 0.5),
    encoder=PillarEncoderSpec(),
    backbone=BevBackboneSpec((2,), (1,), (8,), (1,), (8,)),
    head=CenterHeadSpec(tasks=(("car", "bus", "truck"), ("person",)), velocity=True),
    decode=RULE,
)
RELAXED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ruled(spec=SPEC, **changes):
    return replace(spec, decode=replace(spec.decode, **changes))


def heads(seed, spec, *, coarse=False, near=0.0):
    """Random maps; ``coarse`` logits have many ties, ``near`` moves all centres towards one place."""
    rng = np.random.default_rng(seed)
    ny, nx = spec.output_grid.ny, spec.output_grid.nx

    def normal(channels, scale=1.0):
        return (rng.normal(0, scale, (channels, ny, nx))).astype(np.float32)

    found = []
    for classes in spec.head.tasks:
        hm = normal(len(classes), 2.0) - 1
        if coarse:
            hm = np.round(hm)
        vel = normal(2) if spec.center_head.velocity else None
        maps = TaskMaps(hm.astype(np.float32), normal(2), normal(1), normal(3, 0.6) + 0.5, normal(2), vel)
        rows, columns = np.mgrid[:ny, :nx]
        maps.center[0] -= near * (columns - nx / 2)
        maps.center[1] -= near * (rows - ny / 2)
        found.append(maps)
    return found


def decoder_of(gpu, tasks, spec):
    placed = {
        f"task{task}_{name}": gpu.upload(getattr(maps, name)[None]).address
        for task, maps in enumerate(tasks)
        for name in head_names(spec.center_head)
    }
    return DeviceDecoder(gpu, spec, placed)


def same(found, wanted):
    np.testing.assert_array_equal(found.label, wanted.label)
    np.testing.assert_allclose(found.array, wanted.array, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.score, wanted.score, atol=1e-6)


def check(gpu, tasks, spec):
    decoder = decoder_of(gpu, tasks, spec)
    decoder.decode()
    decoder.nms()
    same(decoder.candidates(), candidates(tasks, spec))
    found = decoder.boxes()
    same(found, decode(tasks, spec))
    return found


def test_the_structures_are_laid_out_as_the_kernels_read_them(shim_library):
    assert shim_library.shim_size(b"DecodePlan") == PLAN.itemsize
    assert shim_library.shim_size(b"TaskMaps") == TASK.itemsize


@RELAXED
@given(
    seed=st.integers(0, 10**6),
    peak=st.sampled_from([1, 3]),
    rule=st.sampled_from(["class", "cell"]),
    top_k=st.sampled_from([1, 7, 40, 64, 200, 1000]),
    threshold=st.sampled_from([0.0, 0.1, 0.5]),
    coarse=st.booleans(),
    order=st.integers(0, 2),
)
def test_candidates_equal_numpy_in_every_order_of_threads(new_gpu, seed, peak, rule, top_k, threshold, coarse, order):
    spec = ruled(peak_kernel=peak, top_k_rule=rule, top_k=top_k, score_threshold=threshold)
    check(new_gpu(order), heads(seed, spec, coarse=coarse), spec)


@RELAXED
@given(
    seed=st.integers(0, 10**6),
    nms=st.sampled_from(["rotate", "circle"]),
    limits=st.sampled_from([(1000, 83), (30, 83), (500, 3), (64, 64), (65, 500)]),
    threshold=st.sampled_from([(0.05, 0.3), (0.7, 4.0)]),
    near=st.sampled_from([0.0, 0.8]),
    order=st.integers(0, 2),
)
def test_suppression_keeps_the_boxes_that_numpy_keeps(new_gpu, seed, nms, limits, threshold, near, order):
    pre, post = limits
    spec = ruled(nms=nms, nms_pre=pre, nms_post=post, nms_threshold=threshold, top_k=300, score_threshold=0.05)
    check(new_gpu(order), heads(seed, spec, near=near), spec)


def test_suppression_does_remove_boxes_and_differs_by_kind(new_gpu):
    """Guards the test above: a kernel that kept everything would have to differ."""
    counts = {}
    for nms in ("none", "rotate", "circle"):
        spec = ruled(nms=nms, top_k=200, nms_post=200, nms_threshold=(0.1, 0.1))
        counts[nms] = len(check(new_gpu(), heads(3, spec, near=0.8), spec))
    assert counts["rotate"] < counts["circle"] < counts["none"]


def test_identical_boxes_leave_one(new_gpu):
    spec = ruled(nms="rotate", top_k=130, score_threshold=0.0)
    tasks = heads(0, spec, near=1.0)
    for maps in tasks:
        maps.center[:] -= maps.center - np.round(maps.center)
        for value, array in ((0.0, maps.center_z), (1.0, maps.dim), (0.5, maps.rot)):
            array[:] = value
        ny, nx = spec.output_grid.ny, spec.output_grid.nx
        rows, columns = np.mgrid[:ny, :nx].astype(np.float32)
        maps.center[:] = nx / 2 - columns, ny / 2 - rows
    assert len(check(new_gpu(), tasks, spec)) == 2


def test_without_candidates_there_are_no_boxes(new_gpu):
    spec = ruled(nms="rotate")
    tasks = [maps._replace(hm=np.full_like(maps.hm, -20)) for maps in heads(0, spec)]
    assert len(check(new_gpu(), tasks, spec)) == 0


def test_without_velocity_it_is_unknown(new_gpu):
    spec = replace(ruled(nms="rotate"), head=replace(SPEC.head, velocity=False))
    assert np.isnan(check(new_gpu(), heads(1, spec), spec).velocity_m_s).all()


def test_boxes_that_are_not_finite_are_dropped(new_gpu):
    spec = ruled(nms="rotate")
    tasks = heads(4, spec)
    tasks[0].dim[1, ::2] = 200
    tasks[0].center_z[0, :, ::3] = np.nan
    tasks[1].hm[0, 3, 3] = np.inf
    check(new_gpu(), tasks, spec)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_heatmap_with_nan_is_an_error(new_gpu, order):
    tasks = heads(0, SPEC)
    tasks[1].hm[0, 5, 5] = np.nan
    decoder = decoder_of(new_gpu(order), tasks, SPEC)
    decoder.decode()
    with pytest.raises(DataError, match="the heatmap of task 1 holds NaN"):
        decoder.candidates()
    with pytest.raises(DataError, match="the heatmap of task 1 holds NaN"):
        decoder.boxes()


def test_what_the_kernels_cannot_sort_or_find_is_refused(new_gpu):
    spec = ruled(replace(SPEC, grid=BevGrid(-64, -64, -3, 64, 64, 1, 0.5)), top_k=5000)
    with pytest.raises(DataError, match=r"decode\.top_k is 5000; the CUDA kernels sort at most 4096"):
        decoder_of(new_gpu(), heads(0, spec), spec)
    with pytest.raises(DataError, match="the network gave no output task0_hm; it gave other"):
        DeviceDecoder(new_gpu(), SPEC, {"other": 1})


@pytest.mark.parametrize("rule", ["cell", "class"])
def test_a_rule_without_a_top_k_counts_every_cell(new_gpu, rule):
    spec = ruled(top_k=2**24, top_k_rule=rule, nms="rotate", score_threshold=0.0)
    assert len(check(new_gpu(), heads(3, spec), spec)) > 10


def test_of_more_cells_than_the_kernels_sort_those_that_suppression_reads_are_kept(new_gpu):
    """det3d's nuScenes pillars: 128 x 128 cells, no top-K, 1000 boxes before suppression."""
    wide = replace(SPEC, grid=BevGrid(-64, -64, -3, 64, 64, 1, 0.5))
    spec = ruled(wide, top_k=2**24, top_k_rule="cell", nms="rotate", nms_pre=50, nms_post=20, score_threshold=0.0)
    spec = ruled(spec, center_limit_m=(-70, -70, -2, 70, 70, 2))
    tasks = heads(4, spec)
    decoder = decoder_of(new_gpu(), tasks, spec)
    decoder.decode()
    decoder.nms()
    same(decoder.boxes(), decode(tasks, spec))
    near = ruled(spec, center_limit_m=(-0.5, -0.5, -0.1, 0.5, 0.5, 0.1))
    decoder = decoder_of(new_gpu(), tasks, near)
    decoder.decode()
    decoder.nms()
    with pytest.raises(DataError, match=r"task 0 has 16384 candidates; of the best 4096 all but \d+ lie outside"):
        decoder.boxes()
    with pytest.raises(DataError, match=r"decode\.top_k is 16777216; the CUDA kernels sort"):
        decoder_of(new_gpu(), tasks, ruled(spec, nms_pre=5000))


def test_frames_replay_from_a_captured_graph(new_gpu):
    """Decoding is the same launches whatever the frame holds."""
    spec, gpu = ruled(nms="rotate", nms_threshold=(0.1, 0.1)), new_gpu()
    first, second = heads(1, spec), heads(2, spec, near=0.5)
    places = {
        f"task{task}_{name}": gpu.upload(getattr(maps, name)[None])
        for task, maps in enumerate(first)
        for name in head_names(spec.center_head)
    }
    decoder = DeviceDecoder(gpu, spec, {name: array.address for name, array in places.items()})
    gpu.device.begin_capture(gpu.stream)
    decoder.decode()
    decoder.nms()
    graph = gpu.device.end_capture(gpu.stream)
    for tasks in (first, second):
        for name, array in places.items():
            value = getattr(tasks[int(name[4])], name[6:])
            gpu.device.to_device(array.address, np.ascontiguousarray(value), gpu.stream)
        gpu.device.launch_graph(graph, gpu.stream)
        same(decoder.boxes(), decode(tasks, spec))


@pytest.mark.parametrize("threshold", [0.0, 1e-6, 0.05, 0.1, 0.3, 0.5, 0.97])
def test_the_lowest_logit_parts_scores_exactly(threshold):
    lowest = lowest_logit(threshold)
    below = np.nextafter(lowest, np.float32(-np.inf))
    assert sigmoid(np.array([lowest]))[0] > threshold
    assert not sigmoid(np.array([below]))[0] > threshold


def test_a_frame_s_boxes_come_in_one_copy_with_one_wait_and_are_the_caller_s(new_gpu, monkeypatch):
    gpu = new_gpu()
    tasks = heads(5, SPEC)
    decoder = decoder_of(gpu, tasks, SPEC)
    calls = []
    for name in ("to_host", "synchronize"):
        real = getattr(gpu.device, name)
        monkeypatch.setattr(gpu.device, name, lambda *each, real=real, name=name: (calls.append(name), real(*each))[1])
    decoder.decode()
    decoder.nms()
    first = decoder.boxes()
    assert calls == ["to_host", "synchronize"]
    kept = first.array.copy()
    assert len(kept) > 5
    decoder._result._host[:] = 0  # as the next frame writes it
    np.testing.assert_array_equal(first.array, kept)


def test_a_suppression_that_the_kernels_lack_is_refused(new_gpu):
    with pytest.raises(DataError, match="suppress by none, rotate, circle, not by 'rotate_by_class'"):
        decoder_of(new_gpu(), heads(1, SPEC), ruled(nms="rotate_by_class"))
