"""Latency against the number of points, by leaving points out of recorded frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd3d.bench.protocol import ModelTimes, Pipeline, measure
from kd3d.bench.statistics import PERCENTILES, slope, summary
from kd3d.errors import UsageError

_SEED = 20240301


@dataclass(frozen=True)
class ThinnedFrame:
    """A frame with some of its points."""

    token: str
    points: Any
    features: tuple[str, ...]
    lidar2image: Any = None
    image_size_px: tuple[int, int] | None = None


def thinned(frames: Sequence[Any], count: int, *, seed: int = _SEED) -> list[ThinnedFrame]:
    """Frames with exactly ``count`` points each, drawn without replacement; sparser frames are left out."""
    found = []
    for index, frame in enumerate(frames):
        if len(frame.points) < count:
            continue
        rng = np.random.default_rng([seed, count, index])
        kept = np.sort(rng.choice(len(frame.points), count, replace=False))
        about = getattr(frame, "lidar2image", None), getattr(frame, "image_size_px", None)
        found.append(ThinnedFrame(frame.token, frame.points[kept], frame.features, *about))
    return found


def sweep(
    pipelines: Mapping[str, Pipeline],
    frames: Sequence[Any],
    *,
    counts: Sequence[int],
    clock_ns: Callable[[], int],
    warmup: int,
    iterations: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, list[ModelTimes]]:
    """Time every pipeline at every number of points, interleaved as ``measure`` does.

    Raises:
        UsageError: no frame has that many points.
    """
    kept = {}
    for count in counts:
        kept[count] = thinned(frames, count)
        if not kept[count]:
            most = max(len(frame.points) for frame in frames)
            raise UsageError(
                f"no frame has {count:,} points; the densest has {most:,}. Leave {count} out of the sweep."
            )
    found = {}
    for done, count in enumerate(counts):
        found[count] = measure(pipelines, kept[count], warmup=warmup, iterations=iterations, clock_ns=clock_ns)
        if progress is not None:
            progress(done + 1, len(counts))
    return found


def sweep_json(
    swept: Mapping[int, Sequence[ModelTimes]], percentiles: Sequence[float] = PERCENTILES
) -> dict[str, list[dict[str, Any]]]:
    """Per model one entry for each number of points: ``points``, ``pillars_mean``, ``e2e_ms``, ``stages``."""
    found: dict[str, list[dict[str, Any]]] = {}
    for count, times in swept.items():
        for one in times:
            stages = {stage: summary(one.stage_ms(stage), percentiles) for stage in one.stages}
            entry = {"points": count, "pillars_mean": mean_pillars(one), "e2e_ms": summary(one.e2e_ms, percentiles)}
            found.setdefault(one.name, []).append({**entry, "stages": stages})
    return found


def against(times: ModelTimes) -> dict[str, Any]:
    """How latency follows points and pillars over the recorded frames: slope and correlation of each frame's median."""
    by_frame: dict[int, list[Any]] = {}
    for one in times.frames:
        by_frame.setdefault(one.frame, []).append(one)
    medians = [float(np.median([one.e2e_ns / 1e6 for one in held])) for held in by_frame.values()]
    points = [held[0].points for held in by_frame.values()]
    fits: dict[str, Any] = {"frames": len(by_frame), "points": _fit(points, medians, per=10_000), "pillars": None}
    if all(held[0].pillars is not None for held in by_frame.values()):
        fits["pillars"] = _fit([held[0].pillars for held in by_frame.values()], medians, per=1000)
    return fits


def mean_pillars(times: ModelTimes) -> float | None:
    """Pillars of a frame on average, where the inputs said how many."""
    known = [one.pillars for one in times.frames if one.pillars is not None]
    return sum(known) / len(known) if known else None


def _fit(counts: Sequence[int], medians: Sequence[float], *, per: int) -> dict[str, float] | None:
    found = slope(counts, medians)
    return None if found is None else {"per": per, "ms": found[0] * per, "correlation": found[1]}
