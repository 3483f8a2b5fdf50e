"""The figures of README and docs are those of the recorded files; what was not recorded is said to be absent."""

import json
import sys
from pathlib import Path
from statistics import fmean, variance

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = "a\n<!-- results:begin -->\nold\n<!-- results:end -->\nc\n"
MACHINE = {"cpu": "Testor 9", "cores": 2, "gpus": []}
ENVIRONMENT = {
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "0123456789abcdef-dirty",
    "machine": MACHINE,
    "command": ["x.py"],
}
MODEL = {
    "mAP": 0.5,
    "NDS": 0.6,
    "macs": 2e9,
    "params": 1000,
    "size_mb": 3.0,
    "latency_ms": {"p50": 10.0, "p99": 20.0},
    "fps": 90.0,
}


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import readme_table

    yield readme_table
    for name in (
        "readme_table",
        "readme_glance",
        "readme_sections",
        "readme_blend",
        "readme_gain",
        "readme_import",
        "readme_kd_table",
        "readme_labelfree",
        "readme_search",
        "readme_test_all",
        "comparing",
        "readme_voxel",
    ):
        sys.modules.pop(name, None)


@pytest.fixture
def record(tmp_path):
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)

    def write(name, value):
        (folder / f"{name}.json").write_text(json.dumps(value))

    return write


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_the_pages_say_what_the_recorded_files_say(table, name):
    text = (ROOT / name).read_text()
    assert table.rendered(text, ROOT, table.PAGES[name]) == text, "run benchmarks/readme_table.py"


def test_without_any_record_every_section_is_said_to_be_absent(table, tmp_path):
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert text.count("Not recorded yet") == sum(map(len, table.GROUPS.values()))
    for script in ("kd_gain.py", "search_gain.py"):  # each makes two records
        assert text.count(f"Not recorded yet (`benchmarks/{script}`)") == 2
    assert "old" not in text
    assert text.startswith("a\n")
    assert text.endswith("c\n")


def test_teacher_and_student_stand_beside_each_other(table, record, tmp_path):
    student = {**MODEL, "mAP": 0.41, "latency_ms": {"p50": 4.0, "p99": None}}
    record("student_speed", {"teacher": MODEL, "student": student, "ratio_p50": 2.5, "environment": ENVIRONMENT})
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert "| teacher | 0.500 | 0.600 | 2.000 G | 1,000 | 3.00 MB | 10.0 ms | 20.0 ms | 90.0 |" in text
    assert "| student | 0.410 | 0.600 | 2.000 G | 1,000 | 3.00 MB | 4.0 ms | - | 90.0 |" in text
    assert "2.50 times as fast" in text
    assert "Testor 9, 2 cores; 2026-01-02; commit 0123456789-dirty; `x.py`" in text


def test_a_run_of_test_all_is_told_part_by_part_with_what_failed(table, record, tmp_path):
    part = {"passed": 99, "refused": 0, "failed": 1, "left": 0, "seconds": 600}
    failure = {
        "part": "kills",
        "item": "train 3",
        "command": "python benchmarks/test_all/kills.py train 3",
        "problem": "x",
    }
    mutations = {**part, "failed": 0, "inputs": 10000, "codes": {"0": 4000, "7": 6000}}
    found = {"parts": {"kills": part, "mutations": mutations}, "failures": [failure], "seed": 5}
    record("test_all", {**found, "environment": ENVIRONMENT})
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert "| kills | commands killed at a random moment and given again | 99 | 0 | 1 | 10 |" in text
    assert "Of 10,000 damaged inputs 4,000 were read as something sane" in text
    assert "Failed: kills train 3 (`python benchmarks/test_all/kills.py train 3`)." in text


