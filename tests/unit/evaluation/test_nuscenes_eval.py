import json
from dataclasses import replace

import numpy as np
import pytest

from kd3d.datasets.nuscenes import NuScenesDataset
from kd3d.datasets.nuscenes_tables import CLASSES
from kd3d.datasets.parts import part
from kd3d.errors import DataError, OutputError, UsageError
from kd3d.evaluation.evaluate import evaluate
from kd3d.evaluation.nuscenes_eval import evaluate_results
from kd3d.evaluation.results import attribute, write_results
from kd3d.geometry.boxes import Boxes3D


@pytest.fixture(scope="module")
def dataset(tiny_root):
    # A box that no point hits is not in the devkit's ground truth either, so predicting it would be wrong.
    return NuScenesDataset(tiny_root, split="val", drop_empty=True)


def scored(boxes, scores=None):
    return Boxes3D(boxes.array, boxes.label, np.ones(len(boxes)) if scores is None else scores)


def perfect(sample):
    return scored(sample.boxes)


def test_perfect_predictions_score_one(dataset, tmp_path):
    steps: list[tuple[int, int]] = []
    metrics = evaluate(
        perfect, dataset, classes=CLASSES, out_dir=tmp_path / "out", progress=lambda *step: steps.append(step)
    )
    assert metrics.mAP > 0.97
    assert metrics.NDS > 0.97
    assert min(metrics.per_class.values()) > 0.9
    assert metrics.tp_errors["trans_err"] < 1e-3
    assert metrics.tp_errors["vel_err"] < 0.02
    assert metrics.tp_errors["orient_err"] < 1e-2
    assert metrics.tp_errors["attr_err"] == 0
    assert steps[-1] == (3, 3)
    assert json.loads((tmp_path / "out/metrics.json").read_text())["mAP"] == metrics.mAP
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "metrics.json"}


def test_class_names_in_another_order_score_the_same(dataset, tmp_path):
    order = tuple(sorted(CLASSES))
    renumber = np.array([order.index(name) for name in CLASSES])

    def predict(sample):
        return Boxes3D(sample.boxes.array, renumber[sample.boxes.label], np.ones(len(sample.boxes)))

    assert evaluate(predict, dataset, classes=order, out_dir=tmp_path).mAP > 0.97


def test_a_detector_without_a_class_scores_zero_for_it(dataset, tmp_path):
    def no_cars(sample):
        return perfect(sample).select(sample.boxes.label != CLASSES.index("car"))

    metrics = evaluate(no_cars, dataset, classes=CLASSES, out_dir=tmp_path)
    assert metrics.per_class["car"] == 0
    assert metrics.per_class["bus"] > 0.9
    assert 0.85 < metrics.mAP < 0.92


def test_errors_are_measured_in_the_units_they_are_named_in(dataset, tmp_path):
    def off(sample):
        array = sample.boxes.array.copy()
        array[:, 0] += 0.3
        array[:, 6] += 0.2
        return Boxes3D(array, sample.boxes.label, np.ones(len(array)))

    errors = evaluate(off, dataset, classes=CLASSES, out_dir=tmp_path).tp_errors
    assert errors["trans_err"] == pytest.approx(0.3, abs=0.01)
    assert errors["orient_err"] == pytest.approx(0.2, abs=0.02)
    assert errors["scale_err"] == pytest.approx(0, abs=1e-3)


def test_nothing_found_scores_zero_without_failing(dataset, tmp_path):
    metrics = evaluate(lambda sample: Boxes3D.empty(scored=True), dataset, classes=CLASSES, out_dir=tmp_path)
    assert (metrics.mAP, metrics.NDS) == (0, 0)
    assert set(metrics.per_class) == set(CLASSES)
    assert set(metrics.tp_errors.values()) == {1.0}


def test_far_wrong_boxes_score_like_nothing_found(dataset, tmp_path):
    def wrong(sample):
        array = sample.boxes.array.copy()
        array[:, :2] += 6
        return Boxes3D(array, sample.boxes.label, np.full(len(array), 0.9))

    metrics = evaluate(wrong, dataset, classes=CLASSES, out_dir=tmp_path)
    assert metrics.mAP < 0.05
    assert metrics.to_json()["tp_errors"]["trans_err"] <= 1


