"""Names of what a network reads, in the order of its graph."""

from __future__ import annotations

from kd3d.spec.detector import DetectorSpec
from kd3d.spec.voxel import VoxelEncoderSpec


def input_names(spec: DetectorSpec) -> tuple[str, ...]:
    """``features``, ``counts``, ``cells`` of pillars; ``features``, the neighbour tables and ``cells`` of voxels."""
    if isinstance(spec.encoder, VoxelEncoderSpec):
        return ("features", *spec.encoder.tables, "cells")
    return ("features", "counts", "cells")
