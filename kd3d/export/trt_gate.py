"""Gate ``engine``: the engine that ships gives the boxes of the ONNX it was built from. No torch, no onnx."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kd3d.errors import BackendError, DeviceMemoryError, EngineError, GateError
from kd3d.export.gates import Gate
from kd3d.export.parity import ParityReport, compare
from kd3d.export.parity_match import FP16_TOLERANCE, INT8_TOLERANCE, Tolerance
from kd3d.export.probes import probe_frames
from kd3d.export.trt_build import BuildSettings
from kd3d.runtime.device.protocol import DeviceBackend
from kd3d.runtime.engine_file import read_engine_file
from kd3d.runtime.frames import Frame
from kd3d.runtime.pipeline import Pipeline, load_pipeline
from kd3d.runtime.runners import OrtRunner
from kd3d.runtime.trt_runner import TrtRunner


def engine_gate(
    onnx: Path,
    folder: Path,
    settings: BuildSettings,
    *,
    frames: Sequence[Frame] = (),
    backend: Callable[[], DeviceBackend],
) -> Gate:
    """Run the engine of ``folder`` and its ONNX over generated frames and ``frames``, and compare their boxes.

    Both keep as many pillars as the engine's profile allows. It is skipped with a reason where the engine is for
    another device, or where ONNX Runtime or a CUDA binding is missing.

    Raises:
        GateError: boxes differ.
        EngineError: the engine cannot be loaded where it was built.
        DeviceMemoryError: the device has not enough memory to run it.
    """
    if settings.capabilities:
        return Gate("engine", "skipped", reason="built ahead of time for other devices")
    try:
        report = _compare(onnx, folder, settings, frames=frames, backend=backend)
    except (EngineError, DeviceMemoryError):
        raise
    except BackendError as error:
        return Gate("engine", "skipped", reason=str(error))
    if not report.passed:
        raise GateError(
            f"gate engine: the engine differs from its ONNX on {report.frames} frame(s), {report.matched} of "
            f"{report.boxes} boxes matched: {'; '.join(report.failures[:3])}. "
            f"Try --precision fp32, or --typing flags, or another TensorRT.",
            gate="engine",
        )
    return Gate("engine", details={"parity": report.to_json()})


def _compare(
    onnx: Path, folder: Path, settings: BuildSettings, *, frames: Sequence[Frame], backend: Callable[[], Any]
) -> ParityReport:
    exact = settings.precision == "fp32" and not settings.tf32
    runner = TrtRunner(read_engine_file(folder), backend=backend)
    with load_pipeline(folder, runner) as engine, OrtRunner(onnx) as reference:
        spec = engine.spec
        most = next(info for info in runner.inputs if info.name == "features").high[0] or 1
        fitting = replace(spec, encoder=spec.encoder.capped(most))
        held = [*probe_frames(fitting), *frames]
        lowered = INT8_TOLERANCE if settings.precision == "int8" else FP16_TOLERANCE
        tolerance = Tolerance() if exact else lowered
        return compare(Pipeline(fitting, reference), engine, held, tolerance=tolerance)
