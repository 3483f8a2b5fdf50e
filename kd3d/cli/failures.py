"""What a failed command says and with which code it ends."""

from __future__ import annotations

import errno

from kd3d.errors import GateError, Kd3dError, OutputError

INTERRUPTED = 130


def as_failure(error: BaseException) -> tuple[int, str]:
    """The exit code and the one line for ``error``."""
    if isinstance(error, Kd3dError):
        return error.exit_code, _one_line(str(error))
    if isinstance(error, KeyboardInterrupt):
        return (
            INTERRUPTED,
            "interrupted. Nothing half-written was left; run the command again, with --resume where it has one.",
        )
    if _disk_full(error):
        name = getattr(error, "filename", None)
        return (
            OutputError.exit_code,
            f"{f'{name}: ' if name else ''}the disk is full. Free some space or choose another folder.",
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return 1, "out of memory. Use a smaller --batch-size, fewer --workers, or a coarser grid."
    return 1, f"{type(error).__name__}: {_one_line(str(error))} (unexpected; add --debug to see where)"


def as_json(error: BaseException) -> dict[str, object]:
    """The same as a JSON object; ``gate`` names a gate that failed."""
    code, text = as_failure(error)
    found: dict[str, object] = {"error": text, "kind": type(error).__name__, "exit_code": code}
    if isinstance(error, GateError):
        found["gate"] = error.gate
    return found


def _disk_full(error: BaseException | None) -> bool:
    """Whether the disk was full, also where a library wrapped the system's error or kept only its text."""
    seen = 0
    while error is not None and seen < 8:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def _one_line(text: str) -> str:
    return " ".join(text.split())
