"""``kd3d infer``"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli.console import emit, note, say
from kd3d.cli.options import CudaBackend, CudaGraph, Device, DeviceStages, Json, Provider
from kd3d.errors import DataError


def infer(
    model: Annotated[str, typer.Option("--model", help="Model, run, export or engine folder, or an .onnx or .engine.")],
    points: Annotated[Path, typer.Option("--points", help=".bin, .npy or .npz of one frame.")],
    columns: Annotated[
        str | None, typer.Option("--columns", help="Columns of a .bin, such as x,y,z,intensity,ring.")
    ] = None,
    raw: Annotated[Path | None, typer.Option("--raw", help="Also write the head maps to this .npz.")] = None,
    score: Annotated[
        float | None, typer.Option("--score", min=0, max=1, help="Show only boxes above this score.")
    ] = None,
    device: Device = "auto",
    provider: Provider = "auto",
    cuda_backend: CudaBackend = "auto",
    cuda_graph: CudaGraph = False,
    device_stages: DeviceStages = "host",
    json_line: Json = False,
) -> None:
    """Boxes of one frame, LiDAR frame: centre, length, width, height, yaw, velocity."""
    from kd3d.cli.pipelines import Running, open_pipeline, stages_device, truncation, truncation_text
    from kd3d.cli.points import frame_from_file

    how = Running(device, provider, cuda_backend=cuda_backend, cuda_graph=cuda_graph, device_stages=device_stages)
    pipeline = open_pipeline(model, how)
    frame, spec = frame_from_file(points, pipeline.spec, columns=columns)
    _refuse_unseen(frame.points, spec, points)
    pipeline.spec = spec
    maps = pipeline.network(pipeline.pre(frame))
    if raw is not None:
        _write_raw(pipeline.head_maps(maps) if stages_device(pipeline) == "cuda" else maps, raw)
    boxes = as_rows(pipeline.nms(pipeline.decode(maps)), spec.head.classes, score or 0.0)
    for row in boxes:
        (x, y, z), (length, width, height) = row["center_m"], row["size_m"]
        place, size = f"x {x:7.2f}  y {y:7.2f}  z {z:6.2f}", f"{length:5.2f} x {width:4.2f} x {height:4.2f} m"
        say(f"{row['score']:.3f}  {row['class']:<20}  {place}  {size}  yaw {row['yaw_rad']:5.2f}")
    say(f"{len(boxes)} box(es) in {points}")
    if warning := truncation_text(pipeline):
        note(warning)
    emit({"boxes": boxes, "points": len(frame.points), **truncation(pipeline)}, as_json=json_line)


def _refuse_unseen(points: Any, spec: Any, path: Path) -> None:
    """A stream of frames may have an empty one; a single file without a point to see is a mistake."""
    if not len(points):
        raise DataError(f"{path}: has no points. Record the cloud again.")
    grid = spec.grid
    low, high = (grid.x_min_m, grid.y_min_m, grid.z_min_m), (grid.x_max_m, grid.y_max_m, grid.z_max_m)
    if not ((points[:, :3] >= low) & (points[:, :3] < high)).all(axis=1).any():
        raise DataError(
            f"{path}: none of its {len(points)} points is in the detector's range, {low} to {high} m. "
            "Give metres in the LiDAR frame, the right --columns, or a detector of another range."
        )


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


def _write_raw(maps: Any, path: Path) -> None:
    import numpy as np

    from kd3d.runs.atomic import write_bytes

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: np.asarray(value)[0] for name, value in maps.items()})
    write_bytes(path, buffer.getvalue())