def test_the_file_is_in_the_global_frame_and_in_official_form(dataset, tmp_path):
    sample = dataset[1]
    predictions = {token: Boxes3D.empty(scored=True) for token in dataset.tokens}
    predictions[sample.token] = perfect(sample)
    write_results(predictions, dataset, CLASSES, tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["meta"]["use_lidar"] is True
    truth = json.loads((dataset.nusc_root / "v1.0-mini/sample_annotation.json").read_text())
    first = next(row for row in truth if row["sample_token"] == sample.token)
    row = content["results"][sample.token][0]
    np.testing.assert_allclose(row["translation"], first["translation"], atol=1e-3)
    np.testing.assert_allclose(row["size"], first["size"], atol=1e-5)
    np.testing.assert_allclose(np.abs(np.dot(row["rotation"], first["rotation"])), 1, atol=1e-4)
    assert row["attribute_name"] == "vehicle.moving"
    assert row["detection_name"] == "car"


def test_at_most_500_boxes_are_written_the_best_ones(dataset, tmp_path):
    array = np.zeros((600, 9))
    array[:, 3:6] = 1
    many = Boxes3D(array, np.zeros(600, int), np.linspace(0, 1, 600))
    write_results(dict.fromkeys(dataset.tokens, many), dataset, CLASSES, tmp_path / "r.json")
    rows = json.loads((tmp_path / "r.json").read_text())["results"][dataset.tokens[0]]
    assert len(rows) == 500
    assert min(row["detection_score"] for row in rows) > 0.16


def test_unknown_velocity_is_written_as_standing(dataset, tmp_path):
    def unknown(sample):
        array = sample.boxes.array.copy()
        array[:, 7:] = np.nan
        return Boxes3D(array, sample.boxes.label, np.ones(len(array)))

    metrics = evaluate(unknown, dataset, classes=CLASSES, out_dir=tmp_path)
    assert metrics.mAP > 0.97
    assert metrics.tp_errors["vel_err"] > 1


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("speed", [0.0, 0.1, 1.0, 20.0])
def test_attributes_are_those_the_devkit_allows(name, speed):
    from nuscenes.eval.detection.utils import detection_name_to_rel_attributes

    allowed = detection_name_to_rel_attributes(name) or [""]
    assert attribute(name, speed) in allowed


def test_missing_and_foreign_samples_are_refused(dataset, tiny_root, tmp_path):
    predictions = {token: perfect(dataset[i]) for i, token in enumerate(dataset.tokens)}
    short = {token: predictions[token] for token in dataset.tokens[1:]}
    with pytest.raises(DataError, match="1 of 3 samples are missing, such as scene-0103-s0"):
        write_results(short, dataset, CLASSES, tmp_path / "r.json")
    with pytest.raises(DataError, match="1 samples are not in the split, such as zebra"):
        write_results({**predictions, "zebra": Boxes3D.empty(scored=True)}, dataset, CLASSES, tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()
    write_results(predictions, dataset, CLASSES, tmp_path / "r.json")
    with pytest.raises(DataError, match=r"r.json: 3 of 3 samples are missing"):
        evaluate_results(tmp_path / "r.json", tiny_root, None, "train", tmp_path)


def test_unknown_classes_and_boxes_without_scores_are_refused(dataset, tmp_path):
    predictions = {token: dataset[i].boxes for i, token in enumerate(dataset.tokens)}
    with pytest.raises(DataError, match="tank: not a class of the nuScenes detection task"):
        write_results(predictions, dataset, ("tank",), tmp_path / "r.json")
    with pytest.raises(DataError, match="predicted boxes have no scores"):
        write_results(predictions, dataset, CLASSES, tmp_path / "r.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "not a nuScenes results file"),
        ('{"results": {}}', "not a nuScenes results"),
    ],
)
def test_a_damaged_results_file_is_named(tiny_root, tmp_path, content, message):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(DataError, match=f"r.json: {message}"):
        evaluate_results(tmp_path / "r.json", tiny_root, None, "val", tmp_path)


def test_a_box_the_devkit_refuses_is_reported_as_bad_data(dataset, tiny_root, tmp_path):
    write_results({t: perfect(dataset[i]) for i, t in enumerate(dataset.tokens)}, dataset, CLASSES, tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    content["results"][dataset.tokens[0]][0]["attribute_name"] = "vehicle.flying"
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"the devkit refuses it .*vehicle.flying"):
        evaluate_results(tmp_path / "r.json", tiny_root, "v1.0-mini", "val", tmp_path)


def test_what_the_devkit_stumbles_over_while_it_scores_is_bad_data_too(dataset, tiny_root, tmp_path):
    write_results({t: perfect(dataset[i]) for i, t in enumerate(dataset.tokens)}, dataset, CLASSES, tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    content["results"][dataset.tokens[0]][0]["size"] = [0, 1, 1]
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"the devkit refuses it .*sizes must be >0"):
        evaluate_results(tmp_path / "r.json", tiny_root, "v1.0-mini", "val", tmp_path)


def test_a_sample_without_a_list_of_boxes_is_refused(dataset, tiny_root, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"meta": {}, "results": dict.fromkeys(dataset.tokens, 3)}))
    with pytest.raises(DataError, match=r"r.json: sample \S+ has no list of boxes"):
        evaluate_results(tmp_path / "r.json", tiny_root, None, "val", tmp_path)


