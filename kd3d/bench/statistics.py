"""What a list of durations says. No sample is ever clipped: the tail is what a vehicle feels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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


def summary(samples: ArrayLike, percentiles: Sequence[float] = PERCENTILES) -> dict[str, Any]:
    """``n``, ``mean``, ``std``, ``cov``, ``min``, ``max``, a ``p<percent>`` each, ``p50_ci95``; in the samples' unit.

    ``ci95`` has the interval of every percentile, ``spread`` where the median of the run lay.

    ``p99.9`` is added from 2000 samples on, where it means something.
    """
    values = _checked(samples)
    mean, std = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
    wanted = [*percentiles, 99.9] if len(values) >= 2000 else list(percentiles)
    found: dict[str, Any] = {
        "n": len(values),
        "mean": mean,
        "std": std,
        "cov": std / mean if mean > 0 else 0.0,
        "min": float(values.min()),
        "max": float(values.max()),
    }
    found.update({f"p{percent:g}": percentile(values, percent) for percent in wanted})
    found["p50_ci95"] = list(median_interval(values))
    found["ci95"] = {f"p{percent:g}": list(percentile_interval(values, percent)) for percent in wanted}
    found["spread"] = list(spread(values))
    return found


def percentile_interval(
    samples: ArrayLike, percent: float, *, confidence: float = 0.95
) -> tuple[float | None, float | None]:
    """Interval of a percentile from order statistics; no distribution is assumed.

    The number of samples below the true percentile is binomial, so the samples of two ranks enclose it with at least
    ``confidence`` (David and Nagaraja, Order Statistics, section 7.1). A side is ``None`` where even the extreme sample
    does not reach: a p99 has an upper bound only from 368 samples on.

    Raises:
        UsageError: no samples, or a percentage outside 0..100.
    """
    values = np.sort(_checked(samples))
    if not 0 <= percent <= 100:
        raise UsageError(f"a percentile must be in 0..100, not {percent:g}.")
    n, tail = len(values), (1 - confidence) / 2
    below = np.cumsum(_binomial(n, percent / 100))  # P(at most k samples lie below the percentile)
    low = int(np.searchsorted(below, tail, side="right"))  # the largest rank with P(fewer than it) <= tail
    high = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return (float(values[low - 1]) if low >= 1 else None, float(values[high - 1]) if high <= n else None)


def spread(samples: ArrayLike, *, blocks: int = 10) -> tuple[float, float]:
    """Where the median of this run lay: the interval of the median, widened by the medians of consecutive blocks.

    A machine that is disturbed for a second moves one block and not the interval of all samples, so this is what two
    runs are compared by.
    """
    values = _checked(samples)
    low, high = median_interval(values)
    medians = [float(np.median(block)) for block in np.array_split(values, min(blocks, len(values)))]
    return min(low, *medians), max(high, *medians)


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, such as deadlines missed.

    Raises:
        UsageError: no trials, or more hits than trials.
    """
    if not 0 <= hits <= count or count < 1:
        raise UsageError(f"a share needs trials: {hits} of {count}.")
    z2 = 1.959964**2
    share = hits / count
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count * count))) / (1 + z2 / count)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def slope(x: ArrayLike, y: ArrayLike) -> tuple[float, float] | None:
    """Slope of ``y`` over ``x`` by least squares, and their correlation; ``None`` where either does not vary."""
    first, second = _checked(x), _checked(y)
    if len(first) != len(second) or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    correlation = float(np.corrcoef(first, second)[0, 1])
    return correlation * float(second.std() / first.std()), correlation


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


def _binomial(n: int, share: float) -> NDArray[np.float64]:
    """Probabilities of 0..n hits in n trials."""
    if share in (0.0, 1.0):
        return np.eye(n + 1)[int(share * n)]
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    hits = np.arange(n + 1)
    found = np.exp(logs[n] - logs - logs[::-1] + hits * math.log(share) + (n - hits) * math.log1p(-share))
    return np.asarray(found / found.sum(), np.float64)


def _checked(samples: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(samples, np.float64).ravel()
    if not len(values):
        raise UsageError("there are no samples to summarise. Time at least one frame.")
    return values
