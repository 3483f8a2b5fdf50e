"""The assignment of anchors against OpenPCDet's rule written out pair by pair, hand values, and the decoder."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.detectors.presets import preset
from kd3d.errors import DataError, SpecError
from kd3d.geometry.boxes import Boxes3D
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.anchor_targets import assign_anchors
from kd3d.runtime.anchors import anchor_centres, anchor_shapes, dense_anchor_boxes
from kd3d.runtime.heads import AnchorMaps
from kd3d.spec import AnchorHeadSpec, AnchorSpec, BevBackboneSpec


def small(like="kitti-pointpillars", cell=0.8, align=False):
    """KITTI's anchors on 40 x 36 cells."""
    spec = preset(like)
    return replace(
        spec,
        grid=BevGrid(0.0, -16.0, -3.0, 28.8, 16.0, 1.0, cell),
        backbone=BevBackboneSpec((1,), (0,), (8,), (1.0,), (8,)),
        head=replace(spec.anchor_head, align_center=align),
    )


def boxes_of(rows):
    array = np.zeros((len(rows), 9), np.float32)
    label = np.zeros(len(rows), np.int64)
    for index, (x, y, size, yaw, kind) in enumerate(rows):
        array[index, :7] = (x, y, -1.0, *size, yaw)
        label[index] = kind
    return Boxes3D(array, label)


def random_boxes(rng, count, classes=3):
    sizes = np.array([(3.9, 1.6, 1.56), (0.8, 0.6, 1.73), (1.76, 0.6, 1.73)])
    label = rng.integers(classes, size=count)
    array = np.zeros((count, 9), np.float32)
    array[:, :2] = rng.uniform((-1, -17), (30, 17), (count, 2))
    array[:, 2] = rng.uniform(-2, 0, count)
    array[:, 3:6] = sizes[label] * rng.uniform(0.7, 1.4, (count, 3))
    array[:, 6] = rng.uniform(-7, 7, count)
    return Boxes3D(array, label)


def upright(x, y, length, width, yaw):
    """Corners of the box turned to the nearer axis."""
    turned = yaw % np.pi
    if np.pi / 4 <= turned < 3 * np.pi / 4:
        length, width = width, length
    return x - length / 2, y - width / 2, x + length / 2, y + width / 2


def overlap(a, b):
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return wide * high / (sum(area) - wide * high)


def slow_labels(boxes, spec):
    """OpenPCDet's AxisAlignedTargetAssigner pair by pair; also the object of every anchor that stands for one."""
    grid, (xs, ys), shapes = spec.output_grid, anchor_centres(spec), anchor_shapes(spec)
    label = np.zeros((grid.ny, grid.nx, len(shapes)), int)
    stands = {}
    for kind, anchor in enumerate(spec.anchor_head.anchors):
        mine = [
            index
            for index in np.flatnonzero(boxes.label == kind)
            if grid.x_min_m <= boxes.array[index, 0] < grid.x_max_m
            and grid.y_min_m <= boxes.array[index, 1] < grid.y_max_m
        ]
        if not mine:
            continue
        there = [upright(*boxes.array[index, [0, 1, 3, 4, 6]].astype(float)) for index in mine]
        iou = {}
        for row in range(grid.ny):
            for column in range(grid.nx):
                for turn in range(2):
                    shape = shapes[kind * 2 + turn].astype(float)
                    here = upright(float(xs[column]), float(ys[row]), shape[1], shape[2], shape[4])
                    iou[row, column, kind * 2 + turn] = [overlap(here, other) for other in there]
        highest = np.max(list(iou.values()), axis=0)
        low, high = {"Car": (0.45, 0.6)}.get(anchor.name, (0.35, 0.5))
        for place, values in iou.items():
            forced = any(value == best > 0 for value, best in zip(values, highest, strict=True))
            if forced or max(values) >= high:
                label[place] = kind + 1
                stands[place] = mine[int(np.argmax(values))]
            elif max(values) >= low:
                label[place] = -1
    return label, stands


