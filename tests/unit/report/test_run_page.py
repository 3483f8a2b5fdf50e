"""The page of a whole run, from folders like those that the commands leave."""

import json
import re
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.bench import bench
from kd3d.cli.main import run as command
from kd3d.datasets.world import write_world
from kd3d.errors import DataError
from kd3d.report import svg
from kd3d.report.birdseye import Detections, cloud_png, difference, most_different, read_boxes
from kd3d.report.pareto import write_report

HOSTILE = "<img src=x onerror=hacked()>"


class Steps:
    """A detector that finds nothing, quickly."""

    def pre(self, frame):
        return frame

    network = decode = pre

    def nms(self, frame):
        return []


class Held:
    token, points = "t", np.zeros((3, 4))


def results(tokens, boxes):
    rows = [
        {
            "translation": [x, y, 1.0],
            "size": [2.0, 4.0, 1.5],
            "rotation": [1, 0, 0, 0],
            "detection_name": name,
            "detection_score": score,
        }
        for x, y, name, score in boxes
    ]
    return json.dumps({"meta": {}, "results": dict.fromkeys(tokens, rows)})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("report") / "world"
    write_world(root, scenes=2, seed=3, samples_per_scene=2, cameras=False, workers=1)
    return root


@pytest.fixture
def whole(tmp_path, world):
    """A compress run: boxes of both, a benchmark, two trainings."""
    from kd3d.datasets.open import open_dataset

    folder = tmp_path / "run"
    tokens = open_dataset(world, split="val").tokens
    for name, boxes in {
        "teacher_evaluation": [(0, 0, "car", 0.9)],
        "distill/distil/evaluation": [(90, 0, "car", 0.9)],
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "results.json").write_text(results(tokens, boxes))
    lines = [{"step": step, "loss": 9 / step, "terms": {HOSTILE: 1 / step}} for step in (1, 2, 3)]
    for name in ("distill/distil", "distill/control"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    bench({HOSTILE: Steps(), "student": Steps()}, [Held()], warmup=0, iterations=5).write(folder / "bench")
    (folder / "metrics.json").write_text(json.dumps({"teacher": {"mAP": 0.5}, "student": {"mAP": 0.4}}))
    (folder / "settings.json").write_text(json.dumps({"command": "compress", "data": str(world)}))
    about = {"machine": {"cpu": "a processor"}, "command": ["kd3d", "compress", "a b"], "packages": {"numpy": "2.0"}}
    (folder / "environment.json").write_text(json.dumps(about))
    return folder


def test_a_whole_run_has_every_part_and_says_only_that_no_search_is_there(whole):
    made = write_report(whole)
    page = made.html.read_text()
    for words in ("Teacher and student", "From above", "Median time of each stage", "Every timed frame", "Loss"):
        assert words in page
    assert "Terms of the loss: control, without the teacher" in page
    assert "a processor" in page
    assert "kd3d compress &#x27;a b&#x27;" in page
    assert [text.split(":")[0] for text in made.missing] == ["accuracy of what was timed", "the search"]
    assert "<title>kd3d compress: run</title>" in page
    assert page.count('class="bev"') == 4, "two frames, teacher and student each"
    assert "2 boxes without a partner" in page
    assert '<b class="truth">ground truth</b>' in page


def test_names_of_a_run_stay_text_and_nothing_comes_from_a_network(whole):
    page = write_report(whole).html.read_text()
    assert "<img" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "<script" not in page, "without a search there is nothing to run"


def test_a_run_without_its_data_says_how_to_name_it(whole, world):
    (whole / "settings.json").write_text(json.dumps({"data": "moved"}))
    assert any("--data DIR" in text and "from above" in text for text in write_report(whole).missing)
    assert not any("from above" in text for text in write_report(whole, data=str(world)).missing)


def test_a_folder_of_a_benchmark_alone_has_a_page(tmp_path, capsys):
    bench({"a": Steps()}, [Held()], warmup=0, iterations=3).write(tmp_path)
    assert command(["report", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["report"] == str(tmp_path / "report.html")
    assert "png" not in found
    assert any(text.startswith("training curves: ") for text in found["missing"])


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("bench/bench.json", "{}", "not a benchmark that can be drawn"),
        ("bench/bench.json", "[]", "must be an object"),
        ("bench/frames.jsonl", '{"model": "student", "e2e_ms": -Infinity}', "-inf ms is no time"),
        ("bench/frames.jsonl", '{"model": 1}', "not readable as timed frames"),
        ("teacher_evaluation/results.json", '{"results": {"t": [{}]}}', "not an official results file"),
        ("metrics.json", '{"teacher": 3}', "teacher must be an object"),
    ],
)
def test_a_damaged_part_is_named_and_no_page_is_written(whole, file, content, match):
    (whole / file).write_text(content)
    with pytest.raises(DataError, match=match):
        write_report(whole)
    assert not (whole / "report.html").exists()


def found(*boxes):
    return Detections(np.array([box[:2] for box in boxes], float).reshape(-1, 2), tuple(box[2] for box in boxes), boxes)


def test_boxes_pair_once_with_the_nearest_of_their_class():
    car, near, far, bus = (0, 0, "car"), (1.5, 0, "car"), (5, 0, "car"), (0, 0, "bus")
    assert difference(found(car), found(near)) == 0
    assert difference(found(car), found(far)) == 2
    assert difference(found(car), found(bus)) == 2
    assert difference(found(car), found(car, near)) == 1
    assert difference(found(), found(car, bus)) == 2


BOXES = st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6), st.sampled_from(["car", "bus"])), max_size=8)


