"""The network alone, with its inputs and outputs left on the device: what trtexec 11 times by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kd3d.errors import BackendError


def resident_ms(
    pipeline: Any, frames: Sequence[Any], *, count: int, clock_ns: Callable[[], int], repeats: int = 3
) -> list[float]:
    """Milliseconds of the network for ``count`` frames, copies excluded; the median of ``repeats`` runs of each frame.

    Raises:
        BackendError: the pipeline's runner cannot leave its inputs on the device.
    """
    bound = getattr(pipeline, "bound", None) or getattr(getattr(pipeline, "runner", None), "bound", None)
    if bound is None:
        raise BackendError(
            "this runtime cannot time its network without the copies. Leave --no-include-transfers out, "
            "or time an ONNX file."
        )
    found = []
    for at in range(count):
        run = bound(pipeline.pre(frames[at % len(frames)]))
        run()  # places its outputs
        taken = []
        for _ in range(repeats):
            began = clock_ns()
            run()
            taken.append((clock_ns() - began) / 1e6)
        found.append(sorted(taken)[repeats // 2])
    return found
