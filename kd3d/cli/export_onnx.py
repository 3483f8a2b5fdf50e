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
    frames: Annotated[
        Path | None,
        typer.Option("--frames", help="Of the parity check and of int8: portable frames, a .bin, or a folder of them."),
    ] = None,
    columns: Annotated[str | None, typer.Option("--columns", help="Columns, where --frames is a .bin.")] = None,
    parity_frames: Annotated[int, typer.Option("--parity-frames", min=1, help="Frames compared.")] = 8,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set, 18 to 20.")] = 20,
    pillars: Annotated[
        int | None, typer.Option("--pillars", min=2, help="A fixed number of pillars; free if not given.")
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, fp16 or int8 in the graph; inputs and outputs stay fp32.")
    ] = "fp32",
    calibration: Annotated[
        str, typer.Option("--calibration", help="Ranges of int8: percentile, mse, entropy or max.")
    ] = "percentile",
    int8_for: Annotated[
        str,
        typer.Option("--int8-for", help="int8 for tensorrt (the rest in fp16) or cpu (ONNX Runtime, rest in fp32)."),
    ] = "tensorrt",
    half_by: Annotated[
        str,
        typer.Option("--half-by", help="What makes fp16: kd3d, or autocast (NVIDIA ModelOpt: extra autocast)."),
    ] = "kd3d",
    for_trt: Annotated[
        list[str] | None,
        typer.Option(
            "--for-trt", help="Refuse what this TensorRT version objects to: 8.6, 10.3, 10.13, 10.16, 11.4, rtx."
        ),
    ] = None,
    json_line: Json = False,
) -> None:
    """Export to ONNX, after every gate: checker, portable operators, and boxes equal to torch's."""
    from kd3d.cli.points import chosen_frames
    from kd3d.export.int8 import Int8Settings
    from kd3d.export.onnx import export_onnx

    int8 = Int8Settings(calibration, int8_for)
    loaded = load_model(model, presets=True)
    recorded = chosen_frames(frames, parity_frames, spec=loaded.spec, columns=columns)
    result = export_onnx(
        loaded,
        out,
        frames=recorded,
        opset=opset,
        pillars=pillars,
        precision=precision,
        targets=for_trt or (),
        int8=int8,
        half_by=half_by,
    )
    parity = result.parity
    say(
        f"{result.artifact}: {result.precision}, {parity.matched} of {parity.boxes} boxes{_others(parity)} "
        f"on {parity.frames} frames as in torch"
    )
    for gate in result.gates:
        if gate.state == "skipped":
            say(f"gate {gate.name} was skipped: {gate.reason}")
        rules = gate.details.get("kept_fp32", {}).values()
        if sensitive := sum(rule.startswith("sensitive") for rule in rules):
            say(f"gate {gate.name}: {sensitive} layer(s) stay in fp32, because rounding them moved boxes")
    emit(result.to_json(), as_json=json_line)


def _others(parity: Any) -> str:
    """Accepted boxes that are not matched."""
    lost = parity.ties - parity.short_headings
    told = [f"{lost} more lost a tie of scores"] if lost else []
    told += [f"{parity.short_headings} more differ in a heading that the network does not know"] * (
        parity.short_headings > 0
    )
    return f" ({', '.join(told)})" if told else ""
