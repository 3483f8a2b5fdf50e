import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.datasets.waymo import WaymoDataset
from kd3d.datasets.waymo_labels import CLASSES, WaymoLabels
from kd3d.errors import DataError, UsageError
from kd3d.evaluation.evaluate import evaluate, score_predictions
from kd3d.evaluation.waymo_eval import area, waymo_ap
from kd3d.evaluation.waymo_matching import CUTOFFS, heading_accuracy, match
from kd3d.geometry.boxes import Boxes3D
from kd3d.runs.atomic import read_json

VEHICLE, PEDESTRIAN, CYCLIST = range(3)


def boxes(count=4, *, kind=VEHICLE, score=None, shift=0.0, turn=0.0):
    """``count`` boxes of 4 x 2 x 1.5 m far apart, moved along their length by ``shift`` and turned by ``turn``."""
    array = np.zeros((count, 9))
    array[:, 0], array[:, 3:6], array[:, 6] = 10 * np.arange(count) + shift, (4, 2, 1.5), turn
    scores = None if score is None else np.broadcast_to(np.asarray(score, float), count)
    return Boxes3D(array, np.full(count, kind), scores)


def labels(count=4, *, kind=VEHICLE, level=1, points=10):
    def whole(value):
        return np.broadcast_to(np.asarray(value), count).copy()

    return WaymoLabels(boxes(count, kind=kind), whole(level), whole(points))


def score(found, truth, name="Vehicle"):
    """AP and APH at LEVEL_1, then at LEVEL_2."""
    value = waymo_ap([found], [truth], CLASSES).value[name]
    return [value[level][kind] for level in ("LEVEL_1", "LEVEL_2") for kind in ("AP", "APH")]


def test_perfect_detections_score_one():
    assert score(boxes(score=0.9), labels()) == pytest.approx([1, 1, 1, 1])
    assert score(boxes(score=np.linspace(0.2, 1, 4)), labels()) == pytest.approx([1, 1, 1, 1])


def test_opposite_headings_leave_ap_and_take_all_of_aph():
    assert score(boxes(score=0.9, turn=np.pi), labels()) == pytest.approx([1, 0, 1, 0], abs=1e-6)


def test_a_quarter_turn_of_square_boxes_takes_half_of_aph():
    found, truth = boxes(score=0.9, turn=np.pi / 2), labels()
    for each in (found, truth.boxes):
        each.array[:, 3:5] = 2
    assert score(found, truth) == pytest.approx([1, 0.5, 1, 0.5], abs=1e-6)


def test_half_of_the_objects_found_scores_half():
    # Recall ends at 1/2, with precision 1 up to there.
    assert score(boxes(2, score=0.9), labels(4)) == pytest.approx([0.5, 0.5, 0.5, 0.5])


def test_one_wrong_detection_per_right_one_halves_the_precision():
    found = Boxes3D.concatenate([boxes(score=0.9), boxes(score=0.9, shift=500)])
    assert score(found, labels()) == pytest.approx([0.5] * 4)
    # Ranked below the right ones, the wrong ones do no harm.
    found = Boxes3D.concatenate([boxes(score=0.9), boxes(score=0.3, shift=500)])
    assert score(found, labels()) == pytest.approx([1] * 4)


def test_precision_holds_up_to_a_recall_step_and_then_falls_along_a_line():
    # (recall, precision) (1/2, 1) and (1, 2/3): the gap is filled from 1 down to 0.55 at 2/3, then a line to 1 at 0.5.
    found = Boxes3D.concatenate([boxes(2, score=0.9), boxes(4, score=0.5).select(np.array([2, 3]))])
    found = Boxes3D.concatenate([found, boxes(2, score=0.5, shift=500)])
    wanted = 0.45 * 2 / 3 + 0.05 * (2 / 3 + 1) / 2 + 0.5
    assert score(found, labels()) == pytest.approx([wanted] * 4, abs=1e-6)


def test_a_hard_label_that_is_missed_counts_at_level_2_only():
    truth = labels(4, level=[1, 1, 2, 2])
    assert score(boxes(2, score=0.9), truth) == pytest.approx([1, 1, 0.5, 0.5])


def test_a_hard_label_that_is_found_is_right_at_level_1_too():
    truth = labels(4, level=[1, 1, 2, 2])
    # Three of four are found; at LEVEL_1 the one missed is no fault.
    assert score(boxes(3, score=0.9), truth) == pytest.approx([1, 1, 0.75, 0.75])


