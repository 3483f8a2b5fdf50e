"""The arithmetic of the table of all methods."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    import kd_table

    yield kd_table
    for name in set(sys.modules) - before:
        if str(ROOT / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run(arm, seed, score):
    errors = {"trans_err": 0.3, "vel_err": None}
    scores = [{"mAP": 0.0, "NDS": 0.0}, {"mAP": score, "NDS": 0.5, "tp_errors": errors}]
    made = {"date": "2026-01-01", "commit": "abc", "python": "3"}
    return {"arm": arm, "seed": seed, "scores": scores, "step_s": 0.1 * seed, "environment": made}


def test_a_row_has_means_spread_every_run_and_paired_differences_to_both_controls(module):
    runs = [run("logits", 2, 0.42), run("logits", 1, 0.40), run("inherit", 1, 0.37), run("inherit", 2, 0.40)]
    control, logits = module.table(runs, ("control", "inherit", "logits", "labels"))
    assert (control["row"], control["seeds"]) == ("inherit", [1, 2])
    assert logits["mAP"] == {"mean": pytest.approx(0.41), "sd": pytest.approx(0.0141421, rel=1e-4)}
    assert logits["tp_errors"] == {"trans_err": {"mean": 0.3, "sd": 0.0}}
    made = {"date": "2026-01-01", "commit": "abc"}
    assert logits["runs"][0] == {"seed": 1, "mAP": 40.0, "NDS": 50.0, "step_s": 0.1, "made": made}
    assert logits["versus"]["inherit"]["differences"] == pytest.approx([3.0, 2.0])
    assert logits["versus"]["control"]["differences"] == []


def test_a_single_run_has_no_spread(module):
    (alone,) = module.table([run("control", 3, 0.1)], ("control", "inherit"))
    assert alone["mAP"] == {"mean": 0.1, "sd": None}


def test_the_picture_shows_every_row_and_the_teacher(module, tmp_path):
    runs = [run("inherit", 1, 0.37), run("logits", 1, 0.40), run("logits", 2, 0.41)]
    lines = module.table(runs, ("control", "inherit", "logits"))
    module.draw(lines, 0.5, tmp_path / "deep" / "table.png")
    assert (tmp_path / "deep" / "table.png").read_bytes().startswith(b"\x89PNG")
