from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.datasets.kitti import KittiDataset
from kd3d.datasets.kitti_files import KittiAnnotation
from kd3d.errors import DataError
from kd3d.evaluation.evaluate import evaluate
from kd3d.evaluation.kitti_eval import average_precision, kitti_ap, recall_thresholds
from kd3d.evaluation.kitti_matching import COUNTS, IGNORED, OTHER, MatchCase, count_hits, hit_scores
from kd3d.geometry.boxes import Boxes3D

LEVELS = ("easy", "moderate", "hard")


def objects(count=1, *, kind="Car", height_px=60.0, score=None, occlusion=0, truncation=0.0, shift=0.0):
    """``count`` objects far apart, 4 x 2 x 1.5 m, moved along their length by ``shift`` metres."""
    place = np.arange(count)
    left = 20.0 * place
    return KittiAnnotation(
        types=(kind,) * count,
        truncation=np.full(count, truncation),
        occlusion=np.full(count, occlusion),
        alpha=np.zeros(count),
        bbox_px=np.column_stack([left, np.zeros(count), left + 15, np.full(count, height_px)]),
        size_m=np.tile([4.0, 2.0, 1.5], (count, 1)),
        location_m=np.column_stack([10.0 * place + shift, np.full(count, 1.7), np.full(count, 20.0)]),
        rotation_y=np.zeros(count),
        score=None if score is None else np.broadcast_to(np.asarray(score, float), count).copy(),
    )


def join(*parts):
    def stack(name):
        return np.concatenate([getattr(part, name) for part in parts])

    names = ("truncation", "occlusion", "alpha", "bbox_px", "size_m", "location_m", "rotation_y")
    score = None if parts[0].score is None else stack("score")
    return KittiAnnotation(sum((p.types for p in parts), ()), *(stack(name) for name in names), score)


def ap(found, labels, kind="Car", metric="3d"):
    return [kitti_ap([found], [labels], (kind,)).value[metric][kind][level] for level in LEVELS]


@pytest.mark.parametrize("metric", ["image", "bev", "3d"])
def test_perfect_detections_of_enough_objects_score_one(metric):
    assert ap(objects(60, score=np.linspace(1, 0.1, 60)), objects(60), metric=metric) == [1, 1, 1]


def test_with_few_objects_the_official_sampling_limits_the_score():
    # 5 objects give 5 recall positions, the first of which is not averaged: 4 / 40.
    assert ap(objects(5, score=np.linspace(1, 0.5, 5)), objects(5)) == [0.1, 0.1, 0.1]


def test_half_of_the_objects_found_scores_half():
    found = objects(80, score=np.linspace(1, 0.1, 80))
    half = replace_rows(found, slice(0, 40))
    assert ap(half, objects(80)) == pytest.approx([0.5] * 3, abs=0.026)


def test_one_false_positive_per_hit_below_it_halves_the_precision():
    hits = objects(60, score=0.5)
    wrong = replace(objects(60, score=0.9), location_m=objects(60).location_m + np.array([0, 0, 30]))
    assert ap(join(hits, wrong), objects(60)) == pytest.approx([0.5] * 3)
    # Ranked below the hits, the wrong ones do no harm.
    assert ap(join(hits, replace(wrong, score=np.full(60, 0.1))), objects(60)) == pytest.approx([1] * 3)


