"""``kd3d data frames``"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import typer

from kd3d.cli.console import TerminalProgress, emit, say
from kd3d.cli.options import Data, Json, Out, Split


def frames(
    data: Data,
    out: Out,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="Frames to write, spread evenly over the split.")
    ] = 50,
    split: Split = "val",
    sweeps: Annotated[int, typer.Option("--sweeps", min=0, help="Past sweeps added to each key frame.")] = 0,
    json_line: Json = False,
) -> None:
    """Write portable frames (points, calibration, labels) that the vehicle side reads without torch or the devkit."""
    from kd3d.datasets.frames import to_frame
    from kd3d.datasets.open import open_dataset
    from kd3d.runtime.frames import write_frames

    dataset = open_dataset(data, split=split, sweeps=sweeps)
    with TerminalProgress().phase("frames") as step:
        written = write_frames((to_frame(dataset[index]) for index in _counted(spread(len(dataset), count), step)), out)
    say(f"{out}: {written} frames")
    emit({"frames": written, "out": str(out)}, as_json=json_line)


def spread(length: int, count: int) -> list[int]:
    """``count`` indices (fewer if there are fewer) spread evenly over ``length``."""
    count = min(count, length)
    return [index * length // count for index in range(count)]


def _counted(items: Sequence[int], step: Callable[[int, int], None]) -> Iterator[int]:
    for done, item in enumerate(items):
        step(done, len(items))
        yield item
    step(len(items), len(items))
