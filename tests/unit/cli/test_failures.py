import errno
import json

import pytest

from kd3d.cli import main as program
from kd3d.cli.failures import as_failure, as_json
from kd3d.errors import (
    BackendError,
    BudgetError,
    CheckpointError,
    DataError,
    GateError,
    GraphError,
    Kd3dError,
    OutputError,
    PrecisionError,
    UsageError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Kd3dError("x"), 1),
        (UsageError("x"), 2),
        (BudgetError("x"), 3),
        (GateError("x", gate="parity"), 4),
        (BackendError("x"), 5),
        (PrecisionError("x"), 6),
        (DataError("x"), 7),
        (CheckpointError("x"), 7),
        (GraphError("x"), 8),
        (OutputError("x"), 9),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device", "out/file"), 9),
        (MemoryError(), 1),
        (ValueError("x"), 1),
    ],
)
def test_every_situation_has_its_exit_code(error, code):
    assert as_failure(error)[0] == code


def test_a_full_disk_is_found_behind_a_librarys_own_error():
    error = RuntimeError("unable to write")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "weights")
    code, text = as_failure(error)
    assert code == 9
    assert "the disk is full. Free some space" in text
    assert as_failure(RuntimeError("I/O error: No space left on device (os error 28)"))[0] == 9


def test_an_error_of_several_lines_becomes_one():
    assert as_failure(DataError("a\n  b\tc"))[1] == "a b c"


def test_an_unexpected_error_says_how_to_see_more():
    assert as_failure(ZeroDivisionError("division by zero"))[1] == (
        "ZeroDivisionError: division by zero (unexpected; add --debug to see where)"
    )


def test_out_of_memory_of_torch_says_what_to_do():
    import torch

    assert "smaller --batch-size" in as_failure(torch.OutOfMemoryError("CUDA out of memory"))[1]


def test_the_json_of_a_failed_gate_names_it():
    assert as_json(GateError("boxes differ", gate="parity"))["gate"] == "parity"


@pytest.fixture
def failing(monkeypatch):
    """Make `kd3d presets` raise what the test wants."""

    def install(error):
        def presets(**options):
            raise error

        monkeypatch.setattr("kd3d.detectors.presets.PRESETS", property(presets), raising=True)
        monkeypatch.setattr(program, "app", lambda **options: presets())

    return install


def test_an_error_is_one_line_on_standard_error_and_nothing_else(failing, capsys):
    failing(DataError("points.bin: broken"))
    assert program.run(["presets"]) == 7
    assert capsys.readouterr() == ("", "error: points.bin: broken\n")


def test_with_json_the_last_line_of_output_says_it_too(failing, capsys):
    failing(GateError("boxes differ", gate="parity"))
    assert program.run(["presets", "--json"]) == 4
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "error": "boxes differ",
        "kind": "GateError",
        "exit_code": 4,
        "gate": "parity",
    }


@pytest.mark.parametrize("arguments", [["--debug", "presets"], ["presets", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(failing, capsys, arguments):
    failing(RuntimeError("boom"))
    assert program.run(arguments) == 1
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed
    assert printed.splitlines()[-1] == "error: RuntimeError: boom (unexpected; add --debug to see where)"


def test_ctrl_c_is_130_without_a_traceback(failing, capsys):
    failing(KeyboardInterrupt())
    assert program.run(["presets", "--debug"]) == 130
    assert capsys.readouterr().err.startswith("error: interrupted.")


def test_an_unknown_command_and_an_unknown_option_are_usage_errors(capsys):
    assert program.run(["no-such-command"]) == 2
    assert program.run(["presets", "--no-such-option"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)


def test_the_version_is_printed(capsys):
    from kd3d import __version__

    assert program.run(["--version"]) == 0
    assert capsys.readouterr().out == f"kd3d {__version__}\n"
