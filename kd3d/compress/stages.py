"""Finished work that a resumed run reuses, and what a run tells while it works."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.errors import UsageError
from kd3d.runs.atomic import read_json, write_json
from kd3d.training.state import differences

_NAMED = 4  # differences that a refusal spells out


@dataclass(frozen=True)
class StageUpdate:
    """Progress of a long run.

    Args:
        stage: what is being done: ``search``, ``candidate 1/3``, ``distil``, ``control``, ``evaluate student`` ...
        done: units done.
        total: units of the stage.
        eta_s: estimate of the stage's remaining time, if known.
        note: one line for the log, or empty.
    """

    stage: str
    done: int
    total: int
    eta_s: float | None = None
    note: str = ""


Progress = Callable[[StageUpdate], None]


def silent(update: StageUpdate) -> None:
    """Progress that nobody watches."""


def begin(run: Path, request: dict[str, Any]) -> None:
    """Note what ``run`` was asked for, or check that it was asked for the same before.

    Raises:
        UsageError: the folder holds a run with another request; names what differs.
        OutputError: the folder is not writable.
    """
    path = run / "request.json"
    request = json.loads(json.dumps(request))
    if not path.exists():
        write_json(path, request)
        return
    refuse_changes(
        str(run),
        read_json(path),
        request,
        "Repeat that run's settings and data to resume it, or choose another output folder.",
    )


def refuse_changes(where: str, begun: dict[str, Any], asked: dict[str, Any], remedy: str) -> None:
    """Require that ``asked`` is what ``where`` was begun with.

    Raises:
        UsageError: names what differs.
    """
    changed = differences(begun, asked)
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        raise UsageError(
            f"{where} holds a run that was begun differently: {'; '.join(changed[:_NAMED])}{more}. {remedy}"
        )


def once(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON object stored in ``path``; if there is none, do ``work`` and store what it returns."""
    if path.exists():
        found: dict[str, Any] = read_json(path)
        return found
    result = work()
    write_json(path, result)
    return result
