"""``kd3d export autoware``"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from kd3d.cli.console import emit, say
from kd3d.cli.models import load_model
from kd3d.cli.options import Json, Out


def autoware(
    model: Annotated[str, typer.Option("--model", help="Model folder, run folder, or preset name (random weights).")],
    out: Out,
    name: Annotated[
        str | None, typer.Option("--name", help="The node's model_name; the detector's name if not given.")
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option("--frames", help="Of the gates: portable frames, a .bin, or a folder of them."),
    ] = None,
    columns: Annotated[str | None, typer.Option("--columns", help="Columns, where --frames is a .bin.")] = None,
    parity_frames: Annotated[int, typer.Option("--parity-frames", min=1, help="Frames compared.")] = 8,
    precision: Annotated[
        str, typer.Option("--precision", help="fp32 or fp16 in the graphs; inputs and outputs stay fp32.")
    ] = "fp32",
    features: Annotated[
        int | None, typer.Option("--features", help="Per point: 9, 10 or 11; 11 with intensity, else 10.")
    ] = None,
    class_names: Annotated[
        str | None, typer.Option("--class-names", help="The node's names in the detector's order: CAR,TRUCK,...")
    ] = None,
    intensity_scale: Annotated[
        float | None, typer.Option("--intensity-scale", help="From the node's 0..255 to the detector's intensity.")
    ] = None,
    score_threshold: Annotated[float, typer.Option("--score-threshold", help="Of the node's parameters.")] = 0.35,
    yaw_norm: Annotated[float, typer.Option("--yaw-norm", help="Of the node's parameters; 0 drops nothing.")] = 0.0,
    circle: Annotated[float, typer.Option("--circle", help="Radius of the node's suppression in metres.")] = 0.5,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set, 17 to 20.")] = 17,
    for_trt: Annotated[
        list[str] | None,
        typer.Option(
            "--for-trt", help="Refuse what this TensorRT version objects to: 8.6, 10.3, 10.13, 10.16, 11.4, rtx."
        ),
    ] = None,
    json_line: Json = False,
) -> None:
    """Export to the two ONNX files and the parameter files of Autoware's CenterPoint node, after every gate."""
    from kd3d.cli.points import chosen_frames
    from kd3d.export.autoware import AutowareSettings, export_autoware

    loaded = load_model(model, presets=True)
    settings = AutowareSettings(
        name=name or re.sub(r"[^A-Za-z0-9]+", "_", loaded.spec.name).strip("_"),
        class_names=None if class_names is None else tuple(part.strip() for part in class_names.split(",")),
        features=features,
        intensity_scale=intensity_scale,
        score_threshold=score_threshold,
        yaw_norm=yaw_norm,
        circle_m=circle,
        precision=precision,
        opset=opset,
        targets=tuple(for_trt or ()),
    )
    recorded = chosen_frames(frames, parity_frames, spec=loaded.spec, columns=columns)
    result = export_autoware(loaded, out, settings, frames=recorded)
    parity = result.parity
    say(
        f"{result.artifact}: {result.precision}, in the node {parity.matched} of {parity.boxes} boxes "
        f"on {parity.frames} frames as with torch"
    )
    if result.agreement is not None:
        boxes, count, found = (result.agreement[key] for key in ("boxes", "frames", "found"))
        say(f"of {boxes} boxes that kd3d itself finds on {count} frames, the node has {found}")
    for line in result.notes:
        say(f"note: {line}")
    for gate in result.gates:
        if gate.state == "skipped":
            say(f"gate {gate.name} was skipped: {gate.reason}")
    emit(result.to_json(), as_json=json_line)