@pytest.mark.parametrize("seed", range(4))
def test_the_assignment_is_that_of_a_slow_reference(seed):
    spec = small(align=seed % 2 == 1)
    boxes = random_boxes(np.random.default_rng(seed), 12)
    label, stands = slow_labels(boxes, spec)
    found = assign_anchors(boxes, spec)
    grid = spec.output_grid
    np.testing.assert_array_equal(found.label.reshape(label.shape), label)
    flat = [int((row * grid.nx + column) * 6 + anchor) for row, column, anchor in stands]
    assert sorted(flat) == found.place.tolist()
    # Whose codes they are: decoded, every anchor gives back the box it stands for.
    decoded = decoded_boxes(found, spec)
    for place, index in zip(flat, stands.values(), strict=True):
        np.testing.assert_allclose(decoded[place], boxes.array[index, :7], atol=2e-5)


def decoded_boxes(found, spec):
    """Boxes ``{anchor: [7]}`` that the runtime decodes from maps that hold the targets; yaw as of the nearest turn."""
    grid, head = spec.output_grid, spec.anchor_head
    anchors = len(head.anchors) * len(head.rotations_rad)
    box = np.zeros((grid.ny * grid.nx * anchors, 7), np.float32)
    bins = np.zeros((len(box), head.direction_bins), np.float32)
    box[found.place] = found.codes
    bins[found.place, found.direction] = 1

    def maps(flat):
        return flat.reshape(grid.ny, grid.nx, -1).transpose(2, 0, 1)

    logits = np.zeros((anchors * len(head.anchors), grid.ny, grid.nx), np.float32)
    dense, _ = dense_anchor_boxes(AnchorMaps(logits, maps(box), maps(bins)), 0, spec)
    yaw = dense[found.place, 6]
    raw = found.codes[:, 6] + anchor_shapes(spec)[found.place % anchors, 4]
    dense[found.place, 6] = yaw + np.round((raw - yaw) / (2 * np.pi)) * 2 * np.pi
    return {int(place): dense[place, :7] for place in found.place}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 30), bins=st.sampled_from([1, 2, 4]))
def test_decoding_the_targets_gives_back_boxes_that_were_put_in(seed, count, bins):
    spec = small("kitti-pointpillars-mmdet3d" if seed % 2 else "kitti-pointpillars", align=bool(seed % 3))
    spec = replace(spec, head=replace(spec.anchor_head, direction_bins=bins))
    boxes = random_boxes(np.random.default_rng(seed), count)
    found = assign_anchors(boxes, spec)
    assert (found.label[found.place] > 0).all()
    assert (found.label > 0).sum() == len(found.place)
    assert (np.diff(found.place) > 0).all()
    kinds = found.label[found.place] - 1
    for (_, box), kind in zip(decoded_boxes(found, spec).items(), kinds, strict=True):
        apart = np.abs(boxes.array[:, :6] - box[:6]).max(axis=1)
        nearest = int(apart.argmin())
        assert apart[nearest] < 1e-4
        assert boxes.label[nearest] == kind
        if bins > 1:  # with one bin a box and its reverse are the same
            assert np.cos(box[6] - boxes.array[nearest, 6]) > 1 - 1e-6


def one_anchor(size, *, matching=None, cells=8, rotations=(0.0,)):
    """Anchors in the centres of 1 m cells over 8 x 8 m."""
    spec = preset("kitti-pointpillars")
    head = AnchorHeadSpec((AnchorSpec("Car", size, -1.0, matching),), rotations, align_center=True)
    trunk = BevBackboneSpec((1,), (0,), (8,), (1.0,), (8,))
    return replace(spec, grid=BevGrid(0, 0, -3, cells, cells, 1, 1.0), backbone=trunk, head=head)


def test_overlaps_by_hand():
    # A 2 x 2 box about an anchor's centre covers that anchor and half of each neighbour: IoU 2 / 6, diagonally 1 / 7.
    spec = one_anchor((2.0, 2.0, 1.0), matching=(0.2, 0.3))
    label = assign_anchors(boxes_of([(3.5, 4.5, (2, 2, 1), 0, 0)]), spec).label.reshape(8, 8)
    want = np.zeros((8, 8), int)
    want[4, 2:5] = want[3:6, 3] = 1
    np.testing.assert_array_equal(label, want)
    spec = one_anchor((2.0, 2.0, 1.0), matching=(1 / 7 - 1e-9, 0.5))
    label = assign_anchors(boxes_of([(3.5, 4.5, (2, 2, 1), 0, 0)]), spec).label.reshape(8, 8)
    want[3:6, 2:5] = -1
    want[4, 3] = 1
    np.testing.assert_array_equal(label, want)