def test_too_many_boxes_in_a_foreign_file_are_refused(dataset, tiny_root, tmp_path):
    results = {token: [{}] * 501 for token in dataset.tokens}
    (tmp_path / "r.json").write_text(json.dumps({"meta": {}, "results": results}))
    with pytest.raises(DataError, match="has more than 500 boxes"):
        evaluate_results(tmp_path / "r.json", tiny_root, None, "val", tmp_path)


def test_an_unwritable_output_is_refused_and_leaves_it_alone(dataset, tmp_path):
    (tmp_path / "file").write_text("keep")
    with pytest.raises(OutputError, match="cannot be written"):
        evaluate(perfect, dataset, classes=CLASSES, out_dir=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "keep"


def test_evaluation_prints_nothing(dataset, tmp_path, capfd):
    evaluate(perfect, dataset, classes=CLASSES, out_dir=tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_data_set_of_no_known_kind_is_refused(dataset, tmp_path):
    class Part:
        tokens = ()

        def __len__(self):
            return 0

    with pytest.raises(DataError, match="Part: only a whole nuScenes, KITTI or Waymo split can be evaluated"):
        evaluate(perfect, Part(), classes=CLASSES, out_dir=tmp_path)


def test_metrics_as_json_have_no_nan(dataset, tmp_path):
    metrics = replace(evaluate(perfect, dataset, classes=CLASSES, out_dir=tmp_path), NDS=float("nan"))
    content = metrics.to_json()
    assert content["NDS"] is None
    assert content["extras"]["label_tp_errors"]["traffic_cone"]["vel_err"] is None
    json.dumps(content, allow_nan=False)


@pytest.fixture(scope="module")
def three_scenes(tiny, tmp_path_factory):
    scenes = ("scene-0061", "scene-0553", "scene-0655")
    root = tiny.write_tiny(tmp_path_factory.mktemp("three"), scenes=scenes)
    return NuScenesDataset(root, split="train", drop_empty=True)


def test_a_part_of_a_split_is_scored_as_if_it_were_all_there_is(three_scenes, tiny, tmp_path):
    """What a search does with its held-out scenes: the frames it trains on must not count as missed."""
    held = part(three_scenes, [3, 4, 5])
    assert evaluate(perfect, held, classes=CLASSES, out_dir=tmp_path).mAP > 0.97
    file, where = tmp_path / "results.json", (three_scenes.nusc_root, None, "train", tmp_path)
    metrics = evaluate_results(file, *where, samples=held.tokens)
    assert metrics.mAP > 0.97

    def half(sample):
        return perfect(sample).select(np.arange(len(sample.boxes)) % 2 == 0)

    whole = evaluate(half, three_scenes, classes=CLASSES, out_dir=tmp_path / "whole").to_json()
    covered = evaluate_results(tmp_path / "whole/results.json", *where, samples=three_scenes.tokens).to_json()
    assert covered == whole
    some = evaluate(half, held, classes=CLASSES, out_dir=tmp_path / "some").mAP
    assert 0.3 < some < 0.7


def test_frames_outside_the_part_that_is_scored_are_refused(three_scenes, tmp_path):
    held = part(three_scenes, [0, 1, 2])
    predictions = {token: perfect(three_scenes[i]) for i, token in enumerate(three_scenes.tokens)}
    write_results(predictions, three_scenes, CLASSES, tmp_path / "r.json")
    where = (three_scenes.nusc_root, None, "train", tmp_path)
    with pytest.raises(DataError, match="6 samples are not in the split, such as scene-0553-s0"):
        evaluate_results(tmp_path / "r.json", *where, samples=held.tokens)
    some = {token: predictions[token] for token in held.tokens}
    write_results(some, held, CLASSES, tmp_path / "some.json")
    with pytest.raises(DataError, match="6 of 9 samples are missing"):
        evaluate_results(tmp_path / "some.json", *where)


def test_within_a_range_farther_objects_and_boxes_do_not_count(dataset, tmp_path):
    def far_ones_missing(sample):
        boxes = perfect(sample)
        ego = sample.boxes.array[:, :2]  # the LiDAR stands within a metre or so of the ego origin
        return boxes.select(np.hypot(*ego.T) < 20.0)

    where = {"classes": CLASSES}
    assert evaluate(far_ones_missing, dataset, **where, out_dir=tmp_path / "all").mAP < 0.9
    near = evaluate(far_ones_missing, dataset, **where, out_dir=tmp_path / "near", max_range_m=18.0)
    whole = evaluate(perfect, dataset, **where, out_dir=tmp_path / "whole", max_range_m=18.0)
    assert near.per_class == whole.per_class
    assert near.extras["max_range_m"] == 18.0
    assert "max_range_m" not in evaluate(perfect, dataset, **where, out_dir=tmp_path / "official").extras


def test_a_range_to_score_within_must_be_positive(dataset, tmp_path):
    with pytest.raises(UsageError, match="must be positive, not 0 m"):
        evaluate(perfect, dataset, classes=CLASSES, out_dir=tmp_path, max_range_m=0.0)
