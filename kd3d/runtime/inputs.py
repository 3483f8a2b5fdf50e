"""What a network reads, in the order of its graph, and what to say of that which did not fit."""

from __future__ import annotations

from kd3d.spec.detector import DetectorSpec
from kd3d.spec.voxel import VoxelEncoderSpec


def input_names(spec: DetectorSpec) -> tuple[str, ...]:
    """``features``, ``counts``, ``cells`` of pillars; ``features``, the neighbour tables and ``cells`` of voxels."""
    if isinstance(spec.encoder, VoxelEncoderSpec):
        return ("features", *spec.encoder.tables, "cells")
    return ("features", "counts", "cells")


def dropped_text(*, dropped_points: int, dropped_pillars: int) -> str:
    """What found no room in the network's lists, and the remedy; points of full pillars are the encoder's own rule."""
    return (
        f"{dropped_pillars} pillar(s) and {dropped_points} point(s) did not fit the network and were dropped. "
        "Build it for more: kd3d export --pillars, or a detector with more max_pillars."
    )