def test_8_bits_stand_beside_fp32_with_the_bars_that_were_missed(table, record, tmp_path):
    fp32 = {"mAP": 0.5, "NDS": 0.6, "size_mb": 9.0, "int8": None, "network_ms_p50": 100.0, "latency_ms": {"p50": 120.0}}
    eight = {**fp32, "NDS": 0.59, "int8": {"layers": 18, "weighted": 28}, "network_ms_p50": 50.0}
    unmeasured = {key: value for key, value in eight.items() if not key.endswith(("p50", "ms"))}
    found = {
        "fp32": fp32,
        "int8_cpu": eight,
        "int8_tensorrt": unmeasured,
        "validation_frames": 400,
        "calibration": {"method": "mse", "frames": 16},
        "speed": {"network": 2.0, "end_to_end": 1.4},
        "bars": {"int8_cpu_nds_within_0.5": False, "cpu_speed_1.5_network": True},
        "environment": ENVIRONMENT,
    }
    record("int8", found)
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert "| int8, cpu | 18 of 28 | 50.00 | 59.00 | 9.0 | 50.0 | 120.0 |" in text
    assert "| int8, tensorrt | 18 of 28 | 50.00 | 59.00 | 9.0 | - | - |" in text
    assert "is 2.00 times as fast, end to end 1.40 times" in text
    assert "Bars missed: int8 cpu nds within 0.5." in text


def test_float16_is_told_with_the_boxes_that_needed_more_and_the_bars_that_were_missed(table, record, tmp_path):
    one = {"mAP": 0.5, "NDS": 0.6}
    parity = {"frames": 9, "boxes": 70, "matched": 60, "ties": 10, "short_headings": 7, "peak": 48.26}
    bars = {"fp16_rounded_nds_within_0.1": False, "boxes_matched": True}
    forms = {"fp32": one, "fp16_onnxruntime": one, "fp16_rounded": {**one, "NDS": 0.58}}
    record("precision", {**forms, "validation_frames": 400, "parity": parity, "bars": bars, "environment": ENVIRONMENT})
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert "| fp16, rounded | 50.00 | 58.00 |" in text
    assert "60 of 70 boxes above 0.3 equal torch's, 3 lost a tie of scores, 7 differ in a heading" in text
    assert "The largest float16 value is 48.3." in text
    assert "Bars missed: fp16 rounded nds within 0.1." in text


def three_seeds(differences, *, beats):
    runs = [
        {"arm": arm, "seed": seed, "steps": 8, "scores": [{"mAP": 0.1, "NDS": 0.1}, {"mAP": value, "NDS": 0.3}]}
        for seed in (1, 2, 3)
        for arm, value in (("kd", 0.25), ("control", 0.2))
    ]
    item = {"arm": "kd", "differences": differences, "mean": 1.0, "standard_error": 0.3, "control_converged": True}
    return {
        "student": "small",
        "macs_share": 0.24,
        "teacher": {"mAP": 0.6, "NDS": 0.5},
        "worlds": {"validation_frames": 400},
        "runs": runs,
        "comparisons": [{**item, "beats": beats}],
        "environment": ENVIRONMENT,
    }


def test_every_seed_is_published_whatever_it_says(table, record, tmp_path):
    record("kd_three_seeds", three_seeds([2.0, -1.0, 2.0], beats=False))
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert text.count("| control |") == 3
    assert text.count("| kd |") == 3
    assert "| kd | 2 | 8 | 25.00 | 30.00 |" in text
    assert "+2.00, -1.00, +2.00" in text
    assert "standard error 0.30: beats: no: too close." in text


def test_two_seeds_are_too_few_to_judge(table, record, tmp_path):
    made = three_seeds([2.0], beats=None)
    made["comparisons"] = [{"arm": "kd", "differences": [2.0], "beats": None}]
    record("kd_three_seeds", made)
    assert "Too few seeds to judge" in table.rendered(PAGE, tmp_path, ("results",))


def test_a_gate_without_the_trained_students_says_so(table, record, tmp_path):
    record(
        "world_gate",
        {
            "frames": 400,
            "teacher": {"mAP": 0.6, "NDS": 0.5},
            "student_no_kd": None,
            "clustering": {"mAP": 0.05, "NDS": 0.1},
            "gate": {"teacher_45_to_75": True, "student_5_below": None, "clustering_under_15": False},
        },
    )
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert "| student without the teacher (mean of the controls) | not recorded | not recorded |" in text
    assert "student at least 5 mAP below it: not recorded; clustering under 15 mAP: no." in text
    assert "Machine, date and commit were not recorded." in text


