"""``kd3d eval``"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli.console import TerminalProgress, emit
from kd3d.cli.models import find_model, load_model
from kd3d.cli.options import Data, Device, Json, Split
from kd3d.errors import UsageError


def evaluate(
    data: Data,
    model: Annotated[
        str | None, typer.Option("--model", help="Model folder, run folder, .onnx file, or export folder.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--results", help="Score this official results file instead of a model.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "--work-dir", help="Keep the results file and metrics here.")
    ] = None,
    split: Split = "val",
    device: Device = "auto",
    json_line: Json = False,
) -> None:
    """Official metrics: nuScenes mAP and NDS by the devkit, or KITTI AP (R40)."""
    if (model is None) == (results is None):
        raise UsageError("give either --model or --results.")
    with tempfile.TemporaryDirectory(prefix="kd3d-eval-") as scratch:
        folder = out or Path(scratch)
        metrics = (
            _score_file(results, data, split, folder)
            if results
            else _score_model(str(model), data, split, folder, device)
        )
    _print(metrics)
    emit({**metrics.to_json(), **({"out": str(out)} if out else {})}, as_json=json_line)


def _score_file(results: Path, data: Path, split: str, folder: Path) -> Any:
    from kd3d.datasets.open import recognise
    from kd3d.evaluation.nuscenes_eval import evaluate_results

    if recognise(data) != "nuscenes":
        raise UsageError("--results scores nuScenes results files; for KITTI give --model.")
    return evaluate_results(results, data, None, _split(split), folder)


def _score_model(model: str, data: Path, split: str, folder: Path, device: str) -> Any:
    from kd3d.datasets.open import open_dataset
    from kd3d.evaluation.evaluate import evaluate as evaluate_predictions

    predict, spec = predictor(model, device)
    dataset = open_dataset(data, split=_split(split), sweeps=spec.points.sweeps)
    with TerminalProgress().phase("evaluate") as step:
        return evaluate_predictions(predict, dataset, classes=spec.head.classes, out_dir=folder, progress=step)


def predictor(model: str, device: str) -> tuple[Any, Any]:
    """A function from a sample to boxes, and the detector's specification."""
    from kd3d.cli.pipelines import onnx_pipeline, torch_pipeline
    from kd3d.datasets.frames import to_frame

    found = find_model(model)
    if found.kind in ("onnx", "export"):
        pipeline = onnx_pipeline(found, provider=device, threads=0)
    else:
        pipeline = torch_pipeline(load_model(model), device=device)
    return lambda sample: pipeline(to_frame(sample)), pipeline.spec


def _split(name: str) -> Any:
    if name not in ("train", "val"):
        raise UsageError(f"--split must be train or val, not {name}.")
    return name


def _print(metrics: Any) -> None:
    from kd3d.report.table import kitti_table, metrics_table, show

    found = metrics.to_json()
    show(kitti_table(found["extras"]) if "ap_r40" in found["extras"] else metrics_table(found))
