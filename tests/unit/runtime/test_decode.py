"""Decoding: hand-made maps, every rule, and the way back from targets."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.decode import candidates, decode, sigmoid, suppress
from kd3d.runtime.heads import TaskMaps, heads_from_arrays, onnx_names
from kd3d.runtime.targets import assign_targets, gaussian_radius
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec

RULE = DecodeSpec(1, 500, 0.1, (-20, -20, -10, 20, 20, 10), "none", (0.2, 0.2), 1000, 83)
SPEC = DetectorSpec(
    name="test",
    points=PointSpec(),
    grid=BevGrid(-8, -4, -3, 8, 4, 1, 0.5),
    encoder=PillarEncoderSpec(),
    backbone=BevBackboneSpec((2,), (1,), (8,), (1,), (8,)),
    head=CenterHeadSpec(tasks=(("car", "bus"), ("person",)), velocity=True),
    decode=RULE,
)


def ruled(**changes):
    return replace(SPEC, decode=replace(RULE, **changes))


def maps(classes, ny=8, nx=16, fill=-9.0):
    def zero(channels):
        return np.zeros((channels, ny, nx), np.float32)

    rot = zero(2)
    rot[1] = 1
    return TaskMaps(np.full((classes, ny, nx), fill, np.float32), zero(2), zero(1), zero(3), rot, zero(2))


def frame():
    return [maps(2), maps(1)]


def test_every_value_of_a_box_by_hand():
    heads = frame()
    heads[1].hm[0, 2, 5] = np.log(4)
    heads[1].center[:, 2, 5] = (0.25, 0.75)
    heads[1].center_z[:, 2, 5] = -1.5
    heads[1].dim[:, 2, 5] = np.log([4, 2, 1.5])
    heads[1].rot[:, 2, 5] = (np.sin(2.5) * 3, np.cos(2.5) * 3)
    heads[1].vel[:, 2, 5] = (7, -1)
    found = decode(heads, SPEC)
    np.testing.assert_allclose(found.array, [[-8 + 5.25, -4 + 2.75, -1.5, 4, 2, 1.5, 2.5, 7, -1]], atol=1e-6)
    assert found.label.tolist() == [2]
    np.testing.assert_allclose(found.score, [0.8], atol=1e-6)


def test_without_velocity_it_is_unknown():
    spec = replace(SPEC, head=replace(SPEC.head, velocity=False))
    heads = [task._replace(vel=None) for task in frame()]
    heads[0].hm[1, 0, 0] = 3
    assert np.isnan(decode(heads, spec).velocity_m_s).all()


def test_the_threshold_is_strict_and_applies_to_the_score():
    heads = frame()
    heads[0].hm[0, 0, :4] = (0.0, np.nextafter(np.float32(0), np.float32(1)), 1e-3, -1e-3)
    score = sigmoid(heads[0].hm[0, 0, :4])
    assert len(decode(heads, ruled(score_threshold=0.5))) == (score > 0.5).sum() == 1


def test_a_threshold_of_zero_takes_the_best_of_everything():
    heads = frame()
    heads[0].hm[0, 3, 3] = 1
    found = candidates(heads, ruled(score_threshold=0.0, top_k=7))
    assert np.bincount(found.label, minlength=3).tolist() == [7, 0, 7]
    assert found.score[0] == found.score.max()


def test_peaks_only_with_a_kernel_of_three_and_equal_neighbours_both_stay():
    heads = frame()
    heads[0].hm[0, 4, 4:7] = (2, 3, 1)
    heads[0].hm[1, 4, 4] = 1  # another class is not a neighbour
    heads[1].hm[0, 0, :2] = 2
    assert len(decode(heads, SPEC)) == 6
    found = decode(heads, ruled(peak_kernel=3))
    assert sorted(zip(found.label.tolist(), (round(float(value), 3) for value in found.score), strict=True)) == [
        (0, 0.953), (1, 0.731), (2, 0.881), (2, 0.881),
    ]  # fmt: skip


def test_peaks_equal_a_plain_search_up_to_the_borders():
    heads = frame()
    heads[0].hm[:] = np.random.default_rng(0).integers(1, 9, heads[0].hm.shape) / 2
    expected = 0
    for label, row, column in np.ndindex(heads[0].hm.shape):
        window = heads[0].hm[label, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        expected += heads[0].hm[label, row, column] == window.max()
    assert len(candidates(heads, ruled(peak_kernel=3))) == expected


def test_top_k_counts_class_and_cell_or_cells_only():
    heads = frame()
    heads[0].hm[:, 0, 0] = (3.0, 2.9)
    heads[0].hm[:, 0, 1] = (1.0, 1.1)
    by_class = decode(heads, ruled(top_k=2))
    assert by_class.label.tolist() == [0, 1]
    by_cell = decode(heads, ruled(top_k=2, top_k_rule="cell"))
    assert by_cell.label.tolist() == [0, 1]
    np.testing.assert_allclose(by_cell.array[:, 0], [-8, -7])
    assert len(decode(heads, ruled(top_k_rule="cell"))) == 2
    assert len(decode(heads, SPEC)) == 4


def test_of_equal_scores_the_first_class_and_cell_win():
    heads = frame()
    heads[0].hm[:] = 1
    heads[0].hm[1, 7, 15] = 2
    found = decode(heads, ruled(top_k=4))
    assert found.label.tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(found.array[1:, 0], [-8, -7, -6])


def test_the_centre_limit_drops_boxes_on_all_axes():
    heads = frame()
    heads[0].hm[0, :, 0] = 2
    heads[0].center_z[0, 1, 0] = 11
    heads[0].center[0, 2, 0] = -15
    assert len(decode(heads, SPEC)) == 6


@pytest.mark.parametrize(("nms", "threshold", "left"), [("none", 0.2, 3), ("rotate", 0.2, 2), ("circle", 1.0, 2)])
def test_suppression_works_across_the_classes_of_a_task_but_not_across_tasks(nms, threshold, left):
    heads = frame()
    for task, label, column, value in ((0, 0, 4, 3), (0, 1, 5, 2), (1, 0, 4, 1)):
        heads[task].hm[label, 4, column] = value
        heads[task].dim[:, 4, column] = np.log(3)
    found = decode(heads, ruled(nms=nms, nms_threshold=(threshold, threshold)))
    assert found.label.tolist() == ([0, 1, 2] if left == 3 else [0, 2])


def test_each_task_has_its_own_threshold_and_caps():
    heads = frame()
    for task in (0, 1):
        heads[task].hm[0, 4, 3:9] = (1, 2, 3, 4, 5, 6)
    rule = ruled(nms="circle", nms_threshold=(0.5, 4.0))
    assert np.bincount(decode(heads, rule).label).tolist() == [6, 0, 2]
    assert len(suppress(candidates(heads, rule), ruled(nms="circle", nms_threshold=(0.5, 0.5), nms_post=2))) == 4
    assert len(suppress(candidates(heads, rule), ruled(nms_pre=3))) == 6


def test_nothing_above_the_threshold_gives_no_boxes_with_scores():
    found = decode(frame(), ruled(nms="rotate"))
    assert len(found) == 0
    assert found.score is not None


def test_a_broken_network_is_reported_and_absurd_boxes_are_dropped():
    heads = frame()
    heads[0].hm[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="heatmap of task 0 holds NaN"):
        decode(heads, SPEC)
    heads = frame()
    heads[0].hm[0, 0, :3] = 3
    heads[0].dim[0, 0, 0] = 1e4
    heads[0].center[0, 0, 1] = np.nan
    assert len(decode(heads, SPEC)) == 1
    with pytest.raises(DataError, match="2 task"):
        decode(heads[:1], SPEC)
    with pytest.raises(DataError, match="scores"):
        suppress(Boxes3D.empty(), SPEC)


def test_head_maps_are_found_by_their_onnx_names():
    arrays = {f"task{t}_{k}": v[None] for t, task in enumerate(frame()) for k, v in task._asdict().items()}
    assert list(arrays) == onnx_names(SPEC)
    heads = heads_from_arrays(arrays, SPEC)
    assert heads[0].hm.shape == (2, 8, 16)
    with pytest.raises(DataError, match="no output task1_vel"):
        heads_from_arrays({k: v for k, v in arrays.items() if k != "task1_vel"}, SPEC)
    with pytest.raises(DataError, match=r"task0_hm must have shape \(2, 8, 16\)"):
        heads_from_arrays({**arrays, "task0_hm": arrays["task1_hm"]}, SPEC)


def perfect(targets):
    """Head maps that say exactly what the targets ask for."""
    found = []
    for target in targets:
        values = np.zeros((10, 8 * 16), np.float32)
        values[:, target.cell] = target.values.T
        values = values.reshape(10, 8, 16)
        logits = np.where(target.heatmap == 1, 8.0, -8.0).astype(np.float32)
        found.append(TaskMaps(logits, values[:2], values[2:3], values[3:6], values[6:8], values[8:]))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12))
def test_targets_decode_to_the_boxes_they_came_from(seed, count):
    rng = np.random.default_rng(seed)
    cells = rng.choice(8 * 16, count, replace=False)
    array = np.zeros((count, 9), np.float32)
    array[:, 0] = -8 + cells % 16 + rng.uniform(0.01, 0.99, count)
    array[:, 1] = -4 + cells // 16 + rng.uniform(0.01, 0.99, count)
    array[:, 2] = rng.uniform(-3, 1, count)
    array[:, 3:6] = rng.uniform(0.3, 12, (count, 3))
    array[:, 6] = rng.uniform(-3.1, 3.1, count)
    array[:, 7:] = rng.uniform(-9, 9, (count, 2))
    boxes = Boxes3D(array, rng.integers(0, 3, count))
    found = decode(perfect(assign_targets(boxes, SPEC)), SPEC)
    assert len(found) == count
    one, other = np.lexsort(boxes.array[:, 1::-1].T), np.lexsort(found.array[:, 1::-1].T)
    np.testing.assert_allclose(found.array[other], boxes.array[one], atol=1e-3)
    np.testing.assert_array_equal(found.label[other], boxes.label[one])


def test_targets_by_hand():
    array = np.array(
        [[-7.75, -3.25, 0, 4, 2, 1.5, 0.5, np.nan, np.nan], [50, 0, 0, 4, 2, 1, 0, 0, 0], [0, 0, 0, 0, 2, 1, 0, 0, 0]]
    )
    car, person = assign_targets(Boxes3D(array, np.array([1, 0, 0])), SPEC)
    assert car.cell.tolist() == [0]
    np.testing.assert_allclose(
        car.values, [[0.25, 0.75, 0, *np.log([4, 2, 1.5]), np.sin(0.5), np.cos(0.5), 0, 0]], atol=1e-6
    )
    assert car.mask.tolist() == [[1] * 8 + [0, 0]]
    sigma = 5 / 6
    assert car.heatmap[1, 0, 0] == 1
    assert car.heatmap[1, 2, 1] == pytest.approx(np.exp(-5 / (2 * sigma**2)))
    assert car.heatmap[1, 3, 0] == 0
    assert not car.heatmap[0].any()
    assert len(person.cell) == 0
    assert not person.heatmap.any()


def test_overlapping_gaussians_take_the_larger_value_and_objects_are_capped():
    array = np.zeros((3, 9))
    array[:, 3:6] = 1
    array[:, 0] = (0.5, 1.5, 2.5)
    boxes = Boxes3D(array, np.zeros(3, int))
    first = assign_targets(boxes, SPEC)[0]
    assert (first.heatmap[0, 4, 8:11] == 1).all()
    assert assign_targets(boxes, SPEC, max_objects=2)[0].cell.tolist() == [4 * 16 + 8, 4 * 16 + 9]


def test_the_radius_of_a_large_box_keeps_the_overlap():
    # The smallest of the three published cases, solved by hand for a square of 10 cells and IoU 0.5.
    b, c = 20, 100 * 0.5 / 1.5
    first = (b + np.sqrt(b**2 - 4 * c)) / 2
    third = (-20 + np.sqrt(400 + 16 * 0.5 * 0.5 * 100)) / 2
    expected = min(first, third)
    assert gaussian_radius(np.array([10.0]), np.array([10.0]), 0.5)[0] == pytest.approx(expected)


def test_a_label_outside_the_classes_is_refused():
    with pytest.raises(DataError, match=r"labels must be 0..2 for car, bus, person, but go from 3 to 3"):
        assign_targets(Boxes3D(np.ones((1, 9)), np.array([3])), SPEC)
