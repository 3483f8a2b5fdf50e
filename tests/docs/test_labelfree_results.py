"""The arithmetic of the benchmarks of frames without labels."""

import sys
from pathlib import Path

import numpy as np
import pytest

from kd3d.geometry.boxes import Boxes3D

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    import kitti_labelfree
    import labelfree_gain
    import real_data_tables

    yield kitti_labelfree, labelfree_gain, real_data_tables
    for name in set(sys.modules) - before:
        if str(ROOT / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def boxes(*rows):
    array = np.zeros((len(rows), 9), np.float32)
    array[:, :2], array[:, 3:6] = [row[:2] for row in rows], 1.0
    return Boxes3D(array, np.array([row[2] for row in rows]), np.array([row[3] for row in rows], np.float32))


def test_boxes_agree_one_to_one_within_half_a_metre_and_within_their_class(benchmarks):
    kitti, _, tables = benchmarks
    theirs = boxes((0, 0, 0, 0.9), (0.3, 0, 0, 0.9), (5, 5, 1, 0.9), (9, 9, 0, 0.2))
    ours = boxes((0.1, 0, 0, 0.9), (5, 5.4, 1, 0.4), (5, 5, 0, 0.9))
    assert len(kitti.confident(theirs)) == 3
    found = kitti.agreement([kitti.confident(theirs)], [ours])
    assert (found["matched"], found["recall"], found["precision"]) == (2, pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert kitti.matches(boxes((0, 0, 0, 1)), boxes((0.51, 0, 0, 1))) == 0
    nothing = kitti.agreement([Boxes3D.empty()], [Boxes3D.empty()])
    assert nothing["recall"] is nothing["precision"] is None
    record = {"agreement": {when: {"train": found, "val": nothing} for when in ("before", "after")}}
    record |= {"score": 0.3, "reach_m": 0.5, "recipe": "labelfree", "seed": 0, "steps": {"teacher": 9, "student": 4}}
    assert "| the 20 it was distilled on | 3 | 66.7 % | 66.7 % | 3 | 66.7 % |" in tables.labelfree(record)[0]
    assert "| 7 others | 0 | none | none | 0 | none |" in tables.labelfree(record)[0]


def test_a_share_of_the_gap_counts_only_over_three_points_and_three_seeds(benchmarks):
    _, gain, _ = benchmarks

    def curves(low, high, ours):
        rows = {"control-part": low, "control-all": high, "ssad": ours}
        return {name: {seed: [0.0, value] for seed, value in enumerate(values)} for name, values in rows.items()}

    found = gain.gap(curves([0.1, 0.1, 0.1], [0.2, 0.2, 0.2], [0.16, 0.15, 0.17]), "ssad")
    assert (found["recovered"], found["half"]) == (pytest.approx(0.6), True)
    assert gain.gap(curves([0.1] * 3, [0.2] * 3, [0.14] * 3), "ssad")["half"] is False
    assert gain.gap(curves([0.1] * 2, [0.2] * 2, [0.16] * 2), "ssad")["half"] is None
    assert gain.gap(curves([0.1] * 3, [0.12] * 3, [0.12] * 3), "ssad")["recovered"] is None
    assert gain.gap(curves([0.1], [0.2], []), "ssad") is None


def test_the_readme_tells_the_share_of_the_gap_and_which_teacher_saw_which_labels(benchmarks):
    from readme_labelfree import TOLD, labelfree_gain

    _, gain, _ = benchmarks
    assert set(TOLD) == set(gain.ROWS)
    results = [
        {
            "arm": name,
            "seed": seed,
            "step_s": 0.1,
            "scores": [{"mAP": score - 0.01, "NDS": 0.2}, {"mAP": score, "NDS": 0.3}],
        }
        for name, score in (("control-part", 0.20), ("control-all", 0.30), ("auto", 0.26))
        for seed in (1, 2, 3)
    ]
    settings = {"student": "small", "teacher": "large", "steps": 8, "teacher_steps": 9, "batch_size": 2}
    record = {
        "rows": gain.table(results),
        "settings": {**settings, "labelled": "10%", "scenes": 60},
        "labelled_frames": {"part": 120, "all": 1200},
        "teachers": {"part": {"mAP": 0.21, "NDS": 0.2}},
        "worlds": {"validation": [3000, "val", 20]},
        "range_m": 25.6,
    }
    said, table = labelfree_gain(record)
    assert "120 of 1200 frames" in said and "21.00 mAP with those of the part" in said and "within 25.6 m" in said
    assert "| `auto`, the teacher's boxes as labels elsewhere | 1, 2, 3 | 26.00 | 0.00 | 30.00 | 60 % |" in table
    assert "| the part's labels | 1, 2, 3 | 20.00 | 0.00 | 30.00 |  |" in table
    assert "within" not in labelfree_gain({**record, "range_m": None})[0]


def test_compared_rows_stand_in_a_table_with_their_verdict(benchmarks):
    from comparing import paired
    from readme_gain import pairs

    def compared(row, *finals):
        ours = {seed: [0.0, 0.30 + final] for seed, final in enumerate(finals)}
        control = {seed: [0.295, 0.30] for seed in ours}
        return {"row": row, "control": "plain", **paired(ours, control)}

    told = [compared("a", 0.02, 0.03, 0.04), compared("b", 0.02, -0.03, 0.04), compared("c", 0.02), compared("d")]
    table = pairs({"compared": told, "rows": [], "teacher": {"mAP": 50.0}})
    lines = table.markdown().splitlines()[2:]
    assert lines[0] == "| `a` | `plain` | +2.00, +3.00, +4.00 | +3.00 | 0.58 |  | 0.50, 0.50, 0.50 | yes |"
    assert lines[1].endswith("| no: too close |") and lines[2].endswith("| too few seeds |") and len(lines) == 3
