"""Results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_PLAIN_EVERY_S = 5.0


def say(text: str) -> None:
    """A line for the reader, on standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line about what is going on, on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def emit(result: Mapping[str, Any], *, as_json: bool) -> None:
    """The result as one compact JSON object, if asked for; always the last line."""
    if as_json:
        say(json.dumps(finite(result), separators=(",", ":"), allow_nan=False))


def finite(value: Any) -> Any:
    """``value`` with numbers that JSON cannot hold (NaN, infinity) as ``None``, and numpy scalars as Python's."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


class TerminalProgress:
    """Bars with the remaining time on a terminal, and plain lines where there is none."""

    def __init__(self, *, terminal: bool | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self.clock = clock

    def line(self, text: str) -> None:
        """Say something once."""
        note(text)

    @contextmanager
    def phase(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """A phase with steps; yields a callable of steps done and steps in all."""
        if self.terminal:
            yield from self._bar(label)
        else:
            yield self._plain(label)

    def _bar(self, label: str) -> Iterator[Callable[[int, int], None]]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(label, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    def _plain(self, label: str) -> Callable[[int, int], None]:
        began = self.clock()
        last = [began, -1.0]

        def step(done: int, total: int) -> None:
            now = self.clock()
            ended = done >= total
            if (now - last[0] < _PLAIN_EVERY_S and not ended) or (ended and last[1] == done):
                return
            last[:] = [now, done]
            left = (now - began) / done * (total - done) if done else math.nan
            remaining = "done" if ended else f"{left:.0f} s left" if math.isfinite(left) else "starting"
            note(f"{label}: {done}/{total}, {now - began:.0f} s, {remaining}")

        return step
