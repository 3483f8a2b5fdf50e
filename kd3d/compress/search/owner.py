"""Who works on a trial, and whether that process still lives. No torch."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path
from typing import Any

from typing_extensions import Self

_LIVE: set[str] = set()  # the workers of this process that have not ended


class Owner:
    """One worker, as others see it in the storage; a context manager that lasts as long as it works."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex

    def __enter__(self) -> Self:
        _LIVE.add(self.id)
        return self

    def __exit__(self, *error: object) -> None:
        _LIVE.discard(self.id)

    def to_json(self) -> dict[str, Any]:
        """The worker's name, process and machine."""
        return {"id": self.id, "machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def checked(owner: dict[str, Any]) -> None:
    """Require what ``to_json`` writes.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    for name, kind in (("id", str), ("machine", str), ("pid", int), ("started", str)):
        if not isinstance(owner[name], kind):
            raise ValueError(f"usable {name} of its owner")


def gone(owner: dict[str, Any]) -> bool:
    """Whether a worker is known to have ended; of a worker on another machine nothing is known."""
    if owner.get("machine") != _machine():
        return False
    pid = owner["pid"]
    if pid == os.getpid() and owner["started"] == _started(pid):
        return owner["id"] not in _LIVE
    return not _alive(pid) or owner["started"] != _started(pid)


def _machine() -> str:
    """The machine since it was booted, and within it the container: process numbers mean nothing outside."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        pass
    return "/".join(parts)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _state(pid) != "Z"


def _started(pid: int) -> str:
    """When a process began, where the system tells; numbers of processes are used again."""
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""


def _state(pid: int) -> str:
    fields = _stat(pid)
    return fields[0] if fields else ""


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
