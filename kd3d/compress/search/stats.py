"""What a data set puts into a grid, pillars or voxels: the encoder's cost depends on it. No torch at import."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kd3d.compress.search.cost_sparse import SparseStats
from kd3d.errors import DataError
from kd3d.spec import DetectorSpec, VoxelEncoderSpec

if TYPE_CHECKING:
    from kd3d.datasets.base import SampleDataset


@dataclass(frozen=True)
class PillarStats:
    """Means per frame.

    Args:
        pillars: occupied cells, after the detector's cap.
        points: points in them (``dynamic`` encoders compute once per point, ``hard`` ones once per slot).
    """

    pillars: float
    points: float

    @classmethod
    def full(cls, spec: DetectorSpec) -> PillarStats:
        """Every pillar and every slot used: the cost of an export with fixed shapes."""
        return cls(
            float(spec.pillar_encoder.max_pillars),
            float(spec.pillar_encoder.max_pillars * spec.pillar_encoder.max_points),
        )


def measure_stats(dataset: SampleDataset, spec: DetectorSpec, n: int = 20) -> PillarStats:
    """Mean pillars and points of ``n`` frames spread evenly over ``dataset``, through ``spec``'s own preprocessing.

    Raises:
        DataError: the data set is empty, or lacks a point feature of ``spec``.
    """
    return measure_samples((dataset[index] for index in spread(len(dataset), n)), spec)


def measure_samples(samples: Iterable[Any], spec: DetectorSpec) -> PillarStats:
    """Mean pillars and points of ``samples`` (each a ``Sample``)."""
    from kd3d.detectors.batch import PillarBatch, prepare

    pillars, points, frames = 0, 0, 0
    for sample in samples:
        batch = prepare([sample], spec)
        assert isinstance(batch, PillarBatch), "voxels are counted by sparse_sites"
        used = batch.counts > 0  # a batch is padded where it would be empty
        pillars += int(used.sum())
        points += int(batch.counts[used].sum())
        frames += 1
    return PillarStats(pillars / frames, points / frames)


class StatsTable:
    """Statistics of a data set per grid, measured once each on the same frames: of pillars, or of sparse stages.

    Args:
        dataset: read once, when the first grid is asked for.
        n: frames.
    """

    def __init__(self, dataset: SampleDataset, n: int = 20) -> None:
        self._dataset, self._n = dataset, n
        self._samples: list[Any] | None = None
        self._found: dict[Any, PillarStats | SparseStats] = {}

    def __call__(self, spec: DetectorSpec) -> PillarStats | SparseStats:
        """Statistics for ``spec``; widths and depths do not matter."""
        key = (spec.points, spec.grid, _counted(spec))
        if key not in self._found:
            if self._samples is None:
                self._samples = [self._dataset[index] for index in spread(len(self._dataset), self._n)]
            self._found[key] = _measure(self._samples, spec)
        return self._found[key]


def _counted(spec: DetectorSpec) -> tuple[object, ...]:
    """What of an encoder its statistics depend on."""
    encoder = spec.encoder
    if isinstance(encoder, VoxelEncoderSpec):
        return encoder.height_m, encoder.z_paddings, encoder.max_points, encoder.max_voxels
    return encoder.mode, encoder.max_points, encoder.max_pillars


def _measure(samples: list[Any], spec: DetectorSpec) -> PillarStats | SparseStats:
    if isinstance(spec.encoder, VoxelEncoderSpec):
        from kd3d.compress.search.sparse_sites import measure_sparse_samples  # it reads ``spread`` of this module

        return measure_sparse_samples(samples, spec)
    return measure_samples(samples, spec)


def spread(count: int, n: int) -> list[int]:
    """Indices of ``n`` frames spread evenly over ``count``.

    Raises:
        DataError: there are none.
    """
    if count == 0:
        raise DataError("the data set has no frames, so pillars per frame cannot be measured.")
    n = min(n, count)
    return [index * count // n for index in range(n)]
