"""A latency table survives the disk, and a damaged one says so."""

import json
from dataclasses import replace

import pytest

from kd3d.bench.latency_table import Entry, LatencyTable, MeasuredNetwork, device_name, read_table, write_table
from kd3d.errors import DataError

ENTRY = Entry("level 8x8 stride 2 further 1", "level", 1000, 2000, 300, 1.5, 1.7, 0.02, 30)
TABLE = LatencyTable(
    "Orin, 8 core(s)",
    "onnxruntime-cpu",
    "fp32",
    {"abc": ENTRY, "def": replace(ENTRY, family="up 4x4 stride 2", spread=0.4)},
    0.01,
    {"kd3d": "1"},
    version="1.31",
    threads=2,
    networks=(MeasuredNetwork({"name": "x"}, 100, 5.0, 6.0, 0.01, 30),),
    pillars={"8x8 of 1 m, 100 pillars at most": 100},
)


def test_a_table_survives_the_disk(tmp_path):
    write_table(TABLE, tmp_path / "table.json")
    assert read_table(tmp_path / "table.json") == TABLE


def test_the_title_names_device_runtime_version_precision_and_threads():
    assert TABLE.title == "Orin, 8 core(s), onnxruntime-cpu 1.31, fp32, 2 thread(s)"


def test_families_whose_rounds_differ_are_named():
    assert TABLE.noisy() == ["up 4x4 stride 2"]


def test_this_machine_has_a_name_with_its_cores():
    assert device_name("onnxruntime-cpu").endswith("core(s)")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema": "something"}, "not a latency table. Make one with: kd3d bench --make-table"),
        ({"schema": "kd3d.latency_table/9"}, "of version 9, but this kd3d reads version 1"),
        ({"entries": {}}, "is damaged"),
        ({"entries": {"abc": {"p50_ms": 1}}}, "is damaged"),
        ({"overhead_ms": -1}, "is damaged"),
        ({"device": 3}, "is damaged"),
        ({"networks": None}, "is damaged"),
        ({"entries": {"abc": {**vars(ENTRY), "p50_ms": 0}}}, "is damaged"),
        ({"entries": {"abc": {**vars(ENTRY), "family": [None]}}}, r"is damaged .*family is \[None\]"),
        ({"entries": {"abc": {**vars(ENTRY), "macs": "9"}}}, "is damaged .*macs is '9'"),
        ({"entries": {"abc": {**vars(ENTRY), "p90_ms": float("nan")}}}, "is damaged .*p90_ms is nan"),
        ({"networks": [{**vars(TABLE.networks[0]), "spec": 3}]}, "is damaged .*spec is 3"),
        ({"pillars": {"8x8": float("inf")}}, "is damaged"),
    ],
)
def test_a_file_that_is_no_table_of_this_version_is_refused(tmp_path, change, text):
    path = tmp_path / "table.json"
    write_table(TABLE, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=text):
        read_table(path)


def test_a_list_is_no_table(tmp_path):
    (tmp_path / "table.json").write_text("[]")
    with pytest.raises(DataError, match="not a latency table"):
        read_table(tmp_path / "table.json")
