import json
import math

import numpy as np
import pytest

from kd3d.cli.console import TerminalProgress, emit, finite


def test_the_json_line_is_one_compact_line_and_holds_no_nan(capsys):
    emit({"a": math.nan, "b": [1, np.float32(0.5)], "c": {"d": np.int64(3)}, "e": None}, as_json=True)
    line = capsys.readouterr().out
    assert line == '{"a":null,"b":[1,0.5],"c":{"d":3},"e":null}\n'
    assert json.loads(line)["b"] == [1, 0.5]


def test_without_json_nothing_is_printed(capsys):
    emit({"a": 1}, as_json=False)
    assert capsys.readouterr().out == ""


def test_what_json_cannot_hold_becomes_text():
    from pathlib import Path

    assert finite({"p": Path("a/b")}) == {"p": "a/b"}


def test_where_there_is_no_terminal_progress_is_plain_lines_with_the_time_that_is_left(capsys):
    now = [0.0]
    with TerminalProgress(terminal=False, clock=lambda: now[0]).phase("work") as step:
        for done in range(11):
            step(done, 10)
            now[0] += 3.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "work: 2/10, 6 s, 24 s left"
    assert lines[-1] == "work: 10/10, 30 s, done"
    assert len(lines) == 5
    assert len(lines) == len(set(lines))


def test_on_a_terminal_progress_is_a_bar_with_the_steps(capsys):
    with TerminalProgress(terminal=True).phase("work") as step:
        step(1, 2)
        step(2, 2)
    assert "work" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_goes_to_standard_error(terminal, capsys):
    TerminalProgress(terminal=terminal).line("hello")
    assert capsys.readouterr() == ("", "hello\n")
