"""Where the time inside a network goes: a pass of its own after the benchmark, in the format of trtexec."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from kd3d.errors import UsageError
from kd3d.runtime.autoware import AutowareNode
from kd3d.runtime.layer_times import LayerTimes, layer_times
from kd3d.runtime.pipeline import Pipeline


def profile(pipeline: Any, frames: Sequence[Any], *, count: int) -> LayerTimes:
    """Milliseconds of every layer of a pipeline's networks for ``count`` frames; those of two networks are told apart.

    Raises:
        UsageError: the pipeline is of torch, or its runner cannot tell.
    """
    held = [frames[at % len(frames)] for at in range(count)]
    if isinstance(pipeline, AutowareNode):
        feeds = [pipeline.pre(frame) for frame in held]
        canvases = [pipeline.scatter(pipeline.encoder(feed)) for feed in feeds]
        parts = {
            "encoder": layer_times(pipeline.runners[0], [{"input_features": feed["features"]} for feed in feeds]),
            "head": layer_times(pipeline.runners[1], canvases),
        }
        return {f"{part}: {layer}": taken for part, found in parts.items() for layer, taken in found.items()}
    runner = getattr(pipeline, "runner", None)
    if runner is None:
        raise UsageError("--profile is for exports and engines: a torch model has no layers of a runtime.")
    host = Pipeline(pipeline.spec, runner)  # CUDA kernels around an engine fill its inputs in place
    return layer_times(runner, [host.pre(frame) for frame in held])


def profile_json(found: LayerTimes) -> list[dict[str, Any]]:
    """As ``trtexec --exportProfile`` writes it: a first entry with the number of runs, then one for every layer.

    ``timeMs`` is of all runs, ``averageMs`` and ``medianMs`` of one, ``percentage`` the share of all layers.
    """
    total = sum(sum(taken) for taken in found.values()) or 1.0
    rows: list[dict[str, Any]] = [{"count": max((len(taken) for taken in found.values()), default=0)}]
    for layer, taken in found.items():
        rows.append(
            {
                "name": layer,
                "timeMs": sum(taken),
                "averageMs": sum(taken) / len(taken),
                "medianMs": statistics.median(taken),
                "percentage": 100 * sum(taken) / total,
            }
        )
    return rows
