"""``kd3d data synth``"""

from __future__ import annotations

from typing import Annotated

import typer

from kd3d.cli.console import TerminalProgress, emit, say
from kd3d.cli.options import Force, Json, Out, Seed, Workers


def synth(
    out: Out,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Scenes to make; each is 10 s by default.")] = 10,
    seed: Seed = 0,
    version: Annotated[str, typer.Option("--version", help="v1.0-mini or v1.0-trainval.")] = "v1.0-mini",
    samples: Annotated[int, typer.Option("--samples", min=2, help="Key frames per scene, at 2 Hz.")] = 20,
    cameras: Annotated[
        bool, typer.Option("--cameras/--no-cameras", help="Whether to draw the six camera pictures.")
    ] = True,
    split: Annotated[str, typer.Option("--split", help="Scene names of train, val, or both.")] = "both",
    workers: Workers = 2,
    force: Force = False,
    json_line: Json = False,
) -> None:
    """Write a generated world in nuScenes format, which the devkit loads like the real one."""
    from kd3d.datasets.world import write_world

    with TerminalProgress().phase("world") as step:
        made = write_world(
            out,
            scenes=scenes,
            seed=seed,
            version=version,
            samples_per_scene=samples,
            cameras=cameras,
            workers=max(workers, 1),
            split=split,
            progress=step,
            force=force,
        )
    say(f"{made.root}: {made.version}, {made.scenes} scenes, {made.samples} key frames, {made.boxes} boxes")
    result = {
        "root": str(made.root),
        "version": made.version,
        "scenes": made.scenes,
        "samples": made.samples,
        "boxes": made.boxes,
    }
    emit(result, as_json=json_line)
