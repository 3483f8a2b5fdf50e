"""``kd3d presets``"""

from __future__ import annotations

from kd3d.cli.console import emit, say
from kd3d.cli.options import Json


def presets(json_line: Json = False) -> None:
    """List the detectors that are known by name."""
    from kd3d.detectors.presets import PRESETS, describe

    lines = {name: describe(name) for name in PRESETS}
    for name, text in lines.items():
        say(f"{name:<36} {text}")
    emit({"presets": lines}, as_json=json_line)
