"""What a benchmark measures and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kd3d.bench.statistics import PERCENTILES
from kd3d.errors import UsageError


@dataclass(frozen=True)
class BenchSettings:
    """How models are timed.

    Args:
        warmup: untimed frames per model, at the least.
        warmup_ms: untimed milliseconds per model, at the least.
        iterations: timed frames per model, at the least.
        duration_s: timed seconds per model, at the least.
        percentiles: to report.
        in_flight: frames in flight of the streaming throughput; 1 leaves that measurement out.
        rate_hz: sensor rate of the periodic measurement; ``None`` leaves it out.
        deadline_ms: of a frame in it, from its arrival; ``None`` is the sensor's period.
        points_sweep: numbers of points at which the latency is measured again.
        include_transfers: whether copies to and from the device count; if not, the network is also timed without them.
        telemetry_ms: between two readings of power, clocks and memory.
    """

    warmup: int = 10
    warmup_ms: float = 0.0
    iterations: int = 200
    duration_s: float = 0.0
    percentiles: tuple[float, ...] = PERCENTILES
    in_flight: int = 1
    rate_hz: float | None = None
    deadline_ms: float | None = None
    points_sweep: tuple[int, ...] = ()
    include_transfers: bool = True
    telemetry_ms: float = 100.0

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.warmup < 0:
            raise UsageError(
                f"iterations ({self.iterations}) must be at least 1, and warmup ({self.warmup}) 0 or more."
            )
        for name in ("warmup_ms", "duration_s"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise UsageError(f"{name} must be 0 or more, not {value:g}.")
        if self.in_flight < 1:
            raise UsageError(f"in_flight must be at least 1, not {self.in_flight}.")
        for name in ("rate_hz", "deadline_ms", "telemetry_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} must be above 0, not {value:g}.")
        if self.deadline_ms is not None and self.rate_hz is None:
            raise UsageError("a deadline is one of frames that arrive at a rate; give --rate too.")
        if any(count < 1 for count in self.points_sweep):
            raise UsageError(f"a points sweep needs counts of at least 1, not {min(self.points_sweep)}.")

    @property
    def deadline(self) -> float:
        """Milliseconds from a frame's arrival to its boxes that are allowed; the period unless one was given.

        Raises:
            UsageError: there is no rate.
        """
        if self.rate_hz is None:
            raise UsageError("there is no deadline without --rate.")
        return 1000.0 / self.rate_hz if self.deadline_ms is None else self.deadline_ms
