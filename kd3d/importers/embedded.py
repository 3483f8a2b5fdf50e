"""Facts that lie in files: the framework's configuration, and what a checkpoint carries beside its tensors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kd3d.errors import DataError, UsageError
from kd3d.importers.config_det3d import facts_of_det3d
from kd3d.importers.config_mmdet3d import facts_of_mmdet3d
from kd3d.importers.config_openpcdet import facts_of_openpcdet
from kd3d.importers.container import ForeignCheckpoint, Framework
from kd3d.importers.facts import Facts, merged
from kd3d.importers.python_config import parse_python, read_python
from kd3d.importers.yaml_config import read_yaml

_FACTS = {"mmdet3d": facts_of_mmdet3d, "det3d": facts_of_det3d}


def facts_of_config(path: Path, *, whole: bool = True) -> Facts:
    """Read a configuration: YAML is OpenPCDet's, Python mmdetection3d's or det3d's.

    Args:
        path: the file.
        whole: whether all files that it builds on must be there; where a preset says the rest, they need not.

    Raises:
        UsageError: the file has another ending, or it or one that it builds on is not there.
        DataError: it cannot be read.
        CheckpointError: it describes a network that kd3d does not have.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"--config {path}: there is no such file.")
    source = f"the configuration {path.name}"
    if path.suffix in (".yaml", ".yml"):
        read = read_yaml(path)
        _refuse_missing(path, read.missing, whole)
        return facts_of_openpcdet(read.values, source)
    if path.suffix == ".py":
        read = read_python(path)
        _refuse_missing(path, read.missing, whole)
        return _FACTS[_python_framework(read.values)](read.values, source)
    raise UsageError(f"--config {path}: a configuration is .yaml (OpenPCDet) or .py (mmdetection3d, det3d).")


def _python_framework(config: dict[str, Any]) -> Framework:
    """det3d has a ``voxel_generator`` at its top."""
    return "det3d" if "voxel_generator" in config or "assigner" in config else "mmdet3d"


def _refuse_missing(path: Path, missing: tuple[str, ...], whole: bool) -> None:
    """Schedules and the runtime of mmdetection3d say nothing of a detector, so they need not be there."""
    needed = [name for name in missing if not re.search(r"(schedules[/.]|default_runtime)", name)]
    if needed and whole:
        raise UsageError(
            f"--config {path}: builds on {', '.join(needed)}, which is not where it says. Put the file(s) there, as in "
            "the framework's repository, or give --like PRESET as well for what they would say."
        )


def facts_of_file(found: ForeignCheckpoint) -> Facts:
    """What the checkpoint itself carries; a text that cannot be read as a configuration says nothing."""
    parts = []
    if found.config_text and found.framework in _FACTS:
        try:
            config = parse_python(found.config_text, str(found.path))
            parts.append(_FACTS[found.framework](config, "the checkpoint's own configuration"))
        except DataError:
            pass
    if found.classes:
        parts.append(Facts(source="the checkpoint's meta", classes=found.classes))
    return merged(parts)


def old_boxes(found: ForeignCheckpoint, facts: Facts) -> bool:
    """Whether boxes are (w, l, h) with yaw clockwise: always in det3d, and in mmdetection3d before 1.0.0rc0.

    Raises:
        UsageError: a file of mmdetection3d does not say its version.
    """
    if found.framework != "mmdet3d":
        return found.framework == "det3d"
    if facts.old_boxes is not None:
        return facts.old_boxes
    match = re.match(r"(\d+)\.", found.version or "")
    if match is None:
        raise UsageError(
            f"{found.path}: does not say which mmdetection3d made it; boxes changed with 1.0, names and shapes "
            "did not. Give --boxes new (1.0.0rc0 or later) or --boxes old."
        )
    return int(match[1]) < 1