def test_kitti_shows_accuracy_parity_and_speed_of_both_models(table, record, tmp_path):
    scores = {"train": {"ap_r40": {"bev": {"Car": {"moderate": 0.9}}, "3d": {"Car": {"moderate": 0.8}}}}}
    model = {"macs": 3e9, "params": 5, "scores": scores, "parity_on_27_real_frames": {"matched": 7, "boxes": 8}}
    record(
        "kitti_overfit",
        {
            "preset": "kitti-small",
            "models": {"teacher": model, "student": model},
            "bench": {"models": [{"name": "teacher", "e2e_ms": {"p50": 12.0}}]},
            "environment": ENVIRONMENT,
        },
    )
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert "| teacher | 3.000 G | 5 | 90.00 | 80.00 | 7 of 8 | 12.0 ms |" in text
    assert "| student | 3.000 G | 5 | 90.00 | 80.00 | 7 of 8 | - |" in text


def test_a_page_without_markers_is_an_error(table, tmp_path):
    with pytest.raises(SystemExit, match=r"The page has no <!-- results:begin -->"):
        table.rendered("no markers", tmp_path, ("results",))


def test_the_search_is_told_with_its_verdicts(table, record, tmp_path):
    rows = [
        {"name": name, "seed": seed, "steps": 100 - place, "mAP": [1.0, score + seed]}
        for seed in (1, 2, 3)
        for place, (name, score) in enumerate(
            [("searched", 30.0), ("uniform", 33.0), ("random-0", 20), ("random-1", 24)]
        )
    ]
    facts = {"mean": 8.0, "standard_error": 0.5, "control_gain_last_quarter": [0.1, 0.2, 0.3]}
    found = {
        "rows": rows,
        "budget": 0.25,
        "range_m": 25.6,
        "max_range_m": 25.0,
        "teacher": {"mAP": 51.2},
        "searched_over_random_mean": {**facts, "differences": [8.0, 8.0, 8.0], "beats": True},
        "searched_over_uniform": {**facts, "differences": [-3.0, -3.0, -3.0], "beats": False},
        "kendall_tau": {"candidates": 24, "60": {"all": 0.25}, "120": {"all": 0.5}},
        "environment": ENVIRONMENT,
    }
    record("search_gain", found)
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert "| searched | 2 | 1 | 100 | 32.00 |" in text
    assert "| random | 3 | 2 | 98 | 25.00 |" in text
    assert (
        "the mean of the random ones, mAP points by seed: +8.00, +8.00, +8.00. Mean +8.00, standard error 0.50" in text
    )
    assert "gained +0.10, +0.20, +0.30 in its last quarter. Beats: yes." in text
    assert "Beats: no: worse." in text
    assert "24 random students: +0.25 after 60 steps, +0.50 after 120 steps." in text
    one, nothing = ({"differences": values, "beats": None} for values in ([2.0], []))
    six = {**found, "of": "a teacher with six heads", "kendall_tau": {"candidates": 0}}
    record("search_gain_six_tasks", {**six, "searched_over_uniform": one, "searched_over_random_mean": nothing})
    text = table.rendered(PAGE, tmp_path, ("results",)).partition("### A search where")[2].partition("\n### ")[0]
    assert "25 % of the MACs of a teacher with six heads within 25.6 m" in text
    assert "Searched less uniform widths, mAP points by seed: +2.00. Too few seeds" in text
    assert "random ones" not in text and "Kendall" not in text


def test_recipes_are_told_by_seed_with_the_part_of_the_gap_that_they_close(table, record, tmp_path):
    rows = [
        {"row": f"width-taylor-{taught}", "seed": seed, "macs_share": 0.25, "mAP": [0.0, score]}
        for taught, scores in (("plain", {2: 42.0, 1: 40.0}), ("kd", {1: 44.0}))
        for seed, score in scores.items()
    ]
    pair = {
        "row": "width-taylor-kd",
        "control": "width-taylor-plain",
        "seeds": [1],
        "differences": [4.0],
        "beats": None,
    }
    setting = {"range_m": 25.6, "max_range_m": 25.0, "steps": 1600, "batch": 2}
    found = {"rows": rows, "compared": [pair, {**pair, "control": "width-taylor-auto"}], "setting": setting}
    record("kd_gain", {**found, "teacher": {"mAP": 50.0}, "environment": ENVIRONMENT})
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert "| width | 25.0 % | taylor | labels alone | 1, 2 | 40.00, 42.00 | 41.00 |" in text
    assert "| `width-taylor-kd` | `width-taylor-plain` | +4.00 |  |  | 40 % |  | too few seeds |" in text
    assert "| `width-taylor-kd` | `width-taylor-auto` | +4.00 |  |  |  |  | too few seeds |" in text


