"""Export to the layout of Autoware's CenterPoint node: two ONNX files and the node's parameter files, after every gate.

Gates as in ``kd3d.export.onnx``; ``parity`` runs the node's own steps (in numpy) around the two files, and around the
torch weights that were trained. A refused export leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from kd3d import __version__
from kd3d.detectors.checkpoint import Model, weights_bytes
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.errors import GateError, UsageError
from kd3d.export import autoware_rules as rules
from kd3d.export.autoware_files import NodeParameters, file_names, parameter_files
from kd3d.export.autoware_half import convert_files
from kd3d.export.autoware_network import autoware_networks
from kd3d.export.autoware_node import TorchNode
from kd3d.export.gates import Gate
from kd3d.export.graph import describe, export_module, lower_opset
from kd3d.export.manifest import EXPORT_FILE, PIPELINE_FILE, SPEC_FILE, package_versions
from kd3d.export.onnx import OPSETS, check_graph, check_out, check_precision, check_targets
from kd3d.export.parity import ParityReport, Stages, compare
from kd3d.export.parity_match import FP16_TOLERANCE, Tolerance, match
from kd3d.export.probes import probe_frames
from kd3d.export.rtx import rtx_gate
from kd3d.runs.atomic import atomic_folder, write_json, write_text
from kd3d.runtime.autoware import FORMAT, AutowareNode
from kd3d.runtime.autoware_rules import (
    OUTPUTS,
    PILLAR_CHANNELS,
    POINTS_PER_PILLAR,
    NodeRules,
    node_decode,
)
from kd3d.runtime.frames import Frame
from kd3d.runtime.runners import OrtRunner
from kd3d.spec import to_json

_FLOOR = 0.1  # parity looks at boxes from this score on, whatever the vehicle drops
_COMPARED = 500  # and at that many of a frame; the node itself has no such limit
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class AutowareSettings:
    """What may be chosen.

    Args:
        name: of the model: the node's ``model_name``, part of every file's name.
        class_names: the node's names; by default the detector's in capitals.
        features: 9, 10 or 11 per point; ``None`` takes 11 with intensity and 10 without.
        intensity_scale: from the node's 0 to 255 to the detector's; ``None`` takes the specification's.
        score_threshold, yaw_norm, circle_m: of the node's parameter files.
        precision: ``fp32`` or ``fp16`` in the graphs; inputs and outputs are fp32 in both.
        opset: 17 (the last one documented for TensorRT 8.6) to 20.
        targets: TensorRT versions whose objections refuse the graphs.
    """

    name: str
    class_names: tuple[str, ...] | None = None
    features: int | None = None
    intensity_scale: float | None = None
    score_threshold: float = 0.35
    yaw_norm: float = 0.0
    circle_m: float = 0.5
    precision: str = "fp32"
    opset: int = 17
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"the model name must be letters, digits, '_', '-' and '.', not {self.name!r}.")
        if not (0 <= self.score_threshold < 1 and 0 <= self.yaw_norm < 1 and self.circle_m > 0):
            raise UsageError(
                "the score threshold and the yaw norm must be in 0..1 and the circle's radius positive; got "
                f"{self.score_threshold:g}, {self.yaw_norm:g} and {self.circle_m:g} m."
            )
        if self.opset not in range(17, 21):
            raise UsageError(f"opset must be 17 to 20, not {self.opset}.")


@dataclass(frozen=True)
class AutowareResult:
    """What an export made.

    Args:
        artifact: the folder.
        files: in it.
        precision: of the graphs.
        parity: how the files in the node compare with torch in the node.
        gates: what each gate said, in order.
        agreement: on the given frames, boxes at or above the node's threshold: of kd3d's own pipeline and decoding,
            and how many of them the node has; ``None`` without frames.
        notes: what the node does differently.
    """

    artifact: Path
    files: tuple[str, ...]
    precision: str
    parity: ParityReport
    gates: tuple[Gate, ...] = ()
    agreement: dict[str, int] | None = None
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The stable keys of ``kd3d export autoware --json``."""
        return {
            "artifact": str(self.artifact),
            "files": list(self.files),
            "precision": self.precision,
            "parity": self.parity.to_json(),
            "gates": [gate.to_json() for gate in self.gates],
            "agreement": self.agreement,
            "notes": list(self.notes),
        }


