"""``kd3d import``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kd3d.cli.console import emit, say
from kd3d.cli.options import ImportConfig, Json, Like, Out


def import_model(
    checkpoint: Annotated[Path, typer.Argument(help="A .pth or .pt of OpenPCDet, mmdetection3d or det3d.")],
    out: Out,
    form: Annotated[str, typer.Option("--format", help="openpcdet, mmdet3d, det3d, or auto.")] = "auto",
    like: Like = None,
    config: ImportConfig = None,
    range_m: Annotated[
        str | None, typer.Option("--range", help="x, y, z minima, then maxima: -51.2,-51.2,-5,51.2,51.2,3.")
    ] = None,
    cell: Annotated[str | None, typer.Option("--cell", help="Metres; for voxels x,y,z.")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Names in the order of the model's outputs, over all tasks.")
    ] = None,
    features: Annotated[
        str | None, typer.Option("--features", help="Columns of a point: x,y,z,intensity,time_lag.")
    ] = None,
    stride: Annotated[int | None, typer.Option("--stride", min=1, help="Grid cells per cell of the head maps.")] = None,
    boxes: Annotated[str | None, typer.Option("--boxes", help="mmdetection3d before 1.0: old; since: new.")] = None,
    json_line: Json = False,
) -> None:
    """Turn another framework's checkpoint into a kd3d model, without importing that framework or running its pickle."""
    from kd3d.detectors.checkpoint import save_model
    from kd3d.importers.request import facts_of_flags, import_file

    flags = facts_of_flags(range_m=range_m, cell=cell, classes=classes, features=features, stride=stride, boxes=boxes)
    made = import_file(checkpoint, form=form, like=like, config=config, flags=flags)
    save_model(out, made.model.module, made.model.meta)
    params = sum(parameter.numel() for parameter in made.model.module.parameters())
    say(
        f"{made.framework}: {made.used} of {made.tensors} tensors became {made.model.spec.name} ({params:,} parameters)"
    )
    for name, reason in made.skipped.items():
        say(f"skipped {name}: {reason}")
    for note in made.notes:
        say(f"- {note}")
    say(f"data and decoding: {made.model.meta['facts']}")
    emit(
        {
            "model": str(out), "params": params, "framework": made.framework, "name": made.model.spec.name,
            "classes": list(made.model.spec.head.classes), "tensors": made.tensors, "used": made.used,
            "skipped": made.skipped, "notes": list(made.notes),
        },
        as_json=json_line,
    )  # fmt: skip
