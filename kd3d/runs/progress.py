"""What long work tells whoever waits for it. The library calls; the command line decides how it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Steps = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""


class Progress(Protocol):
    """Phases with steps, and lines of text between them."""

    def phase(self, label: str) -> AbstractContextManager[Steps]:
        """Begin a phase; the callable it yields takes steps done and steps in all."""

    def line(self, text: str) -> None:
        """Say something once."""


class Silent:
    """Progress that nobody watches."""

    @contextmanager
    def phase(self, label: str) -> Iterator[Steps]:
        """A phase that shows nothing."""
        yield lambda done, total: None

    def line(self, text: str) -> None:
        """Say nothing."""
