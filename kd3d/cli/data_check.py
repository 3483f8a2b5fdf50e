"""``kd3d data check``"""

from __future__ import annotations

from typing import Annotated

import typer

from kd3d.cli.console import TerminalProgress, emit, say
from kd3d.cli.options import Data, Json
from kd3d.errors import DataError


def check(
    data: Data,
    version: Annotated[str | None, typer.Option("--version", help="Of a nuScenes folder with several.")] = None,
    json_line: Json = False,
) -> None:
    """Read every file of a data set and list what is damaged; ends with code 7 if anything is."""
    from kd3d.datasets.check import check_dataset

    with TerminalProgress().phase("check") as step:
        report = check_dataset(data, version=version, progress=step)
    say(f"{data}: {report.format}, {report.frames} frames, {len(report.problems)} problem(s)")
    for problem in report.problems:
        say(f"  {problem}")
    emit(report.to_json(), as_json=json_line)
    if report.problems:
        raise typer.Exit(DataError.exit_code)
