"""``kd3d report``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kd3d.cli.console import emit, say
from kd3d.cli.options import Json


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a compress, demo, search, distill, train or bench.")],
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Named in the page's commands; otherwise what the run recorded.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "--data-root", help="Likewise; boxes from above are drawn on its frames.")
    ] = None,
    json_line: Json = False,
) -> None:
    """Write the page of a run: teacher and student, boxes from above, speed, search, training, machine, commands."""
    from kd3d.report.pareto import write_report
    from kd3d.report.pareto_page import facts

    made = write_report(run, teacher=teacher, data=data)
    if made.record is not None:
        say(facts(made.record))
    for text in made.missing:
        say(f"not in this run: {text}")
    say(f"report: {made.html}")
    files = {key: str(path) for key, path in (("png", made.png), ("svg", made.svg)) if path is not None}
    found = {} if made.record is None else {"students": len(made.record.candidates), "chosen": made.record.chosen}
    emit({"report": str(made.html), **files, **found, "missing": list(made.missing)}, as_json=json_line)