@pytest.mark.parametrize(
    ("kind", "shift", "wanted"),
    # Overlap of a 4 m box moved by s along its length: (4 - s) / (4 + s).
    [("Car", 0.70, 1), ("Car", 0.71, 0), ("Pedestrian", 1.33, 1), ("Pedestrian", 1.34, 0), ("Cyclist", 1.33, 1)],
)
def test_the_overlap_that_is_needed_depends_on_the_class(kind, shift, wanted):
    scores = np.linspace(1, 0.5, 60)
    for metric in ("bev", "3d"):
        assert (
            ap(objects(60, kind=kind, score=scores, shift=shift), objects(60, kind=kind), kind, metric) == [wanted] * 3
        )


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        ({"height_px": 41}, [60, 60, 60]),
        ({"height_px": 40}, [0, 60, 60]),
        ({"height_px": 25}, [0, 0, 0]),
        ({"occlusion": 1}, [0, 60, 60]),
        ({"occlusion": 2}, [0, 0, 60]),
        ({"occlusion": 3}, [0, 0, 0]),
        ({"truncation": 0.2}, [0, 60, 60]),
        ({"truncation": 0.4}, [0, 0, 60]),
        ({"truncation": 0.6}, [0, 0, 0]),
    ],
)
def test_difficulty_follows_height_occlusion_and_truncation(change, counted):
    labels = objects(60, **change)
    result = kitti_ap([objects(60, score=0.9)], [labels], ("Car",))
    assert [result.objects["Car"][level] for level in LEVELS] == counted
    assert [result.value["3d"]["Car"][level] for level in LEVELS] == [float(n > 0) for n in counted]


def test_detections_of_objects_that_do_not_count_are_not_false_positives():
    easy, hidden = (
        objects(50),
        replace(objects(50, occlusion=3), location_m=objects(50).location_m + np.array([0, 0, 25])),
    )
    found_hidden = replace(objects(50, score=0.95), location_m=hidden.location_m)
    assert ap(join(objects(50, score=0.9), found_hidden), join(easy, hidden)) == [1, 1, 1]


@pytest.mark.parametrize(("kind", "neighbour"), [("Car", "Van"), ("Pedestrian", "Person_sitting")])
def test_neighbouring_types_are_ignored_and_others_are_not(kind, neighbour):
    labels = objects(50, kind=kind)
    aside = labels.location_m + np.array([0, 0, 25])
    found = objects(50, kind=kind, score=0.5)
    both = join(found, replace(objects(50, kind=kind, score=0.9), location_m=aside))
    near = join(labels, replace(objects(50, kind=neighbour), location_m=aside))
    other = join(labels, replace(objects(50, kind="Misc"), location_m=aside))
    assert ap(both, near, kind) == [1, 1, 1]
    assert ap(both, other, kind) == pytest.approx([0.5] * 3)


def test_a_dont_care_region_excuses_in_the_image_only():
    labels = objects(50)
    region = replace(
        objects(1, kind="DontCare"), bbox_px=np.array([[0.0, 100, 2000, 200]]),
        size_m=np.full((1, 3), -1.0), location_m=np.full((1, 3), -1000.0),
    )  # fmt: skip
    wrong = objects(50, score=0.95)
    wrong = replace(
        wrong, bbox_px=wrong.bbox_px + np.array([0, 100, 0, 100]), location_m=wrong.location_m + np.array([0, 0, 25])
    )
    found = join(objects(50, score=0.9), wrong)
    assert ap(found, join(labels, region), metric="image") == [1, 1, 1]
    assert ap(found, labels, metric="image") == pytest.approx([0.5] * 3)
    assert ap(found, join(labels, region), metric="3d") == pytest.approx([0.5] * 3)


def test_detections_too_small_for_the_difficulty_are_neither_right_nor_wrong():
    small_wrong = replace(
        objects(50, score=0.95, height_px=30), location_m=objects(50).location_m + np.array([0, 0, 25])
    )
    result = ap(join(objects(50, score=0.9), small_wrong), objects(50))
    assert result == pytest.approx([1, 0.5, 0.5])


def test_a_second_detection_of_the_same_object_is_a_false_positive():
    found = join(objects(50, score=0.95), objects(50, score=0.95, shift=0.1))
    assert ap(found, objects(50)) == pytest.approx([0.5] * 3)


def test_frames_are_pooled_over_the_whole_set():
    found = [objects(6, score=0.9)] * 10
    assert kitti_ap(found, [objects(6)] * 10, ("Car",)).value["bev"]["Car"]["easy"] == 1
    assert kitti_ap([], [], ("Car",)).value["bev"]["Car"]["easy"] == 0


def test_thresholds_are_sampled_at_steps_of_recall():
    scores = np.linspace(1, 0, 401)[:400]
    picked = recall_thresholds(list(scores), 400)
    assert len(picked) == 41
    recall = np.array([(scores >= threshold).sum() / 400 for threshold in picked])
    np.testing.assert_allclose(recall[1:], np.arange(1, 41) / 40, atol=0.0026)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100_000))
