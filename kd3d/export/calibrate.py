"""Where an 8-bit activation stops: the clipping threshold of a tensor, from a histogram over calibration frames.

Scales are symmetric: 127 or 255 steps up to the threshold, zero exact. Zeros are left out of the histograms: most of a
bird's eye view is empty, and zero costs nothing at any scale.

Methods: ``max`` is the largest magnitude seen; ``percentile``
the 99.99th of the magnitudes; ``mse`` has the least squared error of clipping and rounding; ``entropy`` the least
divergence of the 8-bit distribution from the original (Migacz, 8-bit Inference with TensorRT, GTC 2017).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import UsageError
from kd3d.export.ranges import Arrays, GraphRunner, measure
from kd3d.optional import require

Histogram = NDArray[np.int64]
METHODS = ("entropy", "percentile", "mse", "max")
BINS = 2048
PERCENTILE = 99.99
_AT_ONCE = 8  # tensors whose maps are in memory together
_ENTROPY_STEP = 16
_FIRST = 128  # the smallest threshold that is tried, in bins
_TINY = 1e-12


def thresholds(model: Any, levels: Mapping[str, int], feeds: Sequence[Arrays], *, method: str) -> dict[str, float]:
    """The largest magnitude that 8 bits shall hold, of each tensor of ``levels``.

    Args:
        model: ``onnx.ModelProto`` in fp32.
        levels: of some of its fp32 tensors, the steps from zero to the threshold.
        feeds: network inputs of the calibration frames.
        method: one of ``METHODS``.

    Raises:
        UsageError: another method.
    """
    if method not in METHODS:
        raise UsageError(f"calibration must be one of {', '.join(METHODS)}, not {method!r}.")
    names = list(levels)
    peaks = measure(model, names, feeds)
    if method == "max":
        return peaks
    found = {}
    for first in range(0, len(names), _AT_ONCE):
        some = {name: peaks[name] for name in names[first : first + _AT_ONCE]}
        for name, histogram in histograms(model, some, feeds).items():
            found[name] = threshold(histogram, peaks[name], method, levels=levels[name])
    return found


def histograms(model: Any, peaks: Mapping[str, float], feeds: Iterable[Arrays]) -> dict[str, Histogram]:
    """``BINS`` counts of the magnitudes above zero of each tensor of ``peaks``, from 0 to its peak."""
    onnx: Any = require("onnx", extra="onnx")
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    for name in peaks:
        watched.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    runner = GraphRunner(watched)
    counts = {name: np.zeros(BINS, np.int64) for name in peaks}
    for one in feeds:
        for name, values in runner.infer(one).items():
            if peaks[name] > 0:
                places = np.abs(values[values != 0]) * (BINS / peaks[name])
                counts[name] += np.bincount(np.minimum(places.astype(np.int64), BINS - 1), minlength=BINS)
    return counts


def threshold(histogram: Histogram, peak: float, method: str, *, levels: int) -> float:
    """The clipping threshold of one tensor.

    Args:
        histogram: as ``histograms`` gives.
        peak: where its last bin ends.
        method: one of ``METHODS``.
        levels: steps from zero to the threshold.
    """
    if method == "max" or not histogram.any():
        return peak
    if method == "percentile":
        return peak * _percentile(histogram) / BINS
    last = (_least_squares if method == "mse" else _least_divergence)(histogram, levels)
    return peak * last / BINS


def _percentile(histogram: Histogram) -> int:
    share = np.cumsum(histogram) / histogram.sum()
    return int(np.searchsorted(share, PERCENTILE / 100)) + 1


def _least_squares(histogram: Histogram, levels: int) -> int:
    filled = np.flatnonzero(histogram)
    centers, weights = filled + 0.5, histogram[filled]
    lasts = np.arange(_FIRST, BINS + 1, 8)
    scale = lasts[:, None] / levels
    rounded = np.minimum(np.rint(centers / scale), levels) * scale
    return int(lasts[(weights * (rounded - centers) ** 2).sum(1).argmin()])


def _least_divergence(histogram: Histogram, levels: int) -> int:
    lasts = range(levels + 1, BINS + 1, _ENTROPY_STEP)
    return min(lasts, key=lambda last: _divergence(histogram, last, levels + 1))


def _divergence(histogram: Histogram, last: int, groups: int) -> float:
    """Of the distribution clipped at bin ``last`` from the same in ``groups`` levels (Kullback-Leibler)."""
    inside = histogram[:last].astype(np.float64)
    clipped = inside.copy()
    clipped[-1] += histogram[last:].sum()
    level = np.arange(last) * groups // last
    filled = inside > 0
    mass, bins = (np.bincount(level, weights=part, minlength=groups) for part in (inside, filled.astype(np.float64)))
    coarse = np.where(filled, (mass / np.maximum(bins, 1))[level], 0.0)
    if not coarse.sum():
        return float("inf")
    one, two = clipped / clipped.sum(), coarse / coarse.sum()
    seen = one > 0
    return float((one[seen] * np.log(one[seen] / np.maximum(two[seen], _TINY))).sum())
