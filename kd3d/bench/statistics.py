"""What a list of durations says. No sample is ever clipped: the tail is what a vehicle feels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd3d.errors import UsageError

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
_RESAMPLES, _SEED = 1000, 20240229


def percentile(samples: ArrayLike, percent: float) -> float:
    """The sample that ``percent`` of all samples do not exceed, by trtexec's rule, so that tables compare.

    It is ``sorted[max(N - 1 - int((1 - percent / 100) * N), 0)]``; no interpolation between samples.

    Raises:
        UsageError: no samples, or a percentage outside 0..100.
    """
    values = np.sort(_checked(samples))
    if not 0 <= percent <= 100:
        raise UsageError(f"a percentile must be in 0..100, not {percent:g}.")
    n = len(values)
    return float(values[max(n - 1 - int((1 - percent / 100) * n), 0)])


def median_interval(samples: ArrayLike, *, confidence: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of the median: 1000 resamples with a fixed seed."""
    values = _checked(samples)
    rng = np.random.default_rng(_SEED)
    medians = np.median(values[rng.integers(0, len(values), (_RESAMPLES, len(values)))], axis=1)
    low, high = np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def summary(samples: ArrayLike, percentiles: Sequence[float] = PERCENTILES) -> dict[str, float | int | list[float]]:
    """``n``, ``mean``, ``std``, ``cov``, ``min``, ``max``, a ``p<percent>`` each, ``p50_ci95``; in the samples' unit.

    ``p99.9`` is added from 2000 samples on, where it means something.
    """
    values = _checked(samples)
    mean, std = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
    wanted = [*percentiles, 99.9] if len(values) >= 2000 else list(percentiles)
    found: dict[str, float | int | list[float]] = {
        "n": len(values),
        "mean": mean,
        "std": std,
        "cov": std / mean if mean > 0 else 0.0,
        "min": float(values.min()),
        "max": float(values.max()),
    }
    found.update({f"p{percent:g}": percentile(values, percent) for percent in wanted})
    found["p50_ci95"] = list(median_interval(values))
    return found


def drift(samples: ArrayLike, *, blocks: int = 10) -> float:
    """How much the run changed from its first to its last block, as a fraction of the median.

    A line is fitted to the medians of ``blocks`` consecutive blocks; positive means slower at the end. 0 with fewer
    than two samples per block.
    """
    values = _checked(samples)
    if len(values) < 2 * blocks:
        return 0.0
    medians = np.array([np.median(block) for block in np.array_split(values, blocks)])
    slope = float(np.polyfit(np.arange(blocks), medians, 1)[0])
    return slope * (blocks - 1) / float(np.median(values))


def speedup(baseline: ArrayLike, candidate: ArrayLike) -> dict[str, float | list[float]]:
    """How many times faster ``candidate`` is, from durations of the same frames in the same order.

    Returns:
        ``ratio`` of the medians, ``paired`` the median over frames of baseline / candidate, and its ``paired_ci95``.

    Raises:
        UsageError: the lists differ in length, so they are not pairs.
    """
    first, second = _checked(baseline), _checked(candidate)
    if len(first) != len(second):
        raise UsageError(f"paired durations must be equally many, not {len(first)} and {len(second)}.")
    ratios = first / second
    return {
        "ratio": float(np.median(first) / np.median(second)),
        "paired": float(np.median(ratios)),
        "paired_ci95": list(median_interval(ratios)),
    }


def _checked(samples: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(samples, np.float64).ravel()
    if not len(values):
        raise UsageError("there are no samples to summarise. Time at least one frame.")
    return values
