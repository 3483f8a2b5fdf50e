"""Facts that lie in files: the framework's configuration, and what a checkpoint carries beside its tensors."""

from __future__ import annotations

import re
from pathlib import Path

from kd3d.errors import DataError, UsageError
from kd3d.importers.config_mmdet3d import FACTS, framework_of
from kd3d.importers.config_openpcdet import facts_of_openpcdet
from kd3d.importers.container import ForeignCheckpoint
from kd3d.importers.facts import Facts, merged
from kd3d.importers.python_config import parse_python, read_python
from kd3d.importers.yaml_config import read_yaml


def facts_of_config(path: Path) -> Facts:
    """Read a configuration: YAML is OpenPCDet's, Python mmdetection3d's or det3d's.

    Raises:
        UsageError: the file has another ending, or is not there.
        DataError: it cannot be read.
        CheckpointError: it describes a network that kd3d does not have.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"--config {path}: there is no such file.")
    source = f"the configuration {path.name}"
    if path.suffix in (".yaml", ".yml"):
        return facts_of_openpcdet(read_yaml(path), source)
    if path.suffix == ".py":
        config = read_python(path)
        return FACTS[framework_of(config)](config, source)
    raise UsageError(f"--config {path}: a configuration is .yaml (OpenPCDet) or .py (mmdetection3d, det3d).")


def facts_of_file(found: ForeignCheckpoint) -> Facts:
    """What the checkpoint itself carries; a text that cannot be read as a configuration says nothing."""
    parts = []
    if found.config_text and found.framework in FACTS:
        try:
            config = parse_python(found.config_text, str(found.path))
            parts.append(FACTS[found.framework](config, "the checkpoint's own configuration"))
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
