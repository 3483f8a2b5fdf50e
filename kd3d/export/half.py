"""An exported fp32 file becomes fp16, and gate ``fp16`` shows that it may.

Where rounding moves boxes, the layers that it hurts most stay in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd3d.errors import GateError, UsageError
from kd3d.export.autocast import autocast
from kd3d.export.emulate import emulated, half_tensors
from kd3d.export.gates import Gate
from kd3d.export.half_layers import spared
from kd3d.export.parity import ParityReport, Remembered, Stages, compare
from kd3d.export.parity_match import Tolerance
from kd3d.export.precision import rewrite, with_initializers
from kd3d.export.precision_plan import LIMIT, make_plan, tensor_types
from kd3d.export.ranges import Arrays, GraphRunner, computed_floats, measure
from kd3d.optional import require
from kd3d.runtime.frames import Frame
from kd3d.runtime.pipeline import Pipeline

CONVERTERS = ("kd3d", "autocast")


def convert_file(
    path: Path,
    reference: Stages,
    frames: Sequence[Frame],
    *,
    tolerance: Tolerance,
    judged: Sequence[Frame] | None = None,
    by: str = "kd3d",
) -> Gate:
    """Convert ``path`` in place, after the gate.

    Args:
        path: an fp32 export, in 8 bits here and there perhaps; kept as it is where the gate fails.
        reference: the torch pipeline of the same detector.
        frames: calibration frames: their largest values decide what stays in fp32.
        tolerance: of the emulation's boxes against ``reference``.
        judged: frames of that comparison, where they are not ``frames``.
        by: the converter: ``kd3d``, or ``autocast`` for NVIDIA ModelOpt's.

    Raises:
        GateError: a float16 value overflows, or rounding moves a box whichever layers stay in fp32.
        GraphError: the graph cannot be converted.
        BackendError: ModelOpt is asked for and not installed.
    """
    onnx: Any = require("onnx", extra="onnx")
    model = with_initializers(onnx.load(path))
    types = tensor_types(model)
    pre = Pipeline(reference.spec, GraphRunner(model)).pre
    feeds = [pre(frame) for frame in frames]
    plan = make_plan(model, types, measure(model, computed_floats(model, types), feeds, bounds=True))
    if by == "autocast":
        half, kept = autocast(model, plan, feeds)
    else:
        half, kept = rewrite(model, plan, types), plan.kept
    peak = check_overflow(half, feeds)
    remembered, shown = Remembered(reference), frames if judged is None else judged

    def judge(some: Any) -> ParityReport:
        rounded = Pipeline(reference.spec, GraphRunner(emulated(some)))
        return compare(remembered, rounded, shown, tolerance=tolerance)

    report = judge(half)
    if not report.passed and by == "kd3d":
        rest: Any = {"feeds": feeds, "judge": judge, "spec": reference.spec, "tolerance": tolerance}
        plan, report = spared(model, plan, types, **rest)
        half, kept = rewrite(model, plan, types), plan.kept
        peak = check_overflow(half, feeds)
    if not report.passed:
        raise GateError(
            f"gate fp16: rounding to float16 moves boxes on {report.frames} frame(s), {report.matched} of "
            f"{report.boxes} matched: {'; '.join(report.failures[:3])}. Export with --precision fp32.",
            gate="fp16",
        )
    told = {item.key: item.value for item in model.metadata_props}
    onnx.helper.set_model_props(half, {"kd3d.precision": "fp16", **told})
    onnx.save(half, path)
    details = {
        "by": by,
        "nodes_fp16": _count(half),
        "kept_fp32": kept,
        "peak": peak,
        "limit": LIMIT,
        "emulation": report.to_json(),
    }
    return Gate("fp16", details=details)


def check_converter(by: str, precision: str) -> None:
    """Refuse a converter that is not known, or has nothing to convert.

    Raises:
        UsageError: says which goes with what.
    """
    if by not in CONVERTERS:
        raise UsageError(f"fp16 is made by {' or '.join(CONVERTERS)}, not by {by!r}.")
    if by != "kd3d" and precision != "fp16":
        raise UsageError(f"--half-by {by} goes with --precision fp16, not with {precision}.")


def check_overflow(half: Any, feeds: Sequence[Arrays]) -> float:
    """The largest float16 value over ``feeds``, every float16 tensor rounded on the way.

    Args:
        half: ``onnx.ModelProto`` with float16 in it, as it would ship.
        feeds: network inputs.

    Raises:
        GateError: it exceeds ``LIMIT``, or is infinite or not a number.
    """
    names = half_tensors(half)
    if not names:
        raise GateError("gate fp16: no node of this graph can compute in float16.", gate="fp16")
    peaks = measure(emulated(half), names, feeds, bounds=True)
    beyond = [name for name in names if not peaks[name] <= LIMIT]
    if beyond:  # the first of them is where it begins
        raise GateError(
            f"gate fp16: {beyond[0]} reaches {peaks[beyond[0]]:.4g} in float16, above {LIMIT:g}. "
            "Export with --precision fp32, or give more --frames.",
            gate="fp16",
        )
    return max(peaks.values())


def _count(half: Any) -> int:
    """Nodes that compute in float16: casts between the precisions are not work."""
    made = set(half_tensors(half))
    return sum(node.op_type != "Cast" and bool(made.intersection(node.output)) for node in half.graph.node)
