"""Finished measurements of a table that is not whole yet: a file of JSON lines, one per graph and round."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from kd3d.errors import UsageError
from kd3d.runs.atomic import output_errors, parse_json


class Partial:
    """The file ``<out>.partial``. Its first line is the request; a line cut short by a kill is left out."""

    def __init__(self, path: Path, found: dict[tuple[str, int], list[float]], file: IO[str]) -> None:
        self.path, self._found, self._file = path, found, file

    @classmethod
    def open(cls, out: Path, request: dict[str, Any]) -> Partial:
        """Begin or continue.

        Raises:
            UsageError: the file belongs to another request; says what differs.
            OutputError: it cannot be written.
        """
        path = out.with_name(f"{out.name}.partial")
        request = parse_json(json.dumps(request))
        with output_errors(out):
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = _lines(path)
            if lines and lines[0] != request:
                begun = lines[0] if isinstance(lines[0], dict) else {}
                names = [name for name in request if begun.get(name) != request[name]]
                raise UsageError(
                    f"{path} holds measurements with another {', '.join(names)}. "
                    "Repeat that request to continue it, choose another --out, or delete the file."
                )
            found = {(str(line["key"]), int(line["round"])): line["ms"] for line in lines[1:]}
            # Written anew, so that a torn last line does not run into the next one.
            kept = [request, *lines[1:]]
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            temporary.replace(path)
            return cls(path, found, path.open("a"))

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if not self._found:
            self.remove()  # nothing was measured, so there is nothing to continue

    def has(self, key: str, turn: int) -> bool:
        """Whether a graph was timed in a round."""
        return (key, turn) in self._found

    def add(self, key: str, turn: int, times_ms: list[float]) -> None:
        """Keep the durations of a graph in a round; on the disk when this returns."""
        self._found[key, turn] = times_ms
        with output_errors(self.path):
            self._file.write(
                json.dumps({"key": key, "round": turn, "ms": [round(time, 6) for time in times_ms]}) + "\n"
            )
            self._file.flush()
            os.fsync(self._file.fileno())

    def rounds(self, key: str) -> list[list[float]]:
        """Durations of a graph, round by round."""
        return [times for (name, _), times in sorted(self._found.items()) if name == key]

    def remove(self) -> None:
        """Delete the file: the table is whole."""
        self.path.unlink(missing_ok=True)


def _lines(path: Path) -> list[Any]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(parse_json(line))
        except ValueError:
            break
    return found
