"""``kd3d export onnx``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli.console import emit, say
from kd3d.cli.models import load_model
from kd3d.cli.options import Json, Out


def onnx(
    model: Annotated[str, typer.Option("--model", help="Model folder, run folder, or preset name (random weights).")],
    out: Out,
    frames: Annotated[Path | None, typer.Option("--frames", help="Portable frames for the parity check.")] = None,
    parity_frames: Annotated[int, typer.Option("--parity-frames", min=1, help="Frames compared.")] = 8,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set, 18 to 20.")] = 20,
    pillars: Annotated[
        int | None, typer.Option("--pillars", min=2, help="A fixed number of pillars; free if not given.")
    ] = None,
    json_line: Json = False,
) -> None:
    """Export to ONNX, after every gate: checker, portable operators, and boxes equal to torch's."""
    from kd3d.export.onnx import export_onnx

    loaded = load_model(model, presets=True)
    result = export_onnx(loaded, out, frames=_parity_frames(frames, parity_frames), opset=opset, pillars=pillars)
    parity = result.parity
    say(
        f"{result.artifact}: {result.precision}, "
        f"{parity.matched} of {parity.boxes} boxes on {parity.frames} frames as in torch"
    )
    emit(result.to_json(), as_json=json_line)


def _parity_frames(folder: Path | None, count: int) -> list[Any]:
    """Recorded frames for the parity gate; it always uses generated ones as well."""
    if folder is None:
        return []
    from kd3d.cli.data_frames import spread
    from kd3d.runtime.frames import read_frames

    found = read_frames(folder)
    return [found[index] for index in spread(len(found), count)]
