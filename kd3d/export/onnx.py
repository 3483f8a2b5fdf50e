"""ONNX export: the hand-over to the vehicle, written only after every gate.

Gates, in order: ``checker`` (the file is valid ONNX), ``operators`` (TensorRT can build it), in int8 ``int8`` (8 bits
keep the boxes), in fp16 and where the rest of int8 is fp16 ``fp16`` (nothing overflows, and rounding alone keeps the
boxes), ``parity`` (ONNX Runtime gives torch's boxes), ``trt-rtx`` (TensorRT-RTX parses and builds it, where installed).
A refused export leaves nothing behind.
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
from kd3d.export.gates import Gate
from kd3d.export.graph import write_graph
from kd3d.export.half import check_converter, convert_file
from kd3d.export.int8 import Int8Settings, quantise_file
from kd3d.export.limits import lint, versions
from kd3d.export.manifest import EXPORT_FILE, ONNX_FILE, PIPELINE_FILE, SPEC_FILE, export_json, pipeline_json
from kd3d.export.operators import check_operators
from kd3d.export.parity import ParityReport, Remembered, Stages, compare, compare_maps
from kd3d.export.parity_match import FP16_TOLERANCE, INT8_TOLERANCE, Tolerance
from kd3d.export.probes import probe_frames
from kd3d.export.rtx import rtx_gate
from kd3d.export.spare_rows import padded_feeds
from kd3d.optional import require
from kd3d.runs.atomic import atomic_folder, output_errors, write_json
from kd3d.runtime.frames import Frame
from kd3d.runtime.pipeline import load_pipeline
from kd3d.spec import DetectorSpec, VoxelEncoderSpec, to_json

OPSETS = range(18, 21)
_TOLERANCES = {"fp32": Tolerance(), "fp16": FP16_TOLERANCE, "int8": INT8_TOLERANCE}
PRECISIONS = tuple(_TOLERANCES)
HALF_SCALES = 19  # the first operator set whose QuantizeLinear takes float16
_PADDING_ROWS = 7


@dataclass(frozen=True)
class ExportResult:
    """What an export made.

    Args:
        artifact: the ``model.onnx``.
        precision: of its weights and arithmetic.
        parity: how it compares with torch.
        gates: what each gate said, in order.
    """

    artifact: Path
    precision: str
    parity: ParityReport
    gates: tuple[Gate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The stable keys of ``kd3d export onnx --json``."""
        return {
            "artifact": str(self.artifact),
            "precision": self.precision,
            "parity": self.parity.to_json(),
            "gates": [gate.to_json() for gate in self.gates],
        }


