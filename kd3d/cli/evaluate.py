"""``kd3d eval``"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli.console import TerminalProgress, emit, note
from kd3d.cli.options import CudaBackend, CudaGraph, Data, Device, DeviceStages, Json, Provider, Split
from kd3d.cli.pipelines import Running, open_pipeline, truncation_text
from kd3d.errors import UsageError


def evaluate(
    data: Data,
    model: Annotated[
        str | None, typer.Option("--model", help="Model, run, export or engine folder, or an .onnx or .engine.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--results", help="Score this official results file instead of a model.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "--work-dir", help="Keep the results file and metrics here.")
    ] = None,
    split: Split = "val",
    max_range: Annotated[
        float | None,
        typer.Option("--max-range", min=0.0, help="Count nothing farther from the car than this, m (nuScenes)."),
    ] = None,
    device: Device = "auto",
    provider: Provider = "auto",
    cuda_backend: CudaBackend = "auto",
    cuda_graph: CudaGraph = False,
    device_stages: DeviceStages = "host",
    json_line: Json = False,
) -> None:
    """Official metrics: nuScenes mAP and NDS by the devkit, KITTI AP (R40), or Waymo AP and APH."""
    if (model is None) == (results is None):
        raise UsageError("give either --model or --results.")
    how = Running(device, provider, cuda_backend=cuda_backend, cuda_graph=cuda_graph, device_stages=device_stages)
    with tempfile.TemporaryDirectory(prefix="kd3d-eval-") as scratch:
        folder = out or Path(scratch)
        metrics = (
            _score_file(results, data, split, folder, max_range)
            if results
            else _score_model(str(model), data, split, folder, how=how, max_range=max_range)
        )
    _print(metrics)
    emit({**metrics.to_json(), **({"out": str(out)} if out else {})}, as_json=json_line)


def _score_file(results: Path, data: Path, split: str, folder: Path, max_range: float | None) -> Any:
    from kd3d.datasets.open import recognise
    from kd3d.evaluation.nuscenes_eval import evaluate_results

    if recognise(data) != "nuscenes":
        raise UsageError("--results scores nuScenes results files; for KITTI and Waymo give --model.")
    return evaluate_results(results, data, None, _split(split), folder, max_range_m=max_range)


def _score_model(model: str, data: Path, split: str, folder: Path, *, how: Running, max_range: float | None) -> Any:
    from kd3d.datasets.frames import to_frame
    from kd3d.datasets.open import open_dataset
    from kd3d.evaluation.evaluate import evaluate as evaluate_predictions

    pipeline = open_pipeline(model, how)
    spec = pipeline.spec
    dataset = open_dataset(data, split=_split(split), sweeps=spec.points.sweeps)
    with TerminalProgress().phase("evaluate") as step:
        metrics = evaluate_predictions(
            lambda sample: pipeline(to_frame(sample)),
            dataset,
            classes=spec.head.classes,
            out_dir=folder,
            progress=step,
            max_range_m=max_range,
        )
    if warning := truncation_text(pipeline):
        note(warning)
    return metrics


def _split(name: str) -> Any:
    if name not in ("train", "val"):
        raise UsageError(f"--split must be train or val, not {name}.")
    return name


def _print(metrics: Any) -> None:
    from kd3d.report.table import kitti_table, metrics_table, show, waymo_table

    found = metrics.to_json()
    extras = found["extras"]
    if "waymo_ap" in extras:
        show(waymo_table(extras))
    else:
        show(kitti_table(extras) if "ap_r40" in extras else metrics_table(found))
