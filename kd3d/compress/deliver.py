"""The last step of a compression: teacher and student as files for the vehicle, timed beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.bench import bench
from kd3d.datasets.base import SampleDataset
from kd3d.datasets.frames import portable_frames
from kd3d.detectors.checkpoint import Model
from kd3d.export.onnx import export_onnx
from kd3d.runs.progress import Progress
from kd3d.runtime.frames import read_frames, write_frames
from kd3d.runtime.pipeline import load_pipeline

_PARITY_FRAMES = 4


@dataclass(frozen=True)
class DeliverSettings:
    """How much is timed.

    Args:
        frames: of the validation split, on which exports are compared with torch and timed.
        iterations: timed frames per model.
    """

    frames: int = 20
    iterations: int = 100


def export_and_bench(
    models: Mapping[str, Model], data: SampleDataset, run: Path, *, settings: DeliverSettings, progress: Progress
) -> dict[str, Any]:
    """Export ``models`` to ONNX after every gate, and time them in turns in ONNX Runtime on the CPU.

    Args:
        models: by name; the first is what the others are compared with.
        data: frames, of which some are written as portable frames.
        run: receives ``frames/``, ``export/NAME/`` and ``bench/``.
        settings: how much is timed.
        progress: shows the steps.

    Returns:
        ``export``: what ``kd3d export onnx`` says of each model. ``bench``: what ``kd3d bench`` says of all.

    Raises:
        GateError: an export differs from its model.
        OutputError: ``run`` is not writable.
    """
    write_frames(portable_frames(data, min(settings.frames, len(data))), run / "frames")
    folder = read_frames(run / "frames")
    frames = [folder[index] for index in range(len(folder))]
    spread = frames[:: max(1, len(frames) // _PARITY_FRAMES)][:_PARITY_FRAMES]
    made = {}
    for name, model in models.items():
        made[name] = export_onnx(model, run / "export" / name, frames=spread)
        progress.line(f"export: {made[name].artifact}, {made[name].parity.matched} boxes as in torch")
    with ExitStack() as stack, progress.phase("bench") as step:
        report = bench(
            {name: stack.enter_context(load_pipeline(run / "export" / name)) for name in models},
            frames,
            models={name: {"runtime": "onnxruntime", "device": "cpu"} for name in models},
            source={"source": str(run / "frames"), "synthetic": False},
            iterations=settings.iterations,
            progress=step,
        )
    report.write(run / "bench")
    return {"export": {name: found.to_json() for name, found in made.items()}, "bench": report.to_json()}


def latencies(delivered: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """``latency_ms_p50`` and ``fps`` of every model that ``export_and_bench`` timed, end to end, by its name."""
    return {
        timed["name"]: {"latency_ms_p50": timed["e2e_ms"]["p50"], "fps": timed["fps"]}
        for timed in delivered["bench"]["models"]
    }
