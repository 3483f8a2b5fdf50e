"""Power over time: a thread reads a source, and energy of a span is integrated from what it read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from types import TracebackType
from typing import Any, Protocol

import numpy as np

ENOUGH = 5  # readings in a span, for a mean of it


@dataclass(frozen=True)
class Reading:
    """What a source said at one moment.

    Args:
        watts: in all; ``None`` where the source counts energy only.
        joules: of an energy counter, from an arbitrary zero.
        rails: watts by supply.
        gpu_mhz, memory_mb, celsius: of the device, where the source knows.
    """

    watts: float | None = None
    joules: float | None = None
    rails: Mapping[str, float] = field(default_factory=dict)
    gpu_mhz: float | None = None
    memory_mb: float | None = None
    celsius: float | None = None


class PowerSource(Protocol):
    """Something that knows how much power flows."""

    @property
    def name(self) -> str:
        """Such as ``NVML``."""

    @property
    def scope(self) -> str:
        """What the watts are those of."""

    def read(self) -> Reading | None:
        """The present values; ``None`` where there are none yet."""

    def close(self) -> None:
        """Let go of the source."""


class Sampler:
    """Reads ``source`` every ``interval_s`` in a thread while it is entered.

    Args:
        source: of power.
        interval_s: between readings.
        clock_ns: as the measurements use.

    Attributes:
        samples: time in nanoseconds and reading, in order.
    """

    def __init__(
        self, source: PowerSource, interval_s: float = 0.1, clock_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.source, self.interval_s, self.clock_ns = source, interval_s, clock_ns
        self.samples: list[tuple[int, Reading]] = []
        self._stop = Event()
        self._thread = Thread(target=self._run, name="kd3d-power", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.take()
        self.source.close()

    def take(self) -> None:
        """One reading now."""
        reading = self.source.read()
        if reading is not None:
            self.samples.append((self.clock_ns(), reading))

    def _run(self) -> None:
        while not self._stop.is_set():
            self.take()
            self._stop.wait(self.interval_s)


def energy_j(samples: Sequence[tuple[int, Reading]], began_ns: int, ended_ns: int) -> tuple[float, str] | None:
    """Energy between two moments, and how it was found; ``None`` where the readings do not cover the span.

    A counter's difference where every reading has one, interpolated; otherwise the trapezoids under the watts.
    """
    if ended_ns <= began_ns or len(samples) < 2 or samples[0][0] > began_ns or samples[-1][0] < ended_ns:
        return None
    times = np.array([at for at, _ in samples], np.float64)
    ends = [float(began_ns), float(ended_ns)]
    if all(reading.joules is not None for _, reading in samples):
        low, high = np.interp(ends, times, [reading.joules or 0.0 for _, reading in samples])
        return float(high - low), "energy counter"
    if any(reading.watts is None for _, reading in samples):
        return None
    watts = np.array([reading.watts for _, reading in samples], np.float64)
    inside = (times > began_ns) & (times < ended_ns)
    x = np.concatenate([[ends[0]], times[inside], [ends[1]]]) / 1e9
    y = np.interp(x * 1e9, times, watts)
    return float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x))), "power readings"


def power_of(
    samples: Sequence[tuple[int, Reading]], began_ns: int, ended_ns: int, frames: int
) -> dict[str, Any] | None:
    """Mean power, energy per frame and frames per second per watt of a span; ``None`` with too few readings in it."""
    held = [reading for at, reading in samples if began_ns <= at <= ended_ns]
    found = energy_j(samples, began_ns, ended_ns)
    if found is None or len(held) < ENOUGH or frames < 1:
        return None
    joules, method = found
    seconds = (ended_ns - began_ns) / 1e9
    mean = joules / seconds
    rails = sorted({name for reading in held for name in reading.rails})
    return {
        "mean_w": mean,
        "energy_j": joules,
        "j_per_frame": joules / frames,
        "fps_per_w": frames / seconds / mean if mean > 0 else None,
        "seconds": seconds,
        "readings": len(held),
        "method": method,
        "rails_w": {name: float(np.mean([one.rails[name] for one in held if name in one.rails])) for name in rails},
        "gpu_mhz_min": _least(held, "gpu_mhz"),
        "celsius_max": _most(held, "celsius"),
    }


def peak_memory_mb(samples: Sequence[tuple[int, Reading]]) -> float | None:
    """The most device memory that was in use at any reading."""
    return _most([reading for _, reading in samples], "memory_mb")


def _known(held: Sequence[Reading], name: str) -> list[float]:
    return [getattr(one, name) for one in held if getattr(one, name) is not None]


def _least(held: Sequence[Reading], name: str) -> float | None:
    return min(_known(held, name), default=None)


def _most(held: Sequence[Reading], name: str) -> float | None:
    return max(_known(held, name), default=None)
