"""What TensorRT tells while it works: messages, kept instead of printed, and the times of layers."""

from __future__ import annotations

from collections.abc import Callable
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


def make_profiler(trt: Any, sink: Callable[[str, float], object]) -> Any:
    """A profiler for execution contexts.

    Args:
        trt: the module.
        sink: gets the name and milliseconds of each layer, once per run.
    """

    class _Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            sink(layer_name, ms)

    return _Profiler()


def said(logger: Keeper) -> str:
    """The last errors in one line."""
    return "; ".join(logger.errors[-3:]) or "it gave no reason"