def export_autoware(
    model: Model,
    out: Path,
    settings: AutowareSettings,
    *,
    frames: Sequence[Frame] = (),
    tolerance: Tolerance | None = None,
) -> AutowareResult:
    """Export a model to the folder ``out``.

    Args:
        model: the detector.
        out: a new folder, or an earlier export, which is replaced.
        settings: names, thresholds, precision.
        frames: real frames for the gates, besides generated ones.
        tolerance: of the parity gate; by default that of the precision.

    Raises:
        UsageError: a setting makes no sense.
        LayoutError: the node cannot run this detector; says why.
        GraphError: gate ``checker``, ``operators`` or ``trt-rtx``.
        GateError: gate ``fp16`` or ``parity``.
        OutputError: ``out`` holds something else, or cannot be written.
        BackendError: onnx, onnxscript or onnxruntime is not installed.
    """
    rules.check_fits(model.spec)
    check_precision(settings.precision, settings.targets)
    check_out(out)
    work = _Work(model, settings, [*frames, *probe_frames(model.spec)], tolerance)
    with atomic_folder(Path(out)) as folder:
        gates, report = work.write(folder)
        files = tuple(sorted([*(path.name for path in folder.iterdir()), EXPORT_FILE]))
        with work.node(folder) as node:
            agreement = _agreement(model, node, frames, settings.score_threshold)
        result = AutowareResult(
            Path(out), files, settings.precision, report, tuple(gates), agreement, rules.notes(model.spec, work.classes)
        )
        write_json(folder / EXPORT_FILE, work.record(folder, result))
    return result


class _Work:
    """One export: what its steps share."""

    def __init__(
        self, model: Model, settings: AutowareSettings, frames: Sequence[Frame], tolerance: Tolerance | None
    ) -> None:
        spec = model.spec
        self.model, self.settings, self.frames = model, settings, frames
        self.tolerance = tolerance or (Tolerance() if settings.precision == "fp32" else FP16_TOLERANCE)
        self.decoration = rules.decoration(spec, features=settings.features, intensity_scale=settings.intensity_scale)
        self.classes = rules.class_names(spec, settings.class_names)
        self.rules = NodeRules(
            self.decoration.names,
            self.classes,
            intensity_scale=self.decoration.intensity_scale,
            score_threshold=settings.score_threshold,
            yaw_norm=settings.yaw_norm,
            circle_m=settings.circle_m,
        )
        lowest = min(settings.score_threshold, _FLOOR)
        self.compared = replace(self.rules, score_threshold=lowest, yaw_norm=0.0)
        self.spec = node_decode(spec, self.compared, most=_COMPARED)
        self.sha256 = hashlib.sha256(weights_bytes(model.module)).hexdigest()
        self.names = file_names(settings.name)

    def node(self, folder: Path) -> AutowareNode:
        """The node around the files in ``folder``, up to its circle suppression."""
        runners = OrtRunner(folder / self.names[0]), OrtRunner(folder / self.names[1])
        return AutowareNode(self.spec, self.compared, runners=runners, by_iou=False)

    def write(self, folder: Path) -> tuple[list[Gate], ParityReport]:
        """Networks, gates and parameter files."""
        slots = self._write_networks(folder)
        encoder, head = (folder / name for name in self.names)
        reference = TorchNode(
            self.spec, self.compared, decoration=self.decoration, module=self.model.module, slots=slots
        )
        half: list[Gate] = []
        with self.node(folder) as node:
            if self.settings.precision == "fp16":
                half = [convert_files(encoder, head, reference, node, frames=self.frames, tolerance=self.tolerance)]
        operators = {path.stem: check_graph(path) for path in (encoder, head)}
        objections = {path.stem: check_targets(path, self.settings.targets) for path in (encoder, head)}
        report = self._parity(reference, folder)
        details = {"boxes": report.boxes, "matched": report.matched, "ties": report.ties}
        builds = [rtx_gate(path, self.spec) for path in (encoder, head)]
        gates = [
            Gate("checker"),
            Gate("operators", details={"operators": operators, "objections": objections}),
            *half,
            Gate("parity", details=details),
            _joined(builds),
        ]
        self._write_texts(folder)
        return gates, report

    def _write_networks(self, folder: Path) -> int:
        encoder, head = autoware_networks(self.model.module, self.decoration)
        grid = self.spec.grid
        rows = self.spec.pillar_encoder.max_pillars
        points = torch.zeros(rows, POINTS_PER_PILLAR, self.decoration.features)
        canvas = torch.zeros(1, PILLAR_CHANNELS, grid.ny, grid.nx)
        opset = self.settings.opset
        parts: tuple[tuple[Any, Any, str, Sequence[str]], ...] = (
            (encoder, points, "input_features", ("pillar_features",)),
            (head, canvas, "spatial_features", OUTPUTS),
        )
        for name, (network, sample, fed, given) in zip(self.names, parts, strict=True):
            path = folder / name
            traced = max(opset, OPSETS.start)
            export_module(network, (sample,), path, input_names=(fed,), output_names=given, opset=traced)
            if opset < traced:
                lower_opset(path, opset)
            describe(path, self.model.spec, self.sha256, layout="autoware")
        return encoder.slots

    def _parity(self, reference: Stages, folder: Path) -> ParityReport:
        with self.node(folder) as node:
            report = compare(reference, node, self.frames, tolerance=self.tolerance)
        if not report.passed:
            raise GateError(
                f"gate parity: in the node, the exported files and torch differ on {report.frames} frame(s) in "
                f"{len(report.failures)} place(s), with {report.matched} of {report.boxes} boxes matched: "
                f"{'; '.join(report.failures[:3])}",
                gate="parity",
            )
        return report

    def _write_texts(self, folder: Path) -> None:
        settings = self.settings
        parameters = NodeParameters(self.classes, settings.score_threshold, settings.yaw_norm, settings.circle_m)
        texts = parameter_files(
            settings.name, self.model.spec, self.decoration, parameters, precision=settings.precision
        )
        for name, text in texts.items():
            write_text(folder / name, text)
        write_json(folder / SPEC_FILE, to_json(self.model.spec))
        write_json(folder / PIPELINE_FILE, _pipeline(self.names, self.rules))

    def record(self, folder: Path, result: AutowareResult) -> dict[str, Any]:
        """``export.json``."""
        sizes = {name: (folder / name).read_bytes() for name in self.names}
        return {
            "format": 1,
            "kd3d": __version__,
            "layout": "autoware",
            "model": {"name": self.model.spec.name, "weights_sha256": self.sha256},
            "precision": self.settings.precision,
            "opset": self.settings.opset,
            "artifacts": {
                name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in sizes.items()
            },
            "features": list(self.decoration.names),
            "class_names": list(self.classes),
            "gates": [gate.to_json() for gate in result.gates],
            "parity": result.parity.to_json(),
            "agreement": result.agreement,
            "notes": list(result.notes),
            "versions": package_versions(),
        }