def test_labels_without_a_point_count_nowhere():
    ap = waymo_ap([boxes(2, score=0.9)], [labels(4, points=[9, 9, 0, 0])], ("Vehicle",))
    assert ap.value["Vehicle"]["LEVEL_2"]["AP"] == pytest.approx(1)
    assert ap.objects == {"Vehicle": {"LEVEL_1": 2, "LEVEL_2": 2}}


@pytest.mark.parametrize(
    ("kind", "name", "shift", "wanted"),
    # Overlap of a 4 m box moved by s along its length: (4 - s) / (4 + s).
    [
        (VEHICLE, "Vehicle", 0.70, 1), (VEHICLE, "Vehicle", 0.71, 0),
        (PEDESTRIAN, "Pedestrian", 1.33, 1), (PEDESTRIAN, "Pedestrian", 1.34, 0),
        (CYCLIST, "Cyclist", 1.33, 1), (CYCLIST, "Cyclist", 1.34, 0),
    ],
)  # fmt: skip
def test_the_overlap_that_is_needed_depends_on_the_class(kind, name, shift, wanted):
    found, truth = boxes(kind=kind, score=0.9, shift=shift), labels(kind=kind)
    assert score(found, truth, name) == pytest.approx([wanted] * 4)


def test_objects_of_another_class_are_not_found():
    assert score(boxes(kind=PEDESTRIAN, score=0.9), labels(kind=VEHICLE)) == pytest.approx([0] * 4)


def test_detections_below_every_cutoff_or_without_labels_score_nothing():
    assert score(boxes(0, score=0.9), labels()) == pytest.approx([0] * 4)
    assert score(boxes(score=0.9), labels(0)) == pytest.approx([0] * 4)
    assert (CUTOFFS[0], CUTOFFS[-1], len(CUTOFFS)) == (0, 1, 101)


def test_matching_gives_the_largest_sum_of_overlaps_whatever_the_scores():
    # The first detection fits both labels, the second only the first label: greedily, one would be lost.
    rows, columns = match(np.array([[0.9, 0.75], [0.8, 0.1]]), 0.7)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_pairs_below_the_threshold_never_match():
    rows, _ = match(np.array([[0.69, 0.2], [0.75, 0.71]]), 0.7)
    assert rows.tolist() == [1]


def crowd(seed):
    """A frame of labels, and detections of each of them zero to three times, moved, resized, turned, misnamed."""
    rng = np.random.default_rng(seed)
    reach = 12 if seed > 2 else 40
    count = rng.integers(0, 25)
    truth = np.zeros((count, 9))
    truth[:, :2], truth[:, 2] = rng.uniform(-reach, reach, (count, 2)), rng.uniform(-1, 1, count)
    truth[:, 3:6] = rng.uniform([2, 1, 1], [5, 2.5, 2], (count, 3))
    truth[:, 6] = rng.uniform(-np.pi, np.pi, count)
    kinds, level, points = rng.integers(0, 3, count), rng.integers(1, 3, count), rng.integers(0, 9, count)
    which = np.repeat(np.arange(count), rng.integers(0, 4, count))
    found, made = truth[which], len(which)
    found[:, :3] += rng.normal(0, 0.12, (made, 3))
    found[:, 3:6] *= rng.uniform(0.9, 1.1, (made, 3))
    found[:, 6] += rng.normal(0, 0.1, made) + np.pi * (rng.random(made) < 0.2)
    named = np.where(rng.random(made) < 0.1, rng.integers(0, 3, made), kinds[which])
    return Boxes3D(found, named, rng.random(made)), WaymoLabels(Boxes3D(truth, kinds), level, points)


# LEVEL_1 and LEVEL_2, AP and APH each, of the package waymo-open-dataset-tf-2-12-0 1.6.7 on crowds 100 s to 100 s + 11.
OFFICIAL = {
    0: {
        "Vehicle": [0.271213, 0.223413, 0.182458, 0.150189],
        "Pedestrian": [0.783900, 0.616281, 0.583478, 0.458202],
        "Cyclist": [0.760074, 0.655739, 0.628787, 0.539153],
    },
    1: {
        "Vehicle": [0.434259, 0.381407, 0.331126, 0.285506],
        "Pedestrian": [0.523191, 0.391585, 0.404085, 0.307081],
        "Cyclist": [0.671814, 0.484548, 0.583328, 0.409825],
    },
}


