"""The two files of Autoware's layout in float16, behind the same gate as a single file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kd3d.errors import GateError
from kd3d.export.emulate import emulated as emulate
from kd3d.export.gates import Gate
from kd3d.export.half import check_overflow
from kd3d.export.parity import Stages, compare
from kd3d.export.parity_match import Tolerance
from kd3d.export.precision import rewrite, with_initializers
from kd3d.export.precision_plan import LIMIT, Plan, make_plan, tensor_types
from kd3d.export.ranges import Arrays, GraphRunner, computed_floats, measure
from kd3d.optional import require
from kd3d.runtime.autoware import AutowareNode
from kd3d.runtime.frames import Frame

_CANVAS = "spatial_features"


@dataclass(frozen=True)
class _Part:
    """One file on its way to float16."""

    model: Any
    plan: Plan
    types: Mapping[str, int]
    peak: float

    def emulation(self) -> GraphRunner:
        return GraphRunner(emulate(rewrite(self.model, self.plan, self.types)))


def convert_files(
    encoder: Path, head: Path, reference: Stages, node: AutowareNode, *, frames: Sequence[Frame], tolerance: Tolerance
) -> Gate:
    """Convert both files in place, after the gate.

    Args:
        encoder: fp32 file; kept as it is where the gate fails.
        head: likewise.
        reference: the torch detector in the node.
        node: the files in the node; only its stages beside the networks are used.
        frames: calibration frames.
        tolerance: of the emulation's boxes.

    Raises:
        GateError: a float16 value overflows, or rounding moves a box.
    """
    onnx: Any = require("onnx", extra="onnx")
    feeds = [node.pre(frame) for frame in frames]
    first = _part(encoder, [{"input_features": feed["features"]} for feed in feeds])
    emulation = first.emulation()
    emulated = AutowareNode(node.spec, node.rules, runners=(emulation, node.runners[1]), by_iou=False)
    second = _part(head, [emulated.scatter(emulated.encoder(feed)) for feed in feeds])
    emulated.runners = emulation, second.emulation()
    report = compare(reference, emulated, frames, tolerance=tolerance)
    if not report.passed:
        raise GateError(
            f"gate fp16: rounding to float16 moves boxes on {report.frames} frame(s), {report.matched} of "
            f"{report.boxes} matched: {'; '.join(report.failures[:3])}. Export with --precision fp32.",
            gate="fp16",
        )
    for path, part in ((encoder, first), (head, second)):
        half = rewrite(part.model, part.plan, part.types)
        entry = half.metadata_props.add()
        entry.key, entry.value = "kd3d.precision", "fp16"
        onnx.save(half, path)
    details = {
        "nodes_fp16": {"encoder": len(first.plan.low), "head": len(second.plan.low)},
        "kept_fp32": {"encoder": first.plan.kept, "head": second.plan.kept},
        "peak": max(first.peak, second.peak),
        "limit": LIMIT,
        "emulation": report.to_json(),
    }
    return Gate("fp16", details=details)


def _part(path: Path, feeds: Sequence[Arrays]) -> _Part:
    onnx: Any = require("onnx", extra="onnx")
    model = with_initializers(onnx.load(path))
    types = tensor_types(model)
    ranges = measure(model, computed_floats(model, types), feeds, bounds=True)
    plan = _canvas_in_float16(model, make_plan(model, types, ranges), ranges)
    return _Part(model, plan, types, check_overflow(rewrite(model, plan, types), feeds))


def _canvas_in_float16(model: Any, plan: Plan, ranges: Mapping[str, float]) -> Plan:
    """The head's input holds pillar vectors, not metres: what reads it need not stay fp32."""
    low, kept = set(plan.low), dict(plan.kept)
    for index, node in enumerate(model.graph.node):
        name = node.output[0]
        if kept.get(name) == f"absolute: {_CANVAS}" and max(ranges[_CANVAS], ranges[name]) <= LIMIT:
            low.add(index)
            del kept[name]
    return replace(plan, low=low, kept=kept)
