"""The ``kd3d`` program: commands by name, and errors as one line with an exit code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from kd3d.cli import (
    bench,
    compress,
    data_check,
    data_frames,
    data_synth,
    demo,
    distill,
    doctor,
    evaluate,
    export_autoware,
    export_onnx,
    export_trt,
    import_model,
    infer,
    info,
    presets,
    report,
    search,
    train,
)
from kd3d.cli.failures import INTERRUPTED, as_failure, as_json
from kd3d.cli.importing import takes_foreign

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
data_app = typer.Typer(no_args_is_help=True, help="Make, check and repack data sets.", rich_markup_mode=None)
export_app = typer.Typer(
    no_args_is_help=True, help="Turn a model into an artefact for the vehicle.", rich_markup_mode=None
)

_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "doctor": doctor.doctor,
    "presets": presets.presets,
    "info": takes_foreign(info.info),
    "import": import_model.import_model,
    "train": train.train,
    "eval": takes_foreign(evaluate.evaluate),
    "infer": takes_foreign(infer.infer),
    "search": takes_foreign(search.search),
    "distill": takes_foreign(distill.distill),
    "compress": takes_foreign(compress.compress),
    "bench": takes_foreign(bench.bench),
    "report": report.report,
}
_DATA: dict[str, Callable[..., None]] = {
    "synth": data_synth.synth,
    "check": data_check.check,
    "frames": data_frames.frames,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
for _name, _command in _DATA.items():
    data_app.command(_name)(_command)
export_app.command("onnx")(takes_foreign(export_onnx.onnx))
export_app.command("trt")(export_trt.trt)
export_app.command("autoware")(export_autoware.autoware)
app.add_typer(data_app, name="data")
app.add_typer(export_app, name="export")


def _version(wanted: bool) -> None:
    if wanted:
        from kd3d import __version__

        sys.stdout.write(f"kd3d {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="On an error, show the traceback (works after a command too).")
    ] = False,
) -> None:
    """Compress 3D object detectors until they fit the vehicle: search, inherit, distil, export, measure."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors become one line on standard error."""
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    try:
        code = int(app(args=rest, standalone_mode=False, prog_name="kd3d") or 0)
        if code == INTERRUPTED:  # typer turns Ctrl-C into this code without a word
            raise KeyboardInterrupt
        return code
    except Exception as error:  # noqa: BLE001  the one place where every error ends
        return _fail(error, debug=debug, json_line="--json" in rest)
    except KeyboardInterrupt as error:
        return _fail(error, debug=debug, json_line="--json" in rest)


def main() -> None:
    """Entry point of the console script."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # `kd3d ... | head`: nobody reads on, so nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(code)


def _fail(error: BaseException, *, debug: bool, json_line: bool) -> int:
    # Recognised by what they offer: typer may carry a copy of click of its own, with classes of its own.
    kind = type(error).__name__
    if kind == "Abort":
        error = KeyboardInterrupt()
    if kind == "NoArgsIsHelpError":
        sys.stderr.write(f"{error.format_message()}\n")  # type: ignore[attr-defined]
        return 2
    if hasattr(error, "format_message"):
        code, text = 2, " ".join(error.format_message().split())
        payload: dict[str, object] = {"error": text, "kind": "UsageError", "exit_code": code}
    else:
        (code, text), payload = as_failure(error), as_json(error)
    if debug and code != INTERRUPTED:
        traceback.print_exception(error)
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    sys.stderr.write(f"{red}error: {text}{plain}\n")
    if json_line:
        sys.stdout.write(json.dumps(payload, separators=(",", ":")) + "\n")
    return code


if __name__ == "__main__":
    main()
