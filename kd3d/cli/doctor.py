"""``kd3d doctor``"""

from __future__ import annotations

from typing import Annotated

import typer

from kd3d.cli.console import emit, say
from kd3d.cli.options import Json


def doctor(
    target: Annotated[
        str | None, typer.Option("--target", help="Only what this vehicle computer needs: cpu, orin, rtx or a100.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with code 5 when something needed is missing.")] = False,
    json_line: Json = False,
) -> None:
    """Say what is installed, what is missing, and the exact line that adds it."""
    from kd3d.runs.doctor import examine

    checks = examine(target)
    ok = all(check.ok for check in checks if check.needed)
    for check in checks:
        mark = "ok     " if check.ok else "MISSING" if check.needed else "absent "
        say(f"{mark}  {check.name:<22} {check.found}" + (f"\n         -> {check.remedy}" if check.remedy else ""))
    emit({"ok": ok, "target": target, "checks": [vars(check) for check in checks]}, as_json=json_line)
    if strict and not ok:
        raise typer.Exit(5)