def export_onnx(
    model: Model,
    out: Path,
    *,
    frames: Sequence[Frame] = (),
    opset: int = 20,
    pillars: int | None = None,
    tolerance: Tolerance | None = None,
    precision: str = "fp32",
    targets: Sequence[str] = (),
    int8: Int8Settings | None = None,
    half_by: str = "kd3d",
) -> ExportResult:
    """Export a model to the folder ``out``: ``model.onnx``, ``spec.json``, ``pipeline.json``, ``export.json``.

    Args:
        model: the detector.
        out: a new folder, or an earlier export, which is replaced.
        frames: real frames for the parity gate and the ranges of fp16, besides generated ones; int8 needs some, and is
            calibrated and judged on them alone.
        opset: 18 to 20.
        pillars: a fixed number of pillars per frame, for runtimes without dynamic shapes; ``None`` takes any number.
        tolerance: of the parity gate; by default that of the precision.
        precision: ``fp32``, ``fp16`` or ``int8``; inputs and outputs are fp32 in all.
        targets: TensorRT versions (keys of ``kd3d.export.limits.versions()``) whose objections refuse the graph;
            those of the others are recorded only.
        int8: how to quantise, with that precision.
        half_by: what converts to fp16, with that precision: ``kd3d``, or ``autocast`` of NVIDIA ModelOpt.

    Raises:
        UsageError: int8 without frames, or ``opset``, ``pillars``, ``precision``, ``targets`` or ``half_by`` makes no
            sense.
        GraphError: gate ``checker``, ``operators`` or ``trt-rtx``; the nodes are listed.
        GateError: gate ``int8``, ``fp16`` or ``parity``; the worst differences are listed.
        OutputError: ``out`` holds something else, or cannot be written.
        BackendError: onnx, onnxscript or onnxruntime is not installed, or ModelOpt where it is to convert.
    """
    _check_request(model, out, opset, pillars)
    check_precision(precision, targets, allowed=PRECISIONS)
    check_converter(half_by, precision)
    int8 = _int8(precision, int8, frames)
    tolerance = tolerance or _TOLERANCES[precision]
    weights_sha256 = hashlib.sha256(weights_bytes(model.module)).hexdigest()
    spec = shipped_spec(model.spec, pillars)
    with atomic_folder(Path(out)) as folder:
        path = folder / ONNX_FILE
        write_graph(model.module, spec, path, opset=opset, pillars=pillars, weights_sha256=weights_sha256)
        write_json(folder / SPEC_FILE, to_json(spec))
        write_json(folder / PIPELINE_FILE, pipeline_json(spec, pillars=pillars))
        reference, probes = Remembered(TorchPipeline(Model(spec, model.module), padded=True)), probe_frames(spec)
        shown: Any = {"probes": probes, "tolerance": tolerance}
        lowered = lower(path, reference, frames, precision=precision, int8=int8, opset=opset, half_by=half_by, **shown)
        operators = check_graph(path)
        objections = check_targets(path, targets)
        parity = check_parity(reference, folder, frames, pillars=pillars, generated=precision != "int8", **shown)
        portable = Gate("operators", details={"objections": objections})
        same = Gate("parity", details=parity.counts())
        gates = (Gate("checker"), portable, *lowered, same, _rtx(path, spec, int8))
        record = export_json(
            model={"name": model.spec.name, "weights_sha256": weights_sha256},
            artifact=path,
            precision=precision,
            opset=opset,
            pillars=pillars,
            operators=operators,
            parity=parity.to_json(),
            gates=[gate.to_json() for gate in gates],
        )
        write_json(folder / EXPORT_FILE, record)
    return ExportResult(Path(out) / ONNX_FILE, precision, parity, gates)


def _int8(precision: str, settings: Int8Settings | None, frames: Sequence[Frame]) -> Int8Settings | None:
    if precision != "int8":
        return None
    if not frames:
        raise UsageError("int8 is calibrated on real frames. Give --frames (kd3d data frames writes them).")
    return settings or Int8Settings()


def _rtx(path: Path, spec: DetectorSpec, int8: Int8Settings | None) -> Gate:
    if int8 is not None and int8.cpu:
        return Gate("trt-rtx", "skipped", reason="this int8 graph is for ONNX Runtime on a CPU")
    return rtx_gate(path, spec)


def lower(
    path: Path,
    reference: Stages,
    frames: Sequence[Frame],
    *,
    probes: Sequence[Frame],
    precision: str,
    int8: Int8Settings | None,
    opset: int,
    tolerance: Tolerance,
    half_by: str = "kd3d",
) -> list[Gate]:
    """Bring an fp32 file to its precision, in place; what gates ``int8`` and ``fp16`` said.

    Raises:
        GateError: one of them refuses.
    """
    if precision == "fp32":
        return []
    every = [*frames, *probes]
    if int8 is None:
        return [convert_file(path, reference, every, tolerance=tolerance, by=half_by)]
    int8 = replace(int8, half=not int8.cpu and opset >= HALF_SCALES)
    gates = [quantise_file(path, reference, frames, tolerance=tolerance, settings=int8)]
    if int8.half:
        gates.append(convert_file(path, reference, every, tolerance=tolerance, judged=frames))
    return gates


def check_targets(path: Path, targets: Sequence[str]) -> dict[str, list[str]]:
    """What every known TensorRT version objects to; those in ``targets`` must have no objection.

    Raises:
        GraphError: one of ``targets`` objects.
    """
    model = require("onnx", extra="onnx").load(path)
    found = {version: lint(model, version) for version in versions()}
    refused = [f"TensorRT {version}: {line}" for version in targets for line in found[version]]
    if refused:
        raise GraphError(
            f"gate operators: {len(refused)} objection(s): {'; '.join(refused[:5])}. "
            "Choose another --opset, or a newer TensorRT."
        )
    return found


