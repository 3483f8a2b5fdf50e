"""``kd3d bench``"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli import benching, latency
from kd3d.cli.console import TerminalProgress, emit
from kd3d.cli.models import ARTEFACTS, Found, find_model, load_model
from kd3d.cli.options import CudaBackend, CudaGraph, Device, DeviceStages, Json, Provider, Split, Threads
from kd3d.cli.pipelines import Running
from kd3d.errors import UsageError

PROFILED = 50  # frames, at most


def bench(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help=".onnx, export, engine or model folders, presets.")
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option("--frames", help="Portable frames (kd3d data frames), a .bin, or a folder of them."),
    ] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Time on random points; the report says so.")] = False,
    iterations: benching.Iterations = 200,
    duration: benching.Duration = 0.0,
    warmup: benching.Warmup = 10,
    warmup_ms: benching.WarmupMs = 1000.0,
    percentiles: benching.Percentiles = "50,90,95,99",
    streams: benching.Streams = 2,
    rate: benching.Rate = None,
    deadline_ms: benching.Deadline = None,
    points_sweep: benching.Sweep = None,
    include_transfers: benching.Transfers = True,
    power: benching.Power = True,
    lock_clocks: benching.LockClocks = False,
    profile: benching.Profile = False,
    baseline: benching.Baseline = None,
    data: benching.Labelled = None,
    split: Split = "val",
    save_boxes: benching.SaveBoxes = None,
    columns: Annotated[str | None, typer.Option("--columns", help="Columns, where --frames is a .bin.")] = None,
    device: Device = "auto",
    provider: Provider = "auto",
    cuda_backend: CudaBackend = "auto",
    cuda_graph: CudaGraph = False,
    device_stages: DeviceStages = "host",
    threads: Threads = 0,
    make_table: Annotated[
        Path | None,
        typer.Option(
            "--make-table", help="Instead: measure a blocks.zip of kd3d search --write-blocks; --out is the table."
        ),
    ] = None,
    runtime: Annotated[
        str, typer.Option("--runtime", help="Of --make-table: onnxruntime, tensorrt or tensorrt_rtx.")
    ] = "onnxruntime",
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of --make-table: fp32 or fp16; that of the blocks if not given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "--work-dir", help="Write bench.json and frames.jsonl here.")
    ] = None,
    json_line: Json = False,
) -> None:
    """Latency, throughput, deadlines, power and accuracy over real frames; several models take turns on them.

    With --make-table: the latency of every building block of a search space, so that students can be searched for this
    device on another machine.
    """
    if make_table is not None:
        if models or frames is not None or synthetic:
            raise UsageError("--make-table measures the blocks alone: give no models and no frames.")
        on = Running(device, threads=threads, cuda_backend=cuda_backend)
        latency.make_table(make_table, out, on, runtime=runtime, precision=precision, as_json=json_line)
        return
    if not models:
        raise UsageError("name at least one model to time, or --make-table BLOCKS.zip.")
    if (frames is None) != synthetic:
        raise UsageError("give either --frames (recorded) or --synthetic (random points).")
    from kd3d.bench import BenchSettings

    settings = BenchSettings(
        warmup,
        warmup_ms,
        iterations,
        duration,
        percentiles=benching.numbers(percentiles, "--percentiles"),
        in_flight=streams,
        rate_hz=rate,
        deadline_ms=deadline_ms,
        points_sweep=benching.counts(points_sweep, "--points-sweep"),
        include_transfers=include_transfers,
    )
    benching.check_request(data=data, save_boxes=save_boxes, models=models, profile=profile, out=out)
    how = Running(
        device, provider, threads, cuda_backend=cuda_backend, cuda_graph=cuda_graph, device_stages=device_stages
    )
    pipelines, described = _open(models, how)
    held, source = _frames(frames, next(iter(pipelines.values())).spec, columns)
    stored = benching.open_baseline(baseline, described, held)
    report = _measure(pipelines, held, settings, described=described, source=source, power=power, lock=lock_clocks)
    if stored is not None:
        from kd3d.bench.baseline import judge

        report = report.with_baseline(judge(stored, report.record))
    if data is not None:
        report = benching.with_accuracy(report, pipelines, data=data, split=split, save_boxes=save_boxes)
    if profile and out is not None:
        report = benching.with_profiles(report, pipelines, held, out=out, count=min(iterations, PROFILED))
    if out is not None:
        report.write(out)
    benching.show_report(report.record, synthetic=synthetic)
    benching.refuse_slower(report)
    emit(report.to_json(), as_json=json_line)


def _measure(
    pipelines: dict[str, Any],
    held: Any,
    settings: Any,
    *,
    described: dict[str, Any],
    source: Any,
    power: bool,
    lock: bool,
) -> Any:
    from kd3d.bench import full_bench
    from kd3d.bench.locking import locked_clocks

    terminal, devices = TerminalProgress(), [str(one["device"]) for one in described.values()]
    with ExitStack() as stack:
        locked = stack.enter_context(locked_clocks(devices)) if lock else None
        report = full_bench(
            pipelines,
            held,
            settings=settings,
            models=described,
            source=source,
            power=benching.power_source(power, devices[0]),
            progress=lambda label: stack.enter_context(terminal.phase(label)),
        )
    return report if locked is None else report.with_locked(locked)


def _open(models: list[str], how: Running) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    pipelines: dict[str, Any] = {}
    described: dict[str, dict[str, Any]] = {}
    for text in models:
        name = text if text not in pipelines else f"{text} #{len(pipelines) + 1}"
        found = find_model(text)
        pipelines[name], described[name] = (
            _artefact(found, how) if found.kind in ARTEFACTS else _torch(found, how.device, how.threads)
        )
    return pipelines, described


def _artefact(found: Found, how: Running) -> tuple[Any, dict[str, Any]]:
    from kd3d.cli.pipelines import artefact_pipeline, cuda_name, file_size_mb, stages_device

    pipeline = artefact_pipeline(found, how)
    assert found.path is not None
    engine = found.kind == "engine"
    return pipeline, {
        "runtime": pipeline.runner.name if engine else "onnxruntime",
        "device": cuda_name(how) if engine else pipeline.runner.device,
        "threads": how.threads or None,
        "size_mb": file_size_mb(found.path),
        **({"device_stages": stages_device(pipeline)} if engine else {}),
        **benching.artefact(found.path),
    }


def _torch(found: Found, device: str, threads: int) -> tuple[Any, dict[str, Any]]:
    import torch

    from kd3d.cli.pipelines import torch_device, torch_pipeline

    if threads:
        torch.set_num_threads(threads)
    model = load_model(found.name, presets=True)
    return torch_pipeline(model, device=device), {
        "runtime": "torch",
        "device": torch_device(device),
        "threads": torch.get_num_threads(),
        "params": sum(parameter.numel() for parameter in model.module.parameters()),
        "random_weights": found.kind == "preset",
    }


def _frames(path: Path | None, spec: Any, columns: str | None) -> tuple[Any, dict[str, Any]]:
    if path is None:
        from kd3d.bench.synthetic import synthetic_frames

        return synthetic_frames(spec, count=20, points=30000), {"source": "synthetic", "synthetic": True}
    from kd3d.cli.points import frames_at

    return frames_at(path, spec, columns=columns), {"source": str(path), "synthetic": False}