def _joined(builds: Sequence[Gate]) -> Gate:
    if builds[0].state == "skipped":
        return builds[0]
    sizes = {part: gate.details["engine_bytes"] for part, gate in zip(("encoder", "head"), builds, strict=True)}
    return Gate(builds[0].name, details={"version": builds[0].details["version"], "engine_bytes": sizes})


def _agreement(model: Model, node: AutowareNode, frames: Sequence[Frame], threshold: float) -> dict[str, int] | None:
    """Boxes of kd3d's own pipeline that the node has too; not a gate, for the two suppress and group differently."""
    if not frames:
        return None
    own = TorchPipeline(model)
    limits = Tolerance(center_m=0.5, size_m=0.5, yaw_rad=0.2, score=0.2, velocity_m_s=1.0, floor=threshold)
    boxes = found = 0
    for frame in frames:
        result = match(own(frame), node(frame), limits)
        boxes += result.counted
        found += result.counted - len(result.unmatched)
    return {"frames": len(frames), "boxes": boxes, "found": found}


def _pipeline(names: tuple[str, str], node: NodeRules) -> dict[str, Any]:
    """Two networks, and what the node does around them: ``kd3d.runtime.autoware`` runs it."""
    encoder, head = names
    steps = [
        {"name": "pre", "kind": "host", "operation": "autoware", "inputs": ["points"], "outputs": ["input_features"]},
        {
            "name": "encoder",
            "kind": "onnx",
            "file": encoder,
            "inputs": ["input_features"],
            "outputs": ["pillar_features"],
        },
        {"name": "scatter", "kind": "host", "operation": "autoware", "inputs": ["pillar_features"]},
        {"name": "head", "kind": "onnx", "file": head, "inputs": ["spatial_features"], "outputs": list(OUTPUTS)},
        {
            "name": "decode",
            "kind": "host",
            "operation": "autoware",
            "inputs": list(OUTPUTS),
            "outputs": ["boxes"],
        },
    ]
    return {
        "format": FORMAT,
        "layout": "autoware",
        "spec": SPEC_FILE,
        "node": node.to_json(),
        "steps": steps,
        "state": [],
    }
