"""How long each layer of a network takes: ONNX Runtime's own profile, and TensorRT's."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd3d.errors import UsageError
from kd3d.runs.atomic import parse_json
from kd3d.runtime.runners import Arrays, OrtRunner, Runner
from kd3d.runtime.trt_runner import TrtRunner

WARM = 3  # runs that are not counted
LayerTimes = dict[str, list[float]]


def layer_times(runner: Runner, feeds: Sequence[Arrays]) -> LayerTimes:
    """Milliseconds of every layer in every run, by layer, in the order of execution.

    Layers are those that run: fused ones, under the names of the runtime. The times are taken while the runtime records
    them, which slows it down: their sum is more than the network's latency. The first feeds are run before, uncounted.

    Args:
        runner: entered; of an ``.onnx`` on the CPU, or of an engine.
        feeds: inputs of each run.

    Raises:
        UsageError: the runner cannot tell, or a graph launches its layers at once.
    """
    if isinstance(runner, TrtRunner):
        return _engine(runner, feeds)
    if isinstance(runner, OrtRunner) and runner.provider == "cpu":
        return _onnx(runner, feeds)
    raise UsageError(
        f"{runner.name} does not tell how long its layers take. Profile an .onnx with --device cpu, or an engine."
    )


def _engine(runner: TrtRunner, feeds: Sequence[Arrays]) -> LayerTimes:
    if runner.cuda_graph:
        raise UsageError("the layers of a CUDA graph are launched at once and not timed. Leave --cuda-graph out.")
    for feed in feeds[:WARM]:
        runner.infer(feed)
    found: LayerTimes = {}
    with runner.profiled(lambda layer, ms: found.setdefault(layer, []).append(ms)):
        for feed in feeds:
            runner.infer(feed)
    return found


def _onnx(runner: OrtRunner, feeds: Sequence[Arrays]) -> LayerTimes:
    with tempfile.TemporaryDirectory(prefix="kd3d-profile-") as scratch:
        recording = OrtRunner(runner.path, threads=runner.threads, profile=Path(scratch) / "ort")
        with recording:
            for feed in [*feeds[:WARM], *feeds]:
                recording.infer(feed)
            file = recording.end_profile()
        events = parse_json(file.read_text())
    return _without_warm_runs(read_ort_profile(events), min(WARM, len(feeds)))


def read_ort_profile(events: Sequence[dict[str, Any]]) -> LayerTimes:
    """Milliseconds by node, of ONNX Runtime's list of events: one entry per run, nodes as they ran first."""
    found: LayerTimes = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            about = event.get("args", {})
            label = name.removesuffix("_kernel_time") or f"node {about.get('node_index')}"
            found.setdefault(f"{label} ({about.get('op_name')})", []).append(float(event["dur"]) / 1e3)
    return found


def _without_warm_runs(found: LayerTimes, runs: int) -> LayerTimes:
    return {layer: taken[runs:] for layer, taken in found.items()}
