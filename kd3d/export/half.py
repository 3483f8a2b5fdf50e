"""An exported fp32 file becomes fp16, and gate ``fp16`` shows that it may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd3d.errors import GateError
from kd3d.export.gates import Gate
from kd3d.export.parity import Stages, compare
from kd3d.export.parity_match import Tolerance
from kd3d.export.precision import rewrite, with_initializers
from kd3d.export.precision_plan import LIMIT, Plan, make_plan, tensor_types
from kd3d.export.ranges import Arrays, GraphRunner, computed_floats, measure
from kd3d.optional import require
from kd3d.runtime.frames import Frame
from kd3d.runtime.pipeline import Pipeline


def convert_file(
    path: Path,
    reference: Stages,
    frames: Sequence[Frame],
    *,
    tolerance: Tolerance,
    judged: Sequence[Frame] | None = None,
) -> Gate:
    """Convert ``path`` in place, after the gate.

    Args:
        path: an fp32 export, in 8 bits here and there perhaps; kept as it is where the gate fails.
        reference: the torch pipeline of the same detector.
        frames: calibration frames: their largest values decide what stays in fp32.
        tolerance: of the emulation's boxes against ``reference``.
        judged: frames of that comparison, where they are not ``frames``.

    Raises:
        GateError: a float16 value overflows, or rounding moves a box.
        GraphError: the graph cannot be converted.
    """
    onnx: Any = require("onnx", extra="onnx")
    model = with_initializers(onnx.load(path))
    types = tensor_types(model)
    pre = Pipeline(reference.spec, GraphRunner(model)).pre
    feeds = [pre(frame) for frame in frames]
    plan = make_plan(model, types, measure(model, computed_floats(model, types), feeds))
    peak = check_overflow(model, plan, types, feeds)
    emulated = Pipeline(reference.spec, GraphRunner(rewrite(model, plan, types, emulate=True)))
    report = compare(reference, emulated, frames if judged is None else judged, tolerance=tolerance)
    if not report.passed:
        raise GateError(
            f"gate fp16: rounding to float16 moves boxes on {report.frames} frame(s), {report.matched} of "
            f"{report.boxes} matched: {'; '.join(report.failures[:3])}. Export with --precision fp32.",
            gate="fp16",
        )
    half = rewrite(model, plan, types)
    told = {item.key: item.value for item in half.metadata_props}
    onnx.helper.set_model_props(half, {"kd3d.precision": "fp16", **told})
    onnx.save(half, path)
    details = {
        "nodes_fp16": len(plan.low),
        "kept_fp32": plan.kept,
        "peak": peak,
        "limit": LIMIT,
        "emulation": report.to_json(),
    }
    return Gate("fp16", details=details)


def check_overflow(model: Any, plan: Plan, types: Mapping[str, int], feeds: Sequence[Arrays]) -> float:
    """The largest float16 value over ``feeds``, every float16 tensor rounded on the way.

    Args:
        model: the fp32 model of the plan.
        plan: what computes in float16.
        types: of the model's tensors.
        feeds: network inputs.

    Raises:
        GateError: it exceeds ``LIMIT``, or is infinite.
    """
    names = [name for index in sorted(plan.low) for name in model.graph.node[index].output]
    names = [name for name in names if name in computed_floats(model, types)]
    if not names:
        raise GateError("gate fp16: no node of this graph can compute in float16.", gate="fp16")
    peaks = measure(rewrite(model, plan, types, emulate=True), names, feeds)
    worst = max(peaks, key=lambda name: peaks[name])
    if not peaks[worst] <= LIMIT:
        raise GateError(
            f"gate fp16: {worst} reaches {peaks[worst]:.4g} in float16, above {LIMIT:g}. "
            "Export with --precision fp32, or give more --frames.",
            gate="fp16",
        )
    return peaks[worst]
