"""What a network reads, in the order of its graph, and what to say of that which did not fit."""

from __future__ import annotations

from kd3d.spec.detector import DetectorSpec
from kd3d.spec.voxel import VoxelEncoderSpec


def input_names(spec: DetectorSpec) -> tuple[str, ...]:
    """``features``, ``counts``, ``cells`` of pillars; ``features``, the neighbour tables and ``cells`` of voxels."""
    if isinstance(spec.encoder, VoxelEncoderSpec):
        return ("features", *spec.encoder.tables, "cells")
    return ("features", "counts", "cells")


def unit_of(spec: DetectorSpec | None) -> str:
    """What points are grouped into: ``voxel`` or ``pillar``; the latter where nothing is known."""
    return "voxel" if spec is not None and isinstance(spec.encoder, VoxelEncoderSpec) else "pillar"


def dropped_text(*, dropped_points: int, dropped_pillars: int, unit: str = "pillar") -> str:
    """What found no room in the network's lists, and the remedy; points of full pillars are the encoder's own rule.

    Args:
        dropped_points: how many.
        dropped_pillars: how many; voxels count as pillars.
        unit: what they are called, see ``unit_of``.
    """
    deeper = "kd3d export --pillars, or a detector with more max_pillars"
    remedy = "Use a detector with more max_voxels" if unit == "voxel" else f"Build it for more: {deeper}"
    return (
        f"{dropped_pillars} {unit}(s) and {dropped_points} point(s) did not fit the network and were dropped. {remedy}."
    )
