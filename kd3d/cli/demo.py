"""``kd3d demo``"""

from __future__ import annotations

from typing import Annotated

import typer

from kd3d.cli.console import TerminalProgress, emit, say
from kd3d.cli.models import SHIPPED, load_model
from kd3d.cli.options import Force, Json, Out, Workers


def demo(
    out: Out,
    teacher: Annotated[str | None, typer.Option("--teacher", help="Another teacher than the shipped one.")] = None,
    scenes: Annotated[int, typer.Option("--scenes", min=2, max=10, help="Of the generated world.")] = 10,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Key frames per scene.")] = 20,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps of the student.")] = 400,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Frames per step.")] = 4,
    budget_flops: Annotated[str, typer.Option("--budget-flops", help="MACs of the student.")] = "25%",
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Timed frames per model.")] = 100,
    workers: Workers = 2,
    force: Force = False,
    json_line: Json = False,
) -> None:
    """The main job on a generated world: compress the shipped teacher, export, time, score and draw both."""
    from kd3d.cli.train import open_run
    from kd3d.detectors.assets import shipped_teacher
    from kd3d.report.demo import NAMES, DemoSettings, run_demo
    from kd3d.report.table import comparison, show
    from kd3d.spec.codec import to_json

    model = load_model(teacher) if teacher else shipped_teacher()
    settings = DemoSettings(
        scenes=scenes, samples=samples, steps=steps, batch_size=batch_size, budget=budget_flops, iterations=iterations
    )
    open_run(
        out,
        {"command": "demo", "teacher": teacher or SHIPPED, "data": str(out / "world"), **to_json(settings)},
        False,
        force,
    )
    result = run_demo(model, out, settings=settings, progress=TerminalProgress(), workers=max(workers, 1))
    show(
        comparison(
            "teacher and student on the generated world, ONNX Runtime on the CPU",
            {name: result[name] for name in NAMES},
        )
    )
    say(
        f"the student has {result['macs_ratio']:.1%} of the teacher's MACs and is {result['speedup']:.2f} times as fast"
    )
    say(f"picture: {result['picture']}")
    say(f"report: {result['report']}")
    emit(result, as_json=json_line)