def test_codes_by_hand():
    spec = one_anchor((4.0, 3.0, 2.0))
    found = assign_anchors(boxes_of([(4.0, 4.75, (8, 3, 1), 0.5, 0)]), spec)
    where = found.place.tolist().index(4 * 8 + 4)  # the anchor at (4.5, 4.5), z centre 0
    want = (-0.1, 0.05, -0.5, np.log(2), 0, np.log(0.5), 0.5)
    np.testing.assert_allclose(found.codes[where], want, atol=1e-6)
    assert found.direction[where] == 1  # 0.5 lies before the first bin's begin at 0.78539


def test_an_object_between_the_thresholds_still_gets_its_best_anchors_all_of_equals():
    spec = one_anchor((2.0, 2.0, 1.0), matching=(0.45, 0.6))
    found = assign_anchors(boxes_of([(4.0, 4.5, (1, 1, 1), 0, 0)]), spec)  # inside of two anchors: IoU 1 / 4 with both
    assert found.place.tolist() == [4 * 8 + 3, 4 * 8 + 4]


def test_a_forced_anchor_stands_for_the_object_that_it_overlaps_most():
    spec = one_anchor((2.0, 2.0, 1.0))
    # The small box is best covered by the anchor on which the large one sits.
    found = assign_anchors(boxes_of([(3.5, 3.5, (2, 2, 1), 0, 0), (3.5, 3.5, (0.5, 0.5, 1), 0, 0)]), spec)
    assert found.place.tolist() == [3 * 8 + 3]
    np.testing.assert_allclose(found.codes[0, 3], 0, atol=1e-6)


def test_boxes_turned_past_an_eighth_are_matched_across():
    spec = one_anchor((4.0, 1.0, 1.0), rotations=(0.0, 1.57))
    for yaw, anchor in ((0.7, 0), (0.9, 1), (2.4, 0), (-0.9, 1), (3.1, 0)):
        found = assign_anchors(boxes_of([(4.5, 4.5, (4, 1, 1), yaw, 0)]), spec)
        assert (4 * 8 + 4) * 2 + anchor in found.place


def test_only_anchors_of_the_own_class_meet_an_object():
    boxes = boxes_of([(10.0, 0.0, (3.9, 1.6, 1.5), 0, 1)])  # a pedestrian as large as a car
    label = assign_anchors(boxes, small()).label.reshape(-1, 6)
    assert (label[:, [0, 1, 4, 5]] == 0).all()
    assert (label[:, 2:4] > 0).any()


@pytest.mark.parametrize("row", [(-0.1, 0, (4, 2, 2), 0, 0), (5, 16.0, (4, 2, 2), 0, 0), (5, 5, (4, 0, 2), 0, 0)])
def test_boxes_outside_or_without_size_get_no_anchor(row):
    found = assign_anchors(boxes_of([row]), small())
    assert len(found.place) == 0
    assert not found.label.any()


def test_frames_without_boxes_are_background():
    found = assign_anchors(Boxes3D.empty(), small())
    assert found.label.dtype == np.int8
    assert not found.label.any()
    assert found.codes.shape == (0, 7)


def test_labels_of_other_classes_are_refused():
    with pytest.raises(DataError, match=r"labels must be 0..2 for Car, Pedestrian, Cyclist, but go from 3 to 3"):
        assign_anchors(boxes_of([(5, 5, (1, 1, 1), 0, 3)]), small())


def test_detectors_without_anchors_are_refused():
    with pytest.raises(SpecError, match="has a centre head, but this works with anchor heads only"):
        assign_anchors(Boxes3D.empty(), preset("world-centerpoint-pillar-tiny"))


def test_a_full_kitti_map_with_a_hundred_cars_takes_no_memory_per_anchor_and_object():
    import tracemalloc

    spec = preset("kitti-pointpillars")
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, 100)
    tracemalloc.start()
    found = assign_anchors(boxes, spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.label) == 321408
    assert peak < 32e6  # one float64 for every anchor and object would be 257 MB
