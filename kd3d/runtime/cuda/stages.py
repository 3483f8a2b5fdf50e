"""Which stages around an engine run on the device: the kernels where they can, else the processor, and why."""

from __future__ import annotations

from typing import Literal

from kd3d.errors import Kd3dError, UsageError
from kd3d.runtime.cuda.pipeline import CudaPipeline, DeviceNetwork
from kd3d.runtime.pipeline import Pipeline

Stages = Literal["host", "cuda", "auto"]
STAGES = ("host", "cuda", "auto")


def open_stages(host: Pipeline, runner: DeviceNetwork, wanted: str) -> tuple[Pipeline | CudaPipeline, str | None]:
    """An open pipeline of an engine with pre-processing, decoding and suppression where they are wanted.

    Args:
        host: the engine's pipeline, not entered.
        runner: its runner.
        wanted: one of ``STAGES``; ``auto`` is ``cuda`` where the kernels can be compiled and serve the detector.

    Returns:
        The pipeline, and why ``auto`` fell back on the processor (``None`` where it did not).

    Raises:
        UsageError: another word.
        Kd3dError: the engine cannot be loaded; for ``cuda`` also why the kernels cannot be used.
    """
    if wanted not in STAGES:
        raise UsageError(f"--device-stages must be {', '.join(STAGES[:-1])} or {STAGES[-1]}, not {wanted!r}.")
    if wanted == "host":
        return host.__enter__(), None
    runner.__enter__()  # what is wrong with the engine itself is no reason to fall back
    try:
        return CudaPipeline(host.spec, runner).__enter__(), None
    except Kd3dError as error:
        if wanted == "cuda":
            raise
        return host.__enter__(), str(error)
