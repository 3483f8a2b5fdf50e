"""An exported fp32 file gets 8-bit convolutions, and gate ``int8`` shows that it may."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.errors import GateError, UsageError
from kd3d.export.calibrate import METHODS, thresholds
from kd3d.export.gates import Gate
from kd3d.export.int8_plan import Int8Plan, make_int8_plan
from kd3d.export.manifest import INT8_KEY
from kd3d.export.parity import ParityReport, Remembered, Stages, compare
from kd3d.export.parity_match import Tolerance
from kd3d.export.precision import with_initializers
from kd3d.export.qdq import activation_levels, quantise
from kd3d.export.ranges import GraphRunner
from kd3d.export.sensitivity import fewest_left_out, layer_errors
from kd3d.optional import require
from kd3d.runtime.frames import Frame
from kd3d.runtime.pipeline import Pipeline
from kd3d.spec import DetectorSpec

DEVICES = ("tensorrt", "cpu")


@dataclass(frozen=True)
class Int8Settings:
    """How to quantise.

    Args:
        calibration: of ``kd3d.export.calibrate.METHODS``.
        device: ``tensorrt`` (signed, floats for biases) or ``cpu`` (ONNX Runtime: unsigned after a ReLU, int32).
        half: the rest becomes fp16 afterwards.
    """

    calibration: str = "percentile"
    device: str = "tensorrt"
    half: bool = False

    def __post_init__(self) -> None:
        if self.calibration not in METHODS:
            raise UsageError(f"calibration must be one of {', '.join(METHODS)}, not {self.calibration!r}.")
        if self.device not in DEVICES:
            raise UsageError(f"int8 is made for {' or '.join(DEVICES)}, not for {self.device!r}.")

    @property
    def cpu(self) -> bool:
        """Whether the graph is for ONNX Runtime on a CPU."""
        return self.device == "cpu"


def quantise_file(
    path: Path, reference: Stages, frames: Sequence[Frame], *, tolerance: Tolerance, settings: Int8Settings
) -> Gate:
    """Quantise ``path`` in place, after the gate.

    Args:
        path: an fp32 export; kept as it is where the gate fails.
        reference: the torch pipeline of the same detector.
        frames: calibration frames, real ones; they also judge.
        tolerance: of the boxes against ``reference``; its ``share`` decides how many layers stay in higher precision.
        settings: how.

    Raises:
        GateError: no layer can be quantised, or boxes move with the least sensitive layer alone.
    """
    onnx: Any = require("onnx", extra="onnx")
    model = with_initializers(onnx.load(path))
    every = make_int8_plan(model, cpu=settings.cpu)
    if not every.layers:
        raise GateError(
            "gate int8: no layer of this graph can compute in 8 bits. Export with --precision fp16.", gate="int8"
        )
    bench = _Bench(model, reference, frames, settings)
    shared: Any = {"exact": bench.runs(Int8Plan()), "spec": reference.spec, "tolerance": tolerance}
    errors = layer_errors(every, bench.feeds, bench.runs, **shared)
    plan, report, good = fewest_left_out(every, errors, lambda some: bench.judge(some, tolerance))
    if not good:
        raise GateError(
            f"gate int8: 8 bits move boxes on {report.frames} frame(s) whatever is left out, {report.matched} of "
            f"{report.boxes} matched: {'; '.join(report.failures[:3])}. Another --calibration, more --frames, or fp16.",
            gate="int8",
        )
    result = bench.quantised(plan)
    weighted = len(plan.layers) + len(plan.kept)
    about = {"device": settings.device, "layers": len(plan.layers), "weighted": weighted}
    told = {item.key: item.value for item in model.metadata_props}
    onnx.helper.set_model_props(result, {**told, "kd3d.precision": "int8", INT8_KEY: json.dumps(about)})
    onnx.save(result, path)
    details = {
        **about,
        "calibration": settings.calibration,
        "frames": len(frames),
        "kept": plan.kept,
        "errors": errors,
        "thresholds": {name: bench.limits[name] for name in activation_levels(model, plan, cpu=settings.cpu)},
        "boxes": report.to_json(),
    }
    return Gate("int8", details=details)


class _Bench:
    """What a plan does to one model over the calibration frames."""

    def __init__(self, model: Any, reference: Stages, frames: Sequence[Frame], settings: Int8Settings) -> None:
        self.model, self.frames, self.settings = model, frames, settings
        self.reference = Remembered(reference)
        self.spec: DetectorSpec = reference.spec
        self.feeds = [self.reference.pre(frame) for frame in frames]
        every = make_int8_plan(model, cpu=settings.cpu)
        levels = activation_levels(model, every, cpu=settings.cpu)
        self.limits = thresholds(model, levels, self.feeds, method=settings.calibration)

    def quantised(self, plan: Int8Plan) -> Any:
        return quantise(self.model, plan, self.limits, cpu=self.settings.cpu, half=self.settings.half)

    def runs(self, plan: Int8Plan) -> Any:
        return GraphRunner(self.quantised(plan), optimised=True).infer

    def judge(self, plan: Int8Plan, tolerance: Tolerance) -> tuple[bool, ParityReport]:
        candidate = Pipeline(self.spec, GraphRunner(self.quantised(plan), optimised=True))
        report = compare(self.reference, candidate, self.frames, tolerance=tolerance)
        return report.passed, report
