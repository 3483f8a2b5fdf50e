"""Ctrl-C between steps: the step in progress ends, then the run stops with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from typing_extensions import Self


class Interrupts:
    """Holds Ctrl-C back while a step changes the network; a second one is not held.

    Outside the main thread (where Python delivers no signals) it does nothing.
    """

    def __init__(self) -> None:
        self._pending = False
        self._held = False
        self._before: Any = None
        self._active = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._active:
            self._before = signal.getsignal(signal.SIGINT)
            self._active = callable(self._before)  # None or SIG_IGN: whoever ignores Ctrl-C goes on ignoring it
        if self._active:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._before)

    @property
    def held(self) -> bool:
        """Whether a step is in progress, or was cut short."""
        return self._held

    def hold(self) -> None:
        """A step begins."""
        self._held = True

    def release(self) -> None:
        """The step is complete.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed during it.
        """
        self._held = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._held or self._pending:
            raise KeyboardInterrupt
        self._pending = True
