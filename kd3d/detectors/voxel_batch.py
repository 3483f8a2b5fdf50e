"""Samples to what a voxel network eats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd3d.geometry.boxes import Floats
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.voxels import mean_voxels, voxel_inputs
from kd3d.spec import VoxelEncoderSpec

_MIN_ROWS = 2  # batch norm in training needs two rows even where all clouds are empty


@dataclass
class VoxelBatch:
    """Voxels of several frames, and the neighbour tables of the network's stages.

    Args:
        features: ``[N, F]`` float32, mean of each voxel's points.
        tables: int32, in the order of ``VoxelEncoderSpec.tables``.
        cells: ``[M]`` int64, ``((frame * ny + row) * nx + column) * depth + z`` on the BEV map; padding rows carry
            ``batch_size * ny * nx * depth``.
        batch_size: frames.
    """

    features: Tensor
    tables: tuple[Tensor, ...]
    cells: Tensor
    batch_size: int

    def to(self, device: torch.device | str) -> VoxelBatch:
        """The same batch on ``device``."""
        return replace(
            self,
            features=self.features.to(device, non_blocking=True),
            tables=tuple(table.to(device, non_blocking=True) for table in self.tables),
            cells=self.cells.to(device, non_blocking=True),
        )

    def pin_memory(self) -> VoxelBatch:
        """The same batch in page-locked memory, as DataLoader asks for."""
        return replace(
            self,
            features=self.features.pin_memory(),
            tables=tuple(table.pin_memory() for table in self.tables),
            cells=self.cells.pin_memory(),
        )

    def feeds(self, encoder: VoxelEncoderSpec) -> dict[str, NDArray[Any]]:
        """The same as named arrays, as exports take them."""
        tables = {name: table.numpy() for name, table in zip(encoder.tables, self.tables, strict=True)}
        return {"features": self.features.numpy(), **tables, "cells": self.cells.numpy()}

    @classmethod
    def from_feeds(cls, feeds: Mapping[str, NDArray[Any]], encoder: VoxelEncoderSpec) -> VoxelBatch:
        """One frame from named arrays."""
        tables = tuple(torch.from_numpy(feeds[name]) for name in encoder.tables)
        return cls(torch.from_numpy(feeds["features"]), tables, torch.from_numpy(feeds["cells"]), 1)


def voxel_batch(clouds: Sequence[Floats], grid: BevGrid, encoder: VoxelEncoderSpec) -> VoxelBatch:
    """Voxels and tables of ``clouds``, each ``[M, F]`` with x, y, z first."""
    voxels = [mean_voxels(cloud, grid, encoder) for cloud in clouds]
    made = voxel_inputs(voxels, grid, encoder, least_rows=_MIN_ROWS)
    return VoxelBatch(
        torch.from_numpy(made.features),
        tuple(torch.from_numpy(np.ascontiguousarray(table)) for table in made.tables),
        torch.from_numpy(made.cells),
        len(clouds),
    )
