"""``kd3d infer``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli.console import emit, say
from kd3d.cli.models import find_model, load_model
from kd3d.cli.options import Device, Json


def infer(
    model: Annotated[str, typer.Option("--model", help="Model folder, run folder, .onnx file, or export folder.")],
    points: Annotated[Path, typer.Option("--points", help=".bin, .npy or .npz of one frame.")],
    columns: Annotated[
        str | None, typer.Option("--columns", help="Columns of a .bin, such as x,y,z,intensity,ring.")
    ] = None,
    raw: Annotated[Path | None, typer.Option("--raw", help="Also write the head maps to this .npz.")] = None,
    score: Annotated[
        float | None, typer.Option("--score", min=0, max=1, help="Show only boxes above this score.")
    ] = None,
    device: Device = "auto",
    json_line: Json = False,
) -> None:
    """Boxes of one frame, LiDAR frame: centre, length, width, height, yaw, velocity."""
    from kd3d.cli.points import frame_from_file

    pipeline = _pipeline(model, device)
    frame, spec = frame_from_file(points, pipeline.spec, columns=columns)
    pipeline.spec = spec
    maps = pipeline.network(pipeline.pre(frame))
    if raw is not None:
        _write_raw(maps, raw)
    boxes = as_rows(pipeline.nms(pipeline.decode(maps)), spec.head.classes, score or 0.0)
    for row in boxes:
        x, y, z = row["center_m"]
        say(f"{row['score']:.3f}  {row['class']:<22} x {x:8.2f}  y {y:8.2f}  z {z:6.2f}  yaw {row['yaw_rad']:6.2f}")
    say(f"{len(boxes)} box(es) in {points}")
    emit({"boxes": boxes, "points": len(frame.points)}, as_json=json_line)


def as_rows(boxes: Any, classes: tuple[str, ...], threshold: float) -> list[dict[str, Any]]:
    """Boxes as JSON objects, best first."""
    rows = [
        {
            "class": classes[int(label)],
            "score": float(score),
            "center_m": [float(value) for value in row[:3]],
            "size_m": [float(value) for value in row[3:6]],
            "yaw_rad": float(row[6]),
            "velocity_m_s": [float(value) for value in row[7:9]],
        }
        for row, label, score in zip(boxes.array, boxes.label, boxes.score, strict=True)
        if score >= threshold
    ]
    return sorted(rows, key=lambda row: -float(row["score"]))


def _pipeline(model: str, device: str) -> Any:
    from kd3d.cli.pipelines import onnx_pipeline, torch_pipeline

    found = find_model(model)
    if found.kind in ("onnx", "export"):
        return onnx_pipeline(found, provider=device, threads=0)
    return torch_pipeline(load_model(model), device=device)


def _write_raw(maps: Any, path: Path) -> None:
    import numpy as np

    from kd3d.runs.atomic import atomic_file

    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{name: np.asarray(value)[0] for name, value in maps.items()})
