import math
from types import SimpleNamespace

import pytest

from kd3d.report.table import (
    DASH,
    Table,
    bench_table,
    comparison,
    cost_table,
    kitti_table,
    metrics_table,
    number,
    show,
    students_table,
    waymo_table,
)


@pytest.mark.parametrize(
    ("value", "form", "scale", "text"),
    [
        (0.12345, "{:.3f}", 1, "0.123"),
        (2.5e9, "{:.3f} G", 1e-9, "2.500 G"),
        (0, "{:.1f}", 1, "0.0"),
        (None, "{:.1f}", 1, "-"),
        (math.nan, "{:.1f}", 1, "-"),
    ],
)
def test_a_number_is_formatted_and_a_missing_one_is_a_dash(value, form, scale, text):
    assert number(value, form, scale) == text


def test_markdown_has_a_rule_with_numbers_to_the_right():
    table = Table("t", ("model", "mAP"), [("a", "0.5"), ("b", "-")])
    assert table.markdown() == "| model | mAP |\n| --- | ---: |\n| a | 0.5 |\n| b | - |"


def test_a_comparison_shows_what_any_model_has_and_never_guesses():
    table = comparison(
        "", {"teacher": {"mAP": 0.5, "macs": 4e9, "fps": None}, "student": {"mAP": math.nan, "params": 9}}
    )
    assert table.columns == ("model", "mAP", "MACs", "parameters", "FPS")
    assert table.rows == [("teacher", "0.500", "4.000 G", "-", "-"), ("student", "-", "-", "9", "-")]


def test_models_with_other_stages_share_a_bench_table():
    found = {"e2e_ms": {"p50": 3}, "fps": 9}
    one = {"name": "a", "stages": {"pre": {"p50": 1}, "encoder": {"p50": 2}}, **found}
    two = {"name": "b", "stages": {"pre": {"p50": 1}, "network": {"p50": 4}}, **found}
    table = bench_table({"models": [one, two]})
    assert table.columns[6:9] == ("pre", "encoder", "network")
    assert [row[6:9] for row in table.rows] == [("1.00", "2.00", DASH), ("1.00", DASH, "4.00")]


def test_a_bench_table_names_the_stages_of_the_record():
    e2e = {"p50": 10.0, "p90": 12.345, "p99": 20, "mean": 11, "std": 1}
    record = {"models": [{"name": "m", "e2e_ms": e2e, "fps": 99.96, "stages": {"pre": {"p50": 1.0}, "network": {}}}]}
    table = bench_table(record)
    assert table.columns[-3:] == ("pre", "network", "FPS")
    assert table.rows == [("m", "10.00", "12.35", "20.00", "11.00", "1.00", "1.00", "-", "100.0")]


def test_metrics_list_the_headline_the_classes_and_the_mean_errors():
    table = metrics_table(
        {"mAP": 0.5, "NDS": None, "per_class": {"car": 0.75}, "tp_errors": {"trans_err": 0.25, "attr_err": math.nan}}
    )
    assert table.rows == [("mAP", "0.5000"), ("NDS", "-"), ("car", "0.7500"), ("mATE", "0.2500"), ("mAAE", "-")]


def test_kitti_shows_per_cent_with_the_number_of_labels():
    levels = {"easy": 0.5, "moderate": None, "hard": 1.0}
    extras = {
        "objects": {"Car": {"easy": 1, "moderate": 0, "hard": 3}},
        "ap_r40": {"bev": {"Car": levels}, "3d": {"Car": levels}},
    }
    assert kitti_table(extras).rows[0] == ("Car, BEV", "50.0 (1)", "- (0)", "100.0 (3)")
    assert kitti_table(extras).rows[1][0] == "Car, 3D"


def test_costs_end_in_their_sum():
    stage = SimpleNamespace(name="encoder", params=1234, macs=10, macs_thop=11, acts=12)
    cost = SimpleNamespace(stages=[stage], params=5678, macs=1e6, macs_thop=1, acts=2)
    assert cost_table("t", cost).rows == [
        ("encoder", "1,234", "10", "11", "12"),
        ("total", "5,678", "1,000,000", "1", "2"),
    ]


def test_students_are_listed_in_the_order_given():
    rows = students_table("t", [{"name": "b", "score": 0.9, "macs": 1e9, "params": 10}, {"macs": None}]).rows
    assert rows == [("b", "0.9000", "1.000 G", "10"), ("-", "-", "-", "-")]


def test_students_have_a_latency_where_one_was_predicted():
    table = students_table("t", [{"name": "a", "prior": 0.5, "latency_ms": 12.345}, {"name": "b", "prior": 0.4}])
    assert table.columns == ("student", "prior", "MACs", "parameters", "latency")
    assert [row[-1] for row in table.rows] == ["12.35 ms", "-"]
    assert students_table("t", [{"name": "a", "latency_ms": None}]).columns[-1] == "parameters"


def test_a_table_is_shown_whole_and_as_text_where_there_is_no_terminal(capsys):
    show(Table("a [bold] title", ("model", "value"), [("[red]name[/red]", "1.0"), ("x" * 60, "2")]))
    printed = capsys.readouterr().out
    assert "a [bold] title" in printed
    assert "[red]name[/red]" in printed
    assert "x" * 60 in printed
    assert "\x1b" not in printed


def test_waymos_precision_stands_at_both_levels_with_its_mean():
    value = {"LEVEL_1": {"AP": 0.75, "APH": 0.5}, "LEVEL_2": {"AP": 0.25, "APH": None}}
    means = {level: {"mAP": 0.5, "mAPH": 0.125} for level in value}
    extras = {"waymo_ap": {"Vehicle": value}, "levels": means, "objects": {"Vehicle": {"LEVEL_1": 3, "LEVEL_2": 9}}}
    table = waymo_table(extras)
    assert table.columns[1:] == ("LEVEL_1 AP", "LEVEL_1 APH", "LEVEL_2 AP", "LEVEL_2 APH")
    assert table.rows == [
        ("Vehicle", "75.00 (3)", "50.00", "25.00 (9)", "-"),
        ("mean", "50.00", "12.50", "50.00", "12.50"),
    ]
