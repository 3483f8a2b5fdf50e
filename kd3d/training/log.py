"""``metrics.jsonl``: one line per event, cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from kd3d.runs.atomic import output_errors, parse_json, write_text


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; a last line cut short by a kill is left out. ``[]`` if there is no file."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            value = parse_json(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


class MetricsLog:
    """Appends lines to ``path``; a context manager.

    Args:
        path: ``metrics.jsonl`` of the run.
        keep: lines of later steps are removed first (a resumed run writes them again).
    """

    def __init__(self, path: Path, *, keep: int) -> None:
        self.path = path
        lines = [line for line in read_metrics(path) if _step(line) <= keep]
        write_text(path, "".join(_line(line) for line in lines))
        with output_errors(path):
            self._file = path.open("a")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing writes again what a full disk refused; that must not hide the error that says so.
        with suppress(OSError) if error is not None else output_errors(self.path):
            self._file.close()

    def write(self, value: dict[str, Any]) -> None:
        """Append one line; numbers that are not finite become null."""
        with output_errors(self.path):
            self._file.write(_line(value))
            self._file.flush()

    def sync(self) -> None:
        """Make sure that all lines are on the disk."""
        with output_errors(self.path):
            os.fsync(self._file.fileno())


def _step(line: dict[str, Any]) -> float:
    """Of a line; one whose step is no number is left out like one that was cut short."""
    step = line.get("step", 0)
    return step if isinstance(step, (int, float)) and math.isfinite(step) else math.inf


def _line(value: dict[str, Any]) -> str:
    return json.dumps(_finite(value), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
