"""``kd3d report``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kd3d.cli.console import emit, say
from kd3d.cli.options import Json


def report(
    run: Annotated[Path, typer.Argument(help="The folder given to `kd3d search --out` or `kd3d compress --out`.")],
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Named in the page's commands; otherwise what the run recorded.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "--data-root", help="Named in the page's commands, likewise.")
    ] = None,
    json_line: Json = False,
) -> None:
    """Write the page of a run: every student, the front, the budgets, and the command that makes each of them."""
    from kd3d.report.pareto import write_report
    from kd3d.report.pareto_page import facts

    made = write_report(run, teacher=teacher, data=data)
    say(facts(made.record))
    say(f"report: {made.html}")
    files = {"report": str(made.html), "png": str(made.png), "svg": str(made.svg)}
    emit({**files, "students": len(made.record.candidates), "chosen": made.record.chosen}, as_json=json_line)
