"""Predict the latency of a network that was never run, from what its blocks took on a device. No torch.

A prediction is the sum of the network's blocks, each kind of block times a factor near 1, plus a constant. The factors
correct what a sum cannot know (fusion and memory layout across the borders of blocks, cache); they are fitted to whole
networks that the table holds, by ridge regression on relative errors, towards 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd3d.bench.latency_table import Entry, LatencyTable
from kd3d.compress.search.blocks import KINDS, Block, blocks, grid_key, rows
from kd3d.compress.search.stats import PillarStats
from kd3d.errors import DataError, SpecError
from kd3d.spec import DetectorSpec, from_json

_RIDGE = 0.02  # a factor that is 10 % from 1 weighs like a network that is 1.4 % off
_LOWEST, _HIGHEST = 0.5, 2.0  # factors outside say that the table is wrong, not that fusion is good


@dataclass(frozen=True)
class Prediction:
    """One predicted network.

    Args:
        ms: latency of the whole network, p50.
        exact: share of ``ms`` from blocks that were measured as they are; the rest is interpolated.
        interpolated: families of the other blocks.
    """

    ms: float
    exact: float
    interpolated: tuple[str, ...]


class LatencyModel:
    """Predicts one device, runtime and precision.

    Args:
        table: of the device.
        stats: pillar statistics of the data; without, the table's numbers of pillars are used.

    Attributes:
        factors: per kind of block, fitted.
        constant_ms: fitted, the overhead of one call included.
        fit_error: median relative error on the table's own whole networks, each left out of the fit in turn; ``None``
            where there are too few for that.

    Raises:
        DataError: the table's whole networks cannot be read, or a family of their blocks is missing.
    """

    def __init__(self, table: LatencyTable, *, stats: Callable[[DetectorSpec], PillarStats] | None = None) -> None:
        self.table, self._stats = table, stats
        self._families: dict[str, list[Entry]] = {}
        for entry in table.entries.values():
            self._families.setdefault(entry.family, []).append(entry)
        self._curves: dict[str, NDArray[np.float64]] = {}
        self._known: dict[Block, tuple[float, bool]] = {}
        parts, measured = self._networks()
        self.constant_ms, self.factors = _fit(parts, measured, table.overhead_ms)
        self.fit_error = _left_out(parts, measured, table.overhead_ms)

    def predict(self, spec: DetectorSpec) -> float:
        """Latency of the whole network in milliseconds, p50; pre-processing, decoding and NMS are not in it.

        Raises:
            DataError: the table lacks a family of blocks; names it.
        """
        return self.explain(spec).ms

    def explain(self, spec: DetectorSpec) -> Prediction:
        """The same, with how much of it was measured."""
        return self._explain(blocks(spec, self.pillars(spec)))

    def _explain(self, found: tuple[Block, ...]) -> Prediction:
        total, exact, others = self.constant_ms, 0.0, []
        for block in found:
            ms, measured = self._block(block)
            ms *= self.factors[block.kind]
            total += ms
            exact += ms if measured else 0.0
            if not measured:
                others.append(block.family)
        return Prediction(total, (exact + self.constant_ms) / total if total else 1.0, tuple(dict.fromkeys(others)))

    def _networks(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums of blocks ``[N, kinds]`` and measured latencies ``[N]`` of the table's whole networks."""
        parts, measured = [], []
        for network in self.table.networks:
            try:
                spec = from_json(DetectorSpec, dict(network.spec))
                found = blocks(spec, int(network.pillars))
            except SpecError as error:
                raise DataError(
                    f"a whole network of the latency table cannot be read ({error}). Write the blocks and measure "
                    "them again with this version of kd3d."
                ) from error
            parts.append([sum(self._block(block)[0] for block in found if block.kind == kind) for kind in KINDS])
            measured.append(network.p50_ms)
        return np.array(parts, float).reshape(-1, len(KINDS)), np.array(measured, float)

    @property
    def identity(self) -> dict[str, object]:
        """What decides the predictions, as JSON values; a resumed run must repeat it."""
        times = sum(entry.p50_ms for entry in self.table.entries.values())
        return {"table": self.table.title, "blocks": len(self.table.entries), "sum_ms": round(times, 6)}

    def pillars(self, spec: DetectorSpec) -> int:
        """Pillars per frame that ``spec`` is predicted for.

        Raises:
            DataError: there are no statistics of data, and the table does not know the grid.
            SpecError: the detector has voxels.
        """
        key = grid_key(spec)  # refuses voxels, of which there are no blocks
        if self._stats is not None:
            return rows(self._stats(spec))
        if key not in self.table.pillars:
            raise DataError(
                f"the latency table knows no number of pillars for a grid of {key}; it knows "
                f"{'; '.join(self.table.pillars) or 'none'}. Write the blocks of a space that holds {spec.name}."
            )
        return self.table.pillars[key]

    def _block(self, block: Block) -> tuple[float, bool]:
        """Time of ``block`` without the overhead of its call, and whether it was measured as it is."""
        if block not in self._known:
            entry = self.table.entries.get(block.key)
            known = self._interpolated(block) if entry is None else entry.p50_ms - self.table.overhead_ms
            self._known[block] = max(0.0, known), entry is not None
        return self._known[block]

    def _interpolated(self, block: Block) -> float:
        members = self._families.get(block.family)
        if members is None:
            raise DataError(
                f"the latency table ({self.table.title}) has no block of the family {block.family!r}. Write the blocks "
                "of a space that holds this grid, stride and depth, and measure them: kd3d search --write-blocks."
            )
        if block.family not in self._curves:
            self._curves[block.family] = _curve(members, self.table.overhead_ms)
        return float(self._curves[block.family] @ _features(block))


