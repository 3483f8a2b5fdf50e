"""A generated street world in the nuScenes format: LiDAR with sweeps, six cameras, all thirteen tables."""

from __future__ import annotations

from kd3d.datasets.world.write import WorldSummary, write_world

__all__ = ["WorldSummary", "write_world"]
