"""How much of what: the students of each teacher, and the precisions in which each preset is exported."""

from __future__ import annotations

from collections.abc import Iterator

from kd3d.detectors.presets import PRESETS

STUDENTS = {
    "world-teacher": 20,
    "world-centerpoint-voxel-tiny": 12,
    "world-centerpoint-pillar-six-tasks": 8,
    "world-centerpoint-pillar-tiny": 6,
    "kitti-centerpoint-pillar-small": 4,
}
# Of these 8 bits are tried too. Each layer is quantised alone there, which takes an hour for the large ones.
IN_8_BITS = (
    "world-centerpoint-pillar-tiny",
    "world-centerpoint-pillar-small",
    "world-centerpoint-pillar-six-tasks",
    "world-centerpoint-voxel-tiny",
)
LIMIT_S = 5400.0  # of one export, on a machine that does other things too


def presets() -> Iterator[tuple[str, str]]:
    """Preset and precision, the quick ones first."""
    for precision in ("fp32", "fp16"):
        for name in sorted(PRESETS, key=lambda name: not name.startswith("world")):
            yield name, precision
    for name in IN_8_BITS:
        yield name, "int8"
