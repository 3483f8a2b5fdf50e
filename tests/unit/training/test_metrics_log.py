import json
import os
from pathlib import Path

import pytest

from kd3d.errors import OutputError
from kd3d.training.log import MetricsLog, read_metrics


def test_lines_after_the_checkpoint_and_a_torn_line_are_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 2, "val": {"mAP": 0.5}}\n{"step": 3}\n{"step": 4, "lo')
    with MetricsLog(path, keep=2) as log:
        log.write({"step": 3, "loss": 1.0})
        log.sync()
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 2, 3]


def test_a_line_whose_step_is_no_number_is_removed_like_one_that_was_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": "x"}\n{"step": {}}\n{"step": Infinity}\n{"step": 2}\n')
    with MetricsLog(path, keep=9) as log:
        log.write({"step": 3})
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]


def test_a_new_run_begins_with_an_empty_log(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsLog(path, keep=0) as log:
        assert read_metrics(path) == []
        log.write({"step": 1})
    with MetricsLog(path, keep=0):
        assert read_metrics(path) == []


def test_every_line_is_strict_json_and_on_the_disk_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, keep=0) as log:
        log.write({"step": 1, "val": {"mAP": float("nan"), "list": [1.0, float("inf")]}})
        assert json.loads(path.read_text()) == {"step": 1, "val": {"mAP": None, "list": [1.0, None]}}


@pytest.fixture
def full_disk():
    """Give a file's number to /dev/full: what is written from then on is refused, and so is closing after it."""
    with Path("/dev/full").open("w") as full:
        yield lambda file: os.dup2(full.fileno(), file.fileno())


def test_a_full_disk_is_named_though_closing_the_log_fails_too(tmp_path, full_disk):
    path = tmp_path / "metrics.jsonl"
    with (
        pytest.raises(OutputError, match=rf"^{path}: the disk is full\. Free some space"),
        MetricsLog(path, keep=0) as log,
    ):
        full_disk(log._file)
        log.write({"step": 1})


def test_a_full_disk_is_named_when_only_closing_the_log_fails(tmp_path, full_disk):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(OutputError, match=rf"^{path}: the disk is full"), MetricsLog(path, keep=0) as log:
        full_disk(log._file)
        log._file.write("held back until it is closed")
