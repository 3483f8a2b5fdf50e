"""The latest line of a program that goes on printing, such as tegrastats."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from threading import Thread

from kd3d.errors import BackendError


class LineStream:
    """Starts ``command`` and keeps its latest line.

    Raises:
        BackendError: it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        try:
            self._process = subprocess.Popen(
                list(command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
            )
        except OSError as error:
            raise BackendError(
                f"{command[0]} cannot be started ({error}). Measure without power: --no-power."
            ) from error
        self._line: str | None = None
        self._thread = Thread(target=self._read, name=f"kd3d-{command[0]}", daemon=True)
        self._thread.start()

    def latest(self) -> str | None:
        """The latest whole line; ``None`` before the first, and after the program ended."""
        return self._line

    def close(self) -> None:
        """End the program."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(timeout=5)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._line = line.strip()
        self._line = None
