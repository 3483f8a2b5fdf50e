"""Samples to what a network eats: pillars, or voxels with their tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kd3d.detectors.voxel_batch import VoxelBatch, voxel_batch
from kd3d.geometry.boxes import Floats
from kd3d.runtime.pillars import flat_pillars, hard_pillars
from kd3d.runtime.points import check_finite, crop_to_image, select_features
from kd3d.spec import DetectorSpec, VoxelEncoderSpec

_MIN_ROWS = 2  # batch norm in training needs two rows even where all clouds are empty


class Cloud(Protocol):
    """The point side of a ``Sample`` or a ``Frame``."""

    @property
    def token(self) -> str:
        """Its name, for messages."""

    @property
    def points(self) -> Floats:
        """``[N, F]``."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the ``F`` columns."""

    @property
    def lidar2image(self) -> Floats | None:
        """``[3, 4]`` of the front camera, if any."""

    @property
    def image_size_px(self) -> tuple[int, int] | None:
        """Its width and height."""


@dataclass
class PillarBatch:
    """Pillars of several frames.

    Args:
        features: padded form ``[P, N, D]`` float32, zero in unused slots; flat form ``[M, D]``.
        counts: ``[P]`` int64, points per pillar.
        cells: ``[P]`` int64, ``frame * ny * nx + row * nx + column``; padding rows carry ``batch_size * ny * nx``.
        batch_size: frames.
        flat_pillar: ``None`` in the padded form, else ``[M]`` int64, the pillar of each point.
    """

    features: Tensor
    counts: Tensor
    cells: Tensor
    batch_size: int
    flat_pillar: Tensor | None = None

    def to(self, device: torch.device | str) -> PillarBatch:
        """The same batch on ``device``."""
        flat = None if self.flat_pillar is None else self.flat_pillar.to(device, non_blocking=True)
        return replace(
            self,
            features=self.features.to(device, non_blocking=True),
            counts=self.counts.to(device, non_blocking=True),
            cells=self.cells.to(device, non_blocking=True),
            flat_pillar=flat,
        )

    def pin_memory(self) -> PillarBatch:
        """The same batch in page-locked memory, as DataLoader asks for."""
        flat = None if self.flat_pillar is None else self.flat_pillar.pin_memory()
        return replace(
            self,
            features=self.features.pin_memory(),
            counts=self.counts.pin_memory(),
            cells=self.cells.pin_memory(),
            flat_pillar=flat,
        )


Batch: TypeAlias = "PillarBatch | VoxelBatch"


def prepare(samples: Sequence[Cloud], spec: DetectorSpec, *, padded: bool = False) -> Batch:
    """Turn samples into pillars, in the form of their mode (padded for ``hard``, flat for ``dynamic``), or into voxels.

    Args:
        samples: ``Sample`` or ``kd3d.runtime.frames.Frame``.
        spec: the detector that will eat them.
        padded: the padded form for ``dynamic`` too, as exports have it: points beyond ``max_points`` are lost.

    Raises:
        DataError: a sample lacks a point feature that ``spec`` needs, or holds NaN or infinity.
    """
    clouds = []
    for sample in samples:
        cloud = select_features(view_points(sample, spec), sample.features, spec.points)
        clouds.append(check_finite(cloud, sample.token))
    if isinstance(spec.encoder, VoxelEncoderSpec):
        return voxel_batch(clouds, spec.grid, spec.encoder)
    if padded or spec.encoder.mode == "hard":
        return _padded(clouds, spec)
    return _flat(clouds, spec)


def view_points(sample: Cloud, spec: DetectorSpec) -> Floats:
    """The sample's points; with ``camera_view_only`` those that project into its front camera, if it has one."""
    if not spec.points.camera_view_only or sample.lidar2image is None or sample.image_size_px is None:
        return sample.points
    return crop_to_image(sample.points, sample.lidar2image, sample.image_size_px)


def _padded(clouds: Sequence[Floats], spec: DetectorSpec) -> PillarBatch:
    grid, encoder = spec.grid, spec.pillar_encoder
    area = grid.ny * grid.nx
    frames = [
        hard_pillars(cloud, grid, max_points=encoder.max_points, max_pillars=encoder.max_pillars) for cloud in clouds
    ]
    missing = max(0, _MIN_ROWS - sum(len(frame.cells) for frame in frames))
    features = [frame.features for frame in frames]
    features.append(np.zeros((missing, encoder.max_points, spec.point_inputs), np.float32))
    counts = np.concatenate([*(frame.counts for frame in frames), np.zeros(missing, np.int32)])
    cells = [frame.cells + index * area for index, frame in enumerate(frames)]
    cells.append(np.full(missing, len(clouds) * area, np.int64))
    return PillarBatch(
        features=torch.from_numpy(np.concatenate(features)),
        counts=torch.from_numpy(counts.astype(np.int64)),
        cells=torch.from_numpy(np.concatenate(cells).astype(np.int64)),
        batch_size=len(clouds),
    )


def _flat(clouds: Sequence[Floats], spec: DetectorSpec) -> PillarBatch:
    area = spec.grid.ny * spec.grid.nx
    features, pillar, cells, total = [], [], [], 0
    for index, cloud in enumerate(clouds):
        frame = flat_pillars(cloud, spec.grid)
        features.append(frame.features)
        pillar.append(frame.pillar + total)
        cells.append(frame.cells + index * area)
        total += len(frame.cells)
    missing = max(0, _MIN_ROWS - sum(len(part) for part in features))
    features.append(np.zeros((missing, spec.point_inputs), np.float32))
    pillar.append(np.full(missing, total, np.int64))
    cells.append(np.full(min(missing, 1), len(clouds) * area, np.int64))
    where = np.concatenate(pillar).astype(np.int64)
    place = np.concatenate(cells).astype(np.int64)
    return PillarBatch(
        features=torch.from_numpy(np.concatenate(features).astype(np.float32, copy=False)),
        counts=torch.from_numpy(np.bincount(where, minlength=len(place)).astype(np.int64)),
        cells=torch.from_numpy(place),
        batch_size=len(clouds),
        flat_pillar=torch.from_numpy(where),
    )
