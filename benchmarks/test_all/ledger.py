"""What is finished, item by item, in a file that only grows: a run that is stopped at any moment goes on from it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OUTCOMES = ("passed", "refused", "failed")


@dataclass(frozen=True)
class Entry:
    """One item that was run.

    Args:
        part: which part of the run it belongs to.
        item: its name, unique in the part.
        outcome: ``passed``; ``refused`` where kd3d does not offer what was asked for and said so; or ``failed``.
        seconds: wall clock.
        at: when it ended, UTC.
        commit: of the code that was run.
        command: that repeats this item alone.
        detail: counts and figures of the item.
        problem: what went wrong, empty unless it failed.
    """

    part: str
    item: str
    outcome: str
    seconds: float
    at: str
    commit: str
    command: str
    detail: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


class Ledger:
    """The entries in ``folder``; what was run twice counts as it ended last.

    Args:
        folder: of the state of a run.
        identity: what the entries depend on (seed, counts); another identity needs another folder.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.path = folder / "items.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        begun = folder / "identity.json"
        if not begun.exists():
            begun.write_text(json.dumps(identity))
        if json.loads(begun.read_text()) != identity:
            raise SystemExit(f"{folder} was begun with {begun.read_text()}, not {json.dumps(identity)}. Name another.")
        self.entries: dict[tuple[str, str], Entry] = {}
        for line in self.path.read_bytes().splitlines() if self.path.exists() else []:
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):  # the last line, if a kill cut it
                continue
            self.entries[entry.part, entry.item] = entry

    def finished(self, part: str, item: str) -> bool:
        """Whether an item need not be run again: what failed is."""
        entry = self.entries.get((part, item))
        return entry is not None and entry.outcome != "failed"

    def write(self, entry: Entry) -> None:
        """Append an entry; it is on the disk when this returns."""
        torn = self.path.exists() and self.path.stat().st_size and self.path.read_bytes()[-1:] != b"\n"
        with self.path.open("a") as file:
            file.write(("\n" if torn else "") + json.dumps(asdict(entry)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries[entry.part, entry.item] = entry

    def of(self, part: str) -> list[Entry]:
        """The entries of a part, in the order of their first run."""
        return [entry for (name, _), entry in self.entries.items() if name == part]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder: two runs over one ledger would do everything twice."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SystemExit(f"{folder} is in use by another run.") from error
        yield
