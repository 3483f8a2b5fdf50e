"""Gate ``trt-rtx``: a real parse and strongly typed build by TensorRT-RTX, which needs no GPU.

It is evidence that the graph parses and builds, never of speed, nor of support by another TensorRT or device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd3d.errors import GraphError
from kd3d.export.gates import Gate
from kd3d.export.trt_build import BuildSettings, build
from kd3d.optional import available, require
from kd3d.spec import DetectorSpec

CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")
MODULE = "tensorrt_rtx"


def rtx_gate(onnx: Path, spec: DetectorSpec, *, capabilities: tuple[str, ...] = CAPABILITIES) -> Gate:
    """Build ``onnx`` for each capability; skipped with a reason where TensorRT-RTX is not installed.

    Raises:
        GraphError: it refuses the graph.
    """
    if not available(MODULE):
        return Gate(
            "trt-rtx", "skipped", reason=f"{MODULE} is not installed; install it with: pip install 'kd3d[trt-rtx]'"
        )
    trt: Any = require(MODULE, extra="trt-rtx")
    most = spec.encoder.rows
    sizes: dict[str, int] = {}
    for name in capabilities:
        settings = BuildSettings("graph", "graph", pillars=(1, max(1, most // 2), most), capabilities=(name,))
        try:
            sizes[name] = len(build(trt, onnx, settings).engine)
        except GraphError as error:
            raise GraphError(f"gate trt-rtx: for {name}: {error}") from error
    return Gate("trt-rtx", details={"version": str(trt.__version__), "engine_bytes": sizes})
