"""ONNX export: the hand-over to the vehicle, written only after every gate.

Gates, in order: ``checker`` (the file is valid ONNX), ``operators`` (TensorRT can build it), ``parity`` (ONNX Runtime
gives torch's boxes). A refused export leaves nothing behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kd3d.detectors.checkpoint import Model, weights_bytes
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.errors import GateError, GraphError, OutputError, UsageError
from kd3d.export.graph import write_graph
from kd3d.export.manifest import EXPORT_FILE, ONNX_FILE, PIPELINE_FILE, SPEC_FILE, export_json, pipeline_json
from kd3d.export.operators import check_operators
from kd3d.export.parity import ParityReport, Stages, compare, compare_maps
from kd3d.export.parity_match import Tolerance
from kd3d.export.probes import probe_frames
from kd3d.optional import require
from kd3d.runs.atomic import atomic_folder, output_errors, write_json
from kd3d.runtime.frames import Frame
from kd3d.runtime.pipeline import load_pipeline
from kd3d.spec import DetectorSpec, to_json

OPSETS = range(18, 21)
_PADDING_ROWS = 7


@dataclass(frozen=True)
class ExportResult:
    """What an export made.

    Args:
        artifact: the ``model.onnx``.
        precision: of its weights and arithmetic.
        parity: how it compares with torch.
    """

    artifact: Path
    precision: str
    parity: ParityReport

    def to_json(self) -> dict[str, Any]:
        """The stable keys of ``kd3d export onnx --json``."""
        return {"artifact": str(self.artifact), "precision": self.precision, "parity": self.parity.to_json()}


def export_onnx(
    model: Model,
    out: Path,
    *,
    frames: Sequence[Frame] = (),
    opset: int = 20,
    pillars: int | None = None,
    tolerance: Tolerance | None = None,
) -> ExportResult:
    """Export a model to the folder ``out``: ``model.onnx``, ``spec.json``, ``pipeline.json``, ``export.json``.

    Args:
        model: the detector.
        out: a new folder, or an earlier export, which is replaced.
        frames: real frames for the parity gate, besides generated ones.
        opset: 18 to 20.
        pillars: a fixed number of pillars per frame, for runtimes without dynamic shapes; ``None`` takes any number.
        tolerance: of the parity gate.

    Raises:
        UsageError: ``opset`` or ``pillars`` makes no sense.
        GraphError: gate ``checker`` or ``operators``; the nodes are listed.
        GateError: gate ``parity``; the worst differences are listed.
        OutputError: ``out`` holds something else, or cannot be written.
        BackendError: onnx, onnxscript or onnxruntime is not installed.
    """
    _check_request(model, out, opset, pillars)
    weights_sha256 = hashlib.sha256(weights_bytes(model.module)).hexdigest()
    spec = shipped_spec(model.spec, pillars)
    with atomic_folder(Path(out)) as folder:
        path = folder / ONNX_FILE
        write_graph(model.module, spec, path, opset=opset, pillars=pillars, weights_sha256=weights_sha256)
        operators = check_graph(path)
        write_json(folder / SPEC_FILE, to_json(spec))
        write_json(folder / PIPELINE_FILE, pipeline_json(spec, pillars=pillars))
        shipped = Model(spec, model.module)
        parity = check_parity(shipped, folder, frames, pillars=pillars, tolerance=tolerance or Tolerance())
        record = export_json(
            model={"name": model.spec.name, "weights_sha256": weights_sha256},
            artifact=path,
            opset=opset,
            pillars=pillars,
            operators=operators,
            parity=parity.to_json(),
            gates=("checker", "operators", "parity"),
        )
        write_json(folder / EXPORT_FILE, record)
    return ExportResult(Path(out) / ONNX_FILE, "fp32", parity)


def shipped_spec(spec: DetectorSpec, pillars: int | None) -> DetectorSpec:
    """The specification of an export: a network of ``pillars`` rows keeps no more pillars than that."""
    if pillars is None or pillars >= spec.pillar_encoder.max_pillars:
        return spec
    return replace(spec, encoder=replace(spec.pillar_encoder, max_pillars=pillars))


def check_graph(path: Path) -> dict[str, int]:
    """Gates ``checker`` and ``operators`` on an ONNX file; returns its operators and how often they occur.

    Raises:
        GraphError: the file is not valid ONNX, or holds operators outside the portable set.
    """
    onnx: Any = require("onnx", extra="onnx")
    try:
        onnx.checker.check_model(str(path), full_check=True)
        graph = onnx.load(path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first = str(error).strip().splitlines()[0]
        raise GraphError(f"gate checker: {path.name} is not valid ONNX: {first}") from error
    return check_operators(graph)


def check_parity(
    model: Model, folder: Path, frames: Sequence[Frame], *, pillars: int | None, tolerance: Tolerance
) -> ParityReport:
    """Gate ``parity``: ONNX Runtime on the CPU against torch over ``frames`` and generated frames.

    Raises:
        GateError: a box or a map differs; says which is worst.
    """
    reference = TorchPipeline(model, padded=True)
    probes = probe_frames(model.spec)
    with load_pipeline(folder) as candidate:
        report = compare(reference, candidate, [*frames, *probes], tolerance=tolerance)
        failures = list(report.failures)
        if pillars is None:
            failures += _padding_failures(reference, candidate, [*frames, *probes][-2:], tolerance)
    if failures:
        raise GateError(
            f"gate parity: ONNX Runtime and torch differ on {report.frames} frame(s) in {len(failures)} place(s), "
            f"with {report.matched} of {report.boxes} boxes matched: {'; '.join(failures[:3])}",
            gate="parity",
        )
    return report


def _padding_failures(reference: Stages, candidate: Stages, frames: Sequence[Frame], tolerance: Tolerance) -> list[str]:
    """Rows that stand for no pillar repeat the spare cell; the maps must not notice."""
    found = []
    grid = reference.spec.grid
    for frame in frames:
        feeds = reference.pre(frame)
        features = feeds["features"]
        padded = {
            "features": np.concatenate([features, np.ones((_PADDING_ROWS, *features.shape[1:]), features.dtype)]),
            "counts": np.concatenate([feeds["counts"], np.zeros(_PADDING_ROWS, feeds["counts"].dtype)]),
            "cells": np.concatenate([feeds["cells"], np.full(_PADDING_ROWS, grid.nx * grid.ny, feeds["cells"].dtype)]),
        }
        wanted, got = reference.network(feeds), candidate.network(padded)
        found += compare_maps(wanted, got, reference.spec, tolerance=tolerance, where=f"{frame.token} with padding")
    return found


def _check_request(model: Model, out: Path, opset: int, pillars: int | None) -> None:
    if opset not in OPSETS:
        raise UsageError(f"opset must be {OPSETS.start} to {OPSETS.stop - 1}, not {opset}.")
    area = model.spec.grid.nx * model.spec.grid.ny
    if pillars is not None and not 2 <= pillars <= area:
        raise UsageError(f"pillars must be 2 to {area} (the grid's cells), not {pillars}.")
    out = Path(out)
    with output_errors(out):
        if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / EXPORT_FILE).is_file()):
            raise OutputError(
                f"{out}: holds something else than an export, so it is not replaced. Choose another folder."
            )
