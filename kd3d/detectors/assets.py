"""What comes with the package: a teacher trained on the generated world, so that the demo needs no long training."""

from __future__ import annotations

from pathlib import Path

from kd3d.detectors.checkpoint import Model, load_model
from kd3d.errors import CheckpointError

SHIPPED_TEACHER = Path(__file__).resolve().parents[1] / "assets" / "world-teacher"


def shipped_teacher(folder: Path = SHIPPED_TEACHER) -> Model:
    """The teacher of the generated world; its ``meta`` says how it was trained and what it reached.

    Raises:
        CheckpointError: the installation has no such folder, or it is damaged.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: the shipped teacher is not there. Install kd3d anew, or train one: "
            "kd3d train --preset world-centerpoint-pillar --data WORLD --out RUN."
        )
    return load_model(folder)
