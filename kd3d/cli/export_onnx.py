"""``kd3d export onnx``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli.console import emit, note, say
from kd3d.cli.models import load_model
from kd3d.cli.options import Force, Json, Out


def onnx(
    model: Annotated[str, typer.Option("--model", help="Model folder, run folder, or preset name (random weights).")],
    out: Out,
    frames: Annotated[Path | None, typer.Option("--frames", help="Portable frames for the parity check.")] = None,
    parity_frames: Annotated[int, typer.Option("--parity-frames", min=1, help="Frames compared.")] = 8,
    force: Force = False,
    json_line: Json = False,
) -> None:
    """Export to ONNX, after every gate: checker, portable operators, and boxes equal to torch's."""
    from kd3d.export.onnx import export_onnx

    loaded = load_model(model, presets=True)
    _free(out, force)
    result = export_onnx(loaded, out, frames=_parity_frames(frames, loaded, parity_frames))
    say(f"{result.artifact}: {result.precision}, parity {_short(result.parity)}")
    emit({"artifact": str(result.artifact), "precision": result.precision, "parity": result.parity}, as_json=json_line)


def _free(out: Path, force: bool) -> None:
    from kd3d.errors import OutputError

    if out.exists() and any(out.iterdir()) and not force:
        raise OutputError(f"{out}: the folder is not empty. Choose another, or add --force.")


def _parity_frames(folder: Path | None, loaded: Any, count: int) -> list[Any]:
    from kd3d.cli.data_frames import spread

    if folder is None:
        from kd3d.bench.synthetic import synthetic_frames

        note("parity is checked on synthetic points; give --frames for recorded ones.")
        return list(synthetic_frames(loaded.spec, count=count, points=20000))
    from kd3d.runtime.frames import read_frames

    found = read_frames(folder)
    return [found[index] for index in spread(len(found), count)]


def _short(parity: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in dict(parity).items() if isinstance(value, (int, float)))