def test_every_method_is_told_beside_the_student_that_inherits(table, record, tmp_path):
    ahead = {"differences": [1.0, 2.0, 3.0], "beats": True, "mean": 2.0, "standard_error": 0.5}
    line = {
        "row": "logits", "seeds": [1, 2, 3], "mAP": {"mean": 0.4, "sd": 0.01}, "NDS": {"mean": 0.5, "sd": 0.01},
        "tp_errors": {"trans_err": {"mean": 0.25, "sd": 0.0}}, "step_s": {"mean": 0.12, "sd": 0.0},
        "versus": {"inherit": ahead},
    }  # fmt: skip
    alone = {**line, "row": "inherit", "seeds": [1], "mAP": {"mean": 0.3, "sd": None}, "tp_errors": {}}
    found = {"student": "some", "steps": 800, "teacher": {"mAP": 0.5}, "worlds": {"validation_frames": 400}}
    record("kd_table", {**found, "rows": [alone, line], "environment": ENVIRONMENT})
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert "| row | seeds | mAP | sd | NDS | mATE | ms/step | over `inherit`, by seed | mean | SE |" in text
    assert "| `inherit` | 1 | 30.00 |  | 50.00 |  | 120 |  |  |  |" in text
    assert "| `logits` | 1, 2, 3 | 40.00 | 1.00 | 50.00 | 0.250 | 120 | +1.00, +2.00, +3.00 | +2.00 | 0.50 |" in text
    assert "Student `some`, 800 steps, 400 validation frames; teacher mAP 50.00." in text


def test_costs_and_predictions_are_told_by_teacher(table, record, tmp_path):
    cost = {"teacher": "big", "seconds": 1.64, "microseconds_each": 164.2}
    record("cost_speed", {"candidates": 10000, "teachers": [cost], "environment": ENVIRONMENT})
    errors = {"error_median": 0.015, "error_max": 0.2, "rank_correlation": 0.99, "rank_correlation_of_macs": 0.9}
    settings = {"cpu_clock": True, "threads": 1, "provider": "cpu", "seed": 11}
    teachers = {"big": {**errors, "students": [{}] * 30}}
    record("latency_prediction", {"settings": settings, "teachers": teachers, "environment": ENVIRONMENT})
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert "| big | 10,000 | 1.6 | 164 |" in text
    assert "| big | 30 | 1.5 % | 20.0 % | 0.990 | 0.900 |" in text
    assert "ONNX Runtime on the CPU, 1 thread(s), processor time, seed 11." in text


def test_sparse_convolutions_and_voxels_are_told_row_by_row(table, tmp_path, record):
    row = {
        "channels": 16, "ms": {"ours": 80.4, "spconv": 100.2}, "ratio": 0.802, "ratio_layers": 1.25,
        "difference": {"value": 2e-6, "to_features": 3e-6, "to_weight": 1e-6},
    }  # fmt: skip
    layouts = {"clumped": {"voxels": 60000, "rows": [row]}}
    record("sparse_conv", {"layers": 4, "layouts": layouts, "environment": ENVIRONMENT})
    cloud = {"points": 30000, "sites": [12345, 9], "voxels_ms": 1.2, "tables_ms": 5.0, "network_ms": 99.9}
    speed = {"preset": "some-voxels", "threads": 1, "difference_to_torch": 1.5e-6, "environment": ENVIRONMENT}
    record("voxel_speed", {**speed, "clouds": [{**cloud, "tables_share": 0.05}]})
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert "60,000, clumped" in text and "0.80" in text and "1.25" in text and "3.0e-06" in text
    assert "12,345" in text and "5.0 %" in text and "`some-voxels`" in text and "1.5e-06" in text