@settings(max_examples=60, deadline=None)
@given(BOXES, BOXES)
def test_the_difference_is_symmetric_none_to_oneself_and_at_most_all_boxes(one, two):
    first, second = found(*one), found(*two)
    assert difference(first, first) == 0
    assert difference(first, second) == difference(second, first)
    assert abs(len(one) - len(two)) <= difference(first, second) <= len(one) + len(two)


def test_the_frames_that_differ_most_come_first_and_one_in_the_middle_last():
    many = {str(count): found(*[(9 * index, 0, "car") for index in range(count)]) for count in range(9)}
    none = {token: found() for token in many}
    assert most_different({"teacher": many, "student": none}, 2) == [("8", 8), ("7", 7), ("4", 4)]


def test_boxes_below_the_score_are_not_read(tmp_path):
    (tmp_path / "r.json").write_text(results(["a"], [(0, 0, "car", 0.29), (3, 0, "bus", 0.3)]))
    assert read_boxes(tmp_path / "r.json")["a"].names == ("bus",)


def test_a_cloud_is_a_png_with_a_dot_where_the_point_is():
    content = cloud_png(np.array([[49.95, 49.95, 0.0], [-49.95, -49.95, 0.0], [80.0, 0.0, 0.0]]))
    assert content.startswith(b"\x89PNG")
    size = int.from_bytes(content[16:20], "big")
    start = content.index(b"IDAT") + 4
    rows = np.frombuffer(zlib.decompress(content[start:-16]), np.uint8).reshape(size, 1 + 2 * size)
    alpha = rows[:, 2::2]
    assert np.argwhere(alpha > 0).tolist() == [[0, size - 1], [size - 1, 0]], "x to the right, y up"


@settings(max_examples=80, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_inside(low, span):
    high = low + span
    if not high > low:
        return
    marks = svg.ticks(low, high)
    assert 1 <= len(marks) <= 6
    assert all(low - span * 1e-3 <= mark <= high + span * 1e-3 for mark in marks)


def test_axes_that_count_have_no_fractions():
    drawn = svg.histograms({"a": [1.0, 1.0, 2.0]}, x="ms", label="l", bins=4)
    assert ">1</text>" in drawn
    assert ">0.5</text>" not in drawn
    steps = svg.lines({"a": [(20, 0.5)]}, x="step", y="loss", label="l")
    assert ">20</text>" in steps
    assert ">19.8</text>" not in steps
    assert ">0.2</text>" in steps
    assert ">0.5</text>" in svg.lines({"a": [(0.5, 1), (1.5, 2)]}, x="m", y="loss", label="l")


def test_a_histogram_counts_every_sample():
    drawn = svg.histograms({"a": [1.0, 1.0, 2.0], "b": [5.0]}, x="ms", label="l", bins=4)
    assert drawn.count('class="bar c0"') == 2
    assert drawn.count('class="bar c1"') == 1


def test_charts_of_nothing_are_left_out():
    assert svg.lines({"a": []}, x="", y="", label="") == ""
    assert svg.histograms({"a": []}, x="", label="") == ""
    assert svg.stacked({"a": {"pre": 0.0}}, unit="ms", label="") == ""