def _features(of: Block | Entry) -> NDArray[np.float64]:
    return np.array([1.0, of.macs, of.macs_padded, of.elements])


def _curve(members: list[Entry], overhead_ms: float) -> NDArray[np.float64]:
    """What a family costs at least, per MAC, per padded MAC and per element; none negative, so that more is not faster.

    Fitted to relative errors.
    """
    features = np.array([_features(entry) for entry in members])
    times = np.array([max(entry.p50_ms - overhead_ms, 1e-6) for entry in members])
    return _non_negative(features / times[:, None], np.ones(len(members)))


def _non_negative(matrix: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares with coefficients that are not negative: all subsets are tried, there are at most a few columns."""
    columns = matrix.shape[1]
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    best, least = np.zeros(columns), float("inf")
    for chosen in range(1, 1 << columns):
        used = [column for column in range(columns) if chosen >> column & 1]
        values = np.linalg.lstsq(matrix[:, used] / scale[used], wanted, rcond=None)[0] / scale[used]
        if (values < 0).any():
            continue
        error = float(((matrix[:, used] @ values - wanted) ** 2).sum())
        if error < least - 1e-12:
            best, least = np.zeros(columns), error
            best[used] = values
    return best


def _fit(
    parts: NDArray[np.float64], measured: NDArray[np.float64], overhead_ms: float
) -> tuple[float, Mapping[str, float]]:
    """Constant and factors from whole networks; 1 and the overhead alone where there are none."""
    factors = np.ones(len(KINDS))
    constant = 0.0
    if len(measured):
        # Unknowns: a constant on top of the overhead (not negative), and each factor's distance from 1.
        design = np.column_stack([np.ones(len(measured)), parts]) / measured[:, None]
        wanted = 1 - (overhead_ms + parts.sum(1)) / measured
        ridge = np.eye(1 + len(KINDS))[1:] * np.sqrt(_RIDGE)
        for used in (slice(0, None), slice(1, None)):
            matrix = np.vstack([design, ridge])[:, used]
            found = np.linalg.lstsq(matrix, np.concatenate([wanted, np.zeros(len(KINDS))]), rcond=None)[0]
            constant, factors = (found[0], 1 + found[1:]) if used.start == 0 else (0.0, 1 + found)
            if constant >= 0:
                break
        factors = np.clip(factors, _LOWEST, _HIGHEST)
    return overhead_ms + float(constant), dict(zip(KINDS, map(float, factors), strict=True))


def _left_out(parts: NDArray[np.float64], measured: NDArray[np.float64], overhead_ms: float) -> float | None:
    if len(measured) < 4:
        return None
    errors = []
    for index in range(len(measured)):
        rest = np.arange(len(measured)) != index
        constant, factors = _fit(parts[rest], measured[rest], overhead_ms)
        predicted = constant + float(parts[index] @ np.array([factors[kind] for kind in KINDS]))
        errors.append(abs(predicted - measured[index]) / measured[index])
    return float(np.median(errors))
