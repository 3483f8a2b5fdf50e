"""The journal file of a study, mended where a full disk or a kill cut its last line. No torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kd3d.optional import require

_BLOCK = 1 << 16


def open_journal(path: Path) -> Any:
    """Optuna's journal backend on ``path``.

    Optuna passes over a last line that was cut, but would write the next entry behind it, on the same line, which
    nobody could read again. So whoever holds the lock for writing first takes such a line away: the entry was never
    read, and who wrote it was told that it failed, or died.
    """
    journal = require("optuna.storages.journal", extra="search")

    lock: Any = journal.JournalFileSymlinkLock

    class MendingLock(lock):
        def acquire(self) -> bool:
            acquired = bool(super().acquire())
            try:
                cut_torn_line(path)
            except BaseException:
                self.release()  # or everybody waits half a minute until the lock is taken to be a dead process's
                raise
            return acquired

    return journal.JournalFileBackend(str(path), lock_obj=MendingLock(str(path)))


def cut_torn_line(path: Path) -> int:
    """Take away what stands behind the last line end of ``path``; the number of bytes taken."""
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = _after_last_line(file, size)
        if end < size:
            file.truncate(end)
            os.fsync(file.fileno())
    return size - end


def _after_last_line(file: Any, size: int) -> int:
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return int(start + found + 1)
        end = start
    return 0