def shipped_spec(spec: DetectorSpec, pillars: int | None) -> DetectorSpec:
    """The specification of an export: a network of ``pillars`` rows keeps no more pillars than that."""
    if pillars is None or isinstance(spec.encoder, VoxelEncoderSpec) or pillars >= spec.encoder.max_pillars:
        return spec
    return replace(spec, encoder=spec.encoder.capped(pillars))


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
    reference: Stages,
    folder: Path,
    frames: Sequence[Frame],
    *,
    probes: Sequence[Frame],
    pillars: int | None,
    tolerance: Tolerance,
    generated: bool = True,
) -> ParityReport:
    """Gate ``parity``: ONNX Runtime on the CPU against torch over ``frames`` and, if ``generated``, over ``probes``.

    Probes that are not compared must still run, and give finite maps.

    Raises:
        GateError: a box or a map differs; says which is worst.
    """
    with load_pipeline(folder) as candidate:
        report = compare(reference, candidate, [*frames, *(probes if generated else ())], tolerance=tolerance)
        failures = list(report.failures)
        for frame in () if generated else probes:
            maps = candidate.network(candidate.pre(frame))
            failures += [f"{frame.token}: {name} is not finite" for name in maps if not np.isfinite(maps[name]).all()]
        if pillars is None:
            failures += _padding_failures(candidate, [*frames, *probes][-2:])
    if failures:
        raise GateError(
            f"gate parity: ONNX Runtime and torch differ on {report.frames} frame(s) in {len(failures)} place(s), "
            f"with {report.matched} of {report.boxes} boxes matched: {'; '.join(failures[:3])}",
            gate="parity",
        )
    return report


def _padding_failures(candidate: Stages, frames: Sequence[Frame]) -> list[str]:
    """Rows that stand for no pillar repeat the spare cell; the maps must not notice."""
    found = []
    for frame in frames:
        feeds = candidate.pre(frame)
        padded = padded_feeds(feeds, candidate.spec, rows=_PADDING_ROWS)
        wanted, got = candidate.network(feeds), candidate.network(padded)
        found += compare_maps(wanted, got, candidate.spec, tolerance=Tolerance(), where=f"{frame.token} with padding")
    return found


def _check_request(model: Model, out: Path, opset: int, pillars: int | None) -> None:
    if opset not in OPSETS:
        raise UsageError(f"opset must be {OPSETS.start} to {OPSETS.stop - 1}, not {opset}.")
    area = model.spec.grid.nx * model.spec.grid.ny
    if pillars is not None and isinstance(model.spec.encoder, VoxelEncoderSpec):
        raise UsageError(
            f"{model.spec.name} has voxels: its stages have different numbers of sites, which the graph leaves free. "
            "Leave --pillars out."
        )
    if pillars is not None and not 2 <= pillars <= area:
        raise UsageError(f"pillars must be 2 to {area} (the grid's cells), not {pillars}.")
    check_out(out)


def check_out(out: Path) -> None:
    """Refuse to replace anything but an earlier export.

    Raises:
        OutputError: ``out`` holds something else.
    """
    out = Path(out)
    with output_errors(out):
        if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / EXPORT_FILE).is_file()):
            raise OutputError(
                f"{out}: holds something else than an export, so it is not replaced. Choose another folder."
            )


def check_precision(precision: str, targets: Sequence[str], *, allowed: Sequence[str] = ("fp32", "fp16")) -> None:
    """Refuse a precision that is not ``allowed``, or a TensorRT version that is not known.

    Raises:
        UsageError: names what is known.
    """
    if precision not in allowed:
        raise UsageError(f"precision must be {' or '.join(allowed)}, not {precision!r}.")
    unknown = [target for target in targets if target not in versions()]
    if unknown:
        raise UsageError(f"no limits are known of TensorRT {unknown[0]!r}; known are {', '.join(versions())}.")