def test_a_teacher_of_another_framework_is_told_with_its_command(table, record, tmp_path):
    one = {"mAP": 0.4, "NDS": 0.3, "macs": 2e9, "latency_ms_p50": 10.0, "parity": {"matched": 7, "boxes": 8}}
    score = {"mAP": 0.45, "NDS": 0.4}
    found = {"native": score, "imported": score, "teacher": one, "student": one, "speedup_p50": 1.0, "macs_share": 0.25}
    maps, frames = {"largest_relative_difference": 7e-7}, {"validation": 40}
    about = {"command": "kd3d compress --bench", "compress_minutes": 3.0, "environment": ENVIRONMENT}
    record("imported_teacher", {**found, **about, "maps": maps, "frames": frames})
    text = table.rendered(PAGE, tmp_path, ("results",))
    assert "| teacher | 40.00 | 30.00 | 2.000 G | 10.0 ms | 7 of 8 |" in text
    assert "mAP 45.00, as itself 45.00; head maps differ by 7.0e-07" in text
    assert "`kd3d compress --bench`, took 3.0 minutes: the student has 25.0 % of the MACs" in text


GLANCE = "<!-- glance:begin -->\n<!-- glance:end -->\n"


def test_in_brief_a_question_without_a_record_is_said_to_be_open(table, tmp_path):
    text = table.rendered(GLANCE, tmp_path, ("glance",))
    assert text.count("Not recorded yet ([more](docs/results.md#") == text.count("\n") - 4


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"beats": True, "mean": 3.0}, "+3.0 ± 0.5 (beats)"),
        ({"beats": False, "mean": -2.0, "differences": [-1.0, -3.0, -2.0]}, "-2.0 ± 0.5 (worse)"),
        ({"beats": False, "mean": 2.0, "differences": [-1.0, 5.0, 2.0]}, "+2.0 ± 0.5 (too close)"),
        ({"beats": False, "mean": 0.6}, "+0.6 ± 0.5 (too close)"),
        (
            {"beats": False, "mean": 3.0, "control_gain_last_quarter": [0.1, 1.0, 0.2]},
            "+3.0 ± 0.5 (beats on average)",
        ),
        (
            {"beats": False, "mean": 3.0, "control_gain_last_quarter": [1.1, 1.0, 0.9]},
            "+3.0 ± 0.5 (control rising)",
        ),
        ({"beats": None, "differences": [2.0, 1.0]}, "+1.5 (2 of 3 seeds)"),
    ],
)
def test_in_brief_a_difference_is_told_with_its_verdict(table, record, tmp_path, facts, said):
    one = {"standard_error": 0.5, "control_gain_last_quarter": [0.1, 0.2, 0.3], "differences": [1.0, 1.0, 1.0], **facts}
    nothing = {"differences": [], "beats": None}
    record("search_gain", {"searched_over_uniform": one, "searched_over_random_mean": nothing})
    rows = [{"row": "width-taylor-kd", "control": f"width-taylor-{name}", **one} for name in ("plain", "auto")]
    record("kd_gain_long", {"compared": [*rows, {"row": "a-b-c", "control": "a-b-plain", **nothing}]})
    text = table.rendered(GLANCE, tmp_path, ("glance",))
    assert f"| {said} mAP over uniform widths, its trials paid for ([more](docs/results.md#does-the" in text
    assert f"| width, `sparsekd`: {said} ([more](docs/results.md#" in text


def test_in_brief_labels_are_counted_against_the_gap(table, record, tmp_path):
    lines = [
        {"row": row, "seeds": seeds, "gap": {"recovered": 0.5}} for row, seeds in (("ssad", [1, 2, 3]), ("auto", [1]))
    ]
    record("labelfree_gain", {"rows": [*lines, {"row": "control-part", "seeds": [1], "gap": None}]})
    text = table.rendered(GLANCE, tmp_path, ("glance",))
    assert "| `ssad` recovers 50 %; `auto` recovers 50 % (1 of 3 seeds) of what" in text


def test_the_scatter_of_a_last_gain_that_the_rule_quotes_is_that_of_the_record():
    rows = {}
    for row in json.loads((ROOT / "benchmarks" / "results" / "kd_gain.json").read_text())["rows"]:
        rows.setdefault(row["row"], []).append(row["mAP"][-1] - row["mAP"][-2])
    pooled = fmean(variance(gains) for gains in rows.values()) ** 0.5
    quoted = f"scatters by {pooled:.1f} mAP (pooled standard\n   deviation of {len(rows)} rows of `kd_gain.py`)"
    assert quoted in (ROOT / "CONTRIBUTING.md").read_text()
