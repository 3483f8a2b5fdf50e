"""The study of width, depth and resolution: matched students, its table, its picture."""

import json
import sys
from pathlib import Path

import pytest

from kd3d.compress.search.cost import PillarStats, cost
from kd3d.detectors.presets import preset
from kd3d.errors import DataError
from kd3d.report.study_plot import draw_study
from kd3d.spec import to_json

ROOT = Path(__file__).resolve().parents[3]
TEACHER = preset("world-centerpoint-pillar")


def stats(spec):
    return PillarStats(3000.0, 9000.0)


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import study_width_depth_resolution as module

    yield module
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in ("study_width_depth_resolution", "near", "fitting", "worlds"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def found(study):
    return study.students(TEACHER, stats)


@pytest.fixture(scope="module")
def whole():
    return cost(TEACHER, stats(TEACHER))


def result(student, arm, seed, final):
    scores = [{"mAP": final - 0.02}, {"mAP": final - 0.001}, {"mAP": final}]
    spec = json.loads(json.dumps(to_json(student.spec)))
    return {"arm": arm, "seed": seed, "steps": 8, "axis": student.axis, "spec": spec, "scores": scores}


def test_every_axis_moves_nothing_but_itself(found):
    for student in found:
        if student.spec is None:
            continue
        spec, whole = student.spec, TEACHER
        same = {
            "width": spec.backbone.channels == whole.backbone.channels,
            "depth": spec.backbone.layers == whole.backbone.layers,
            "resolution": spec.grid.cell_m == whole.grid.cell_m,
        }
        assert [axis for axis, kept in same.items() if not kept] == [student.axis]


def test_a_student_is_the_closest_below_its_share(study, found, whole):
    for student in found:
        macs = [price.macs for price, _, _ in study.along(student.axis, TEACHER, stats)]
        below = [value for value in macs if value <= student.share * whole.macs]
        assert student.price.macs == (max(below) if below else min(macs))
        assert (student.spec is None) == (not below)
        assert student.reached == student.price.macs / whole.macs


def test_depth_alone_cannot_halve_the_teacher_and_that_is_said(study, found, whole):
    at = {student.axis: student for student in found if student.share == 0.44}
    assert at["depth"].spec is None
    assert at["depth"].reached > 0.5
    row = study.row(at["depth"], [], whole, 0.6)
    assert (row["reason"], row["cpr"], row["matched"]) == ("the axis gets no smaller", None, False)
    compared = study.axes_compared([], found, "width", "depth")["shares"]
    assert {item["share"]: "reason" in item for item in compared}[0.44]


def test_a_row_has_scores_by_seed_the_paired_difference_and_cpr(study, found, whole):
    student = next(item for item in found if (item.axis, item.share) == ("width", 0.44))
    other = next(item for item in found if (item.axis, item.share) == ("resolution", 0.44))
    runs = [result(student, "kd", seed, 0.5 + seed / 1000) for seed in (1, 2, 3)]
    runs += [result(student, "control", seed, 0.45) for seed in (1, 2, 3)]
    runs += [result(other, "kd", seed, 0.4) for seed in (1, 2, 3)]
    row = study.row(student, runs, whole, 0.6)
    assert {seed: scores[-1] for seed, scores in row["kd"].items()} == {"1": 0.501, "2": 0.502, "3": 0.503}
    assert row["kd_minus_control"]["differences"] == pytest.approx([5.1, 5.2, 5.3])
    assert row["kd_minus_control"]["beats"] is True
    acts = student.price.acts / whole.acts
    assert row["cpr"] == pytest.approx(((1 - acts) + (0.502 / 0.6) ** 2) / 2)
    (at_share,) = [
        item for item in study.axes_compared(runs, found, "width", "resolution")["shares"] if item["share"] == 0.44
    ]
    assert at_share["width_over_resolution"]["mean"] == pytest.approx(10.2)
    assert at_share["resolution_over_width"]["beats"] is False


def test_a_student_without_runs_has_no_cpr(study, found, whole):
    row = study.row(found[0], [], whole, 0.6)
    assert (row["cpr"], row["kd"], row["kd_minus_control"]["beats"]) == (None, {}, None)


def test_a_control_that_still_rises_is_not_beaten(study):
    flat, rising = {seed: [0.5, 0.5] for seed in (1, 2, 3)}, {seed: [0.3, 0.4] for seed in (1, 2, 3)}
    judged = study.paired({1: [0.5, 0.51], 2: [0.5, 0.52], 3: [0.5, 0.53]}, rising)
    assert (judged["control_converged"], judged["beats"]) == (False, False)
    assert study.paired({1: [0.6], 2: [0.6], 3: [0.6]}, flat)["beats"] is True


def test_the_picture_needs_a_training(study, found, whole, tmp_path):
    rows = [study.row(student, [], whole, 0.6) for student in found]
    record = {"students": rows, "teacher": {"mAP": 0.6}, "steps": 8}
    with pytest.raises(
        DataError, match=r"no finished training to draw. Run benchmarks/study_width_depth_resolution.py run"
    ):
        draw_study(record, tmp_path / "study.png")
    runs = [
        result(student, arm, seed, 0.4 + student.share / 10 + seed / 100)
        for student in found
        if student.spec
        for arm in ("kd", "control")
        for seed in (1, 2)
    ]
    rows = [study.row(student, runs, whole, 0.6) for student in found]
    out = draw_study({**record, "students": rows}, tmp_path / "study.png")
    assert out.read_bytes().startswith(b"\x89PNG")
