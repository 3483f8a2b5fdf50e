"""The gates of an export: what each one said, in the order in which they were asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Gate:
    """One gate.

    Args:
        name: ``checker``, ``operators``, ``int8``, ``fp16``, ``parity`` or ``trt-rtx``.
        state: a gate that fails ends the export with an error, so it is never recorded.
        reason: why it was skipped.
        details: figures.
    """

    name: str
    state: Literal["passed", "skipped"] = "passed"
    reason: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As in ``export.json`` and ``--json``."""
        found: dict[str, Any] = {"name": self.name, "state": self.state}
        if self.reason is not None:
            found["reason"] = self.reason
        return {**found, **self.details}