def test_the_score_is_within_bounds_and_grows_with_an_added_hit(seed):
    rng = np.random.default_rng(seed)
    labels = 60
    found = rng.random(labels) < 0.6
    case = MatchCase(
        label_role=np.zeros(labels, int), found_role=np.zeros(labels, int), score=rng.random(labels),
        overlap=np.diag(found.astype(float)), excused=np.zeros(labels, bool),
    )  # fmt: skip
    before = average_precision([case], 0.5)
    missed = np.flatnonzero(~found)
    better = np.diag((found | (np.arange(labels) == (missed[0] if len(missed) else 0))).astype(float))
    assert 0 <= before <= average_precision([replace(case, overlap=better)], 0.5) + 1 / 40 <= 1 + 1 / 40


def test_labels_choose_the_best_score_first_and_then_the_best_overlap():
    case = MatchCase(
        label_role=np.array([COUNTS]), found_role=np.array([COUNTS, COUNTS, IGNORED, OTHER]),
        score=np.array([0.9, 0.6, 0.95, 0.99]), overlap=np.array([[0.7], [0.8], [0.9], [1.0]]),
        excused=np.zeros(4, bool),
    )  # fmt: skip
    # The ignored detection has the best score and takes the label, so that there is no score to sample.
    assert hit_scores(case, 0.5) == []
    assert count_hits(case, 0.5, 0.5) == (1, 1)
    assert count_hits(case, 0.5, 0.8) == (1, 0)
    assert count_hits(case, 0.85, 0.5) == (0, 2)


def test_bad_arguments_are_refused():
    with pytest.raises(DataError, match="1 frames are predicted, but 2 labelled"):
        kitti_ap([objects(score=1.0)], [objects()] * 2, ("Car",))
    with pytest.raises(DataError, match="have no scores"):
        kitti_ap([objects()], [objects()], ("Car",))
    with pytest.raises(DataError, match=r"Tram: not evaluated in KITTI. Use Car, Pedestrian, Cyclist"):
        kitti_ap([objects(score=1.0)], [objects()], ("Tram",))


def test_perfect_boxes_of_the_real_training_frames_score_one_for_cars(shared_data, tmp_path):
    dataset = KittiDataset(shared_data / "kitti", split="train")

    def perfect(sample):
        return Boxes3D(sample.boxes.array, sample.boxes.label, np.ones(len(sample.boxes)))

    metrics = evaluate(perfect, dataset, classes=dataset.classes, out_dir=tmp_path)
    assert metrics.NDS is None
    assert metrics.per_class["Car"] == metrics.extras["ap_r40"]["bev"]["Car"]["moderate"] == 1
    assert metrics.extras["objects"]["Car"]["moderate"] == 46
    assert metrics.mAP == pytest.approx(np.mean(list(metrics.per_class.values())))
    assert (tmp_path / "metrics.json").is_file()

    def moved(sample):
        array = sample.boxes.array.copy()
        array[:, 2] += 1.0
        return Boxes3D(array, sample.boxes.label, np.ones(len(array)))

    lifted = evaluate(moved, dataset, classes=dataset.classes, out_dir=tmp_path)
    assert lifted.per_class["Car"] < 0.05
    assert lifted.extras["ap_r40"]["bev"]["Car"]["moderate"] == 1


def test_classes_that_kitti_does_not_have_are_refused(shared_data, tmp_path):
    dataset = KittiDataset(shared_data / "kitti", split="val")
    with pytest.raises(DataError, match=r"bus: not a KITTI class. Use Car, Pedestrian, Cyclist"):
        evaluate(lambda sample: Boxes3D.empty(scored=True), dataset, classes=("bus",), out_dir=tmp_path)


def replace_rows(found, rows):
    names = ("truncation", "occlusion", "alpha", "bbox_px", "size_m", "location_m", "rotation_y", "score")
    return KittiAnnotation(found.types[rows], *(getattr(found, name)[rows] for name in names))
