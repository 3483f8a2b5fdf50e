"""TensorRT's messages, kept instead of printed."""

from __future__ import annotations

from typing import Any, Protocol


class Keeper(Protocol):
    """A logger of TensorRT that remembers."""

    errors: list[str]
    warnings: list[str]


def make_logger(trt: Any) -> Any:
    """A logger that keeps errors and warnings.

    Args:
        trt: the module, ``tensorrt`` or ``tensorrt_rtx``.
    """

    class _Keeper(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(message)

    return _Keeper()


def said(logger: Keeper) -> str:
    """The last errors in one line."""
    return "; ".join(logger.errors[-3:]) or "it gave no reason"