@pytest.mark.parametrize("group", list(OFFICIAL))
def test_crowds_score_what_the_official_program_gave(group):
    found, truth = zip(*(crowd(100 * group + index) for index in range(12)), strict=True)
    ap = waymo_ap(found, truth, CLASSES)
    for name, wanted in OFFICIAL[group].items():
        levels = ap.value[name]
        assert [levels[level][kind] for level in levels for kind in ("AP", "APH")] == pytest.approx(wanted, abs=2e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 10**6))
def test_matching_is_as_good_as_the_best_of_all_pairings(found, labelled, seed):
    from itertools import permutations

    iou = np.round(np.random.default_rng(seed).random((found, labelled)), 3)
    usable = np.where(iou >= 0.5, iou, 0.0)
    square = np.zeros((max(found, labelled, 1),) * 2)
    square[:found, :labelled] = usable
    best = max(square[range(len(square)), order].sum() for order in permutations(range(len(square))))
    rows, columns = match(iou, 0.5)
    assert len(set(rows.tolist())) == len(rows) == len(set(columns.tolist()))
    assert usable[rows, columns].sum() == pytest.approx(best)


@pytest.mark.parametrize(
    ("found", "label", "wanted"),
    [(0, 0, 1), (np.pi, 0, 0), (np.pi / 2, 0, 0.5), (3.1, -3.1, 1 - (2 * np.pi - 6.2) / np.pi), (7 * np.pi, np.pi, 1)],
)
def test_heading_accuracy_falls_from_one_to_zero_the_shorter_way_round(found, label, wanted):
    assert heading_accuracy(found, label) == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_the_area_lies_between_nothing_and_the_largest_recall(points):
    precision, recall = np.array(points).T
    assert -1e-9 <= area(precision, recall) <= recall.max() + 1e-9


def test_requests_that_cannot_be_scored_are_refused(waymo_world, tmp_path):
    with pytest.raises(DataError, match="1 frames are predicted, but 2 labelled"):
        waymo_ap([boxes(score=1)], [labels(), labels()], CLASSES)
    with pytest.raises(DataError, match="predicted boxes have no scores"):
        waymo_ap([boxes()], [labels()], CLASSES)
    with pytest.raises(DataError, match="car: not a class of the Waymo Open Dataset"):
        waymo_ap([boxes(score=1)], [labels()], ("car",))
    with pytest.raises(DataError, match="the split test of the Waymo Open Dataset has no labels"):
        score_predictions({}, WaymoDataset(waymo_world[0], split="test"), classes=CLASSES, out_dir=tmp_path)
    with pytest.raises(UsageError, match="a range to score within is known for nuScenes only"):
        score_predictions(
            {}, WaymoDataset(waymo_world[0], split="val"), classes=CLASSES, out_dir=tmp_path, max_range_m=30
        )
    with pytest.raises(DataError, match="2 of 2 samples are missing"):
        score_predictions({}, WaymoDataset(waymo_world[0], split="val"), classes=CLASSES, out_dir=tmp_path)


def test_the_labels_themselves_score_one_in_every_class_and_metrics_are_written(waymo_world, tmp_path):
    dataset = WaymoDataset(waymo_world[0], split="val")

    def predict(sample):
        seen = sample.boxes.select(np.arange(3))  # a box without a point is no label, so that finding it is wrong
        return Boxes3D(seen.array, seen.label, np.full(3, 0.9))

    metrics = evaluate(predict, dataset, classes=CLASSES, out_dir=tmp_path)
    stored = read_json(tmp_path / "metrics.json")
    assert stored == metrics.to_json()
    assert stored["NDS"] is None
    assert stored["mAP"] == pytest.approx(1)
    assert stored["extras"]["mAPH"] == pytest.approx(1)
    assert stored["extras"]["levels"]["LEVEL_1"] == {"mAP": pytest.approx(1), "mAPH": pytest.approx(1)}
    # The car out of sight is not counted; the pedestrian was written as hard.
    assert stored["extras"]["objects"] == {
        "Vehicle": {"LEVEL_1": 2, "LEVEL_2": 2},
        "Pedestrian": {"LEVEL_1": 0, "LEVEL_2": 2},
        "Cyclist": {"LEVEL_1": 2, "LEVEL_2": 2},
    }
