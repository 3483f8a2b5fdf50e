"""What each TensorRT version objects to in a graph, by a table (``tensorrt_limits.json``) and without TensorRT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kd3d.errors import UsageError
from kd3d.export.operators import all_nodes, small_constants
from kd3d.optional import require

_TABLE = Path(__file__).with_name("tensorrt_limits.json")
_RANK = {"GridSample": "grid_sample_rank"}


@cache
def versions() -> dict[str, dict[str, Any]]:
    """The table: a version's name to its limits and where they are from."""
    return dict(json.loads(_TABLE.read_text())["versions"])


def lint(model: Any, version: str) -> list[str]:
    """Objections of one TensorRT version to a graph, one line each; empty if none is known.

    Args:
        model: ``onnx.ModelProto`` with inferred shapes.
        version: a key of ``versions()``.

    Raises:
        UsageError: an unknown version.
    """
    if version not in versions():
        raise UsageError(f"no limits are known of TensorRT {version!r}; known are {', '.join(versions())}.")
    limits = versions()[version]
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
    found = []
    if opset > limits["opset"]:
        found.append(f"opset {opset} is above {limits['opset']}, the last one documented for it")
    constants, ranks = small_constants(model.graph), _ranks(model.graph)
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    for node in all_nodes(model.graph):
        objection = _objection(node, limits, constants=constants, ranks=ranks) or _quantisation(node, version, kinds)
        if objection is not None:
            found.append(f"{node.op_type} at {node.name or node.output[0]}: {objection}")
    return found


def _objection(
    node: Any, limits: Mapping[str, Any], *, constants: Mapping[str, Any], ranks: Mapping[str, int]
) -> str | None:
    if node.domain not in ("", "ai.onnx"):
        return f"domain {node.domain} needs a plugin"
    if node.op_type in limits["refused"]:
        return "not supported"
    if node.op_type in ("ScatterND", "ScatterElements"):
        reduction = next((a.s.decode() for a in node.attribute if a.name == "reduction"), "none")
        return None if reduction == "none" else f"reduction {reduction} is not supported without a plugin"
    if node.op_type == "TopK":
        k = constants.get(node.input[1])
        if k is None or int(k.reshape(-1)[0]) > limits["top_k"]:
            return f"k must be a constant of at most {limits['top_k']}"
    if node.op_type in _RANK and ranks.get(node.input[0], 0) > limits[_RANK[node.op_type]]:
        return f"inputs of rank {ranks[node.input[0]]} are not supported"
    return None


def _quantisation(node: Any, version: str, kinds: Mapping[str, int]) -> str | None:
    """No TensorRT takes unsigned or 32-bit integers for quantised values; 8.6 reads every scale as float32."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    proto: Any = require("onnx", extra="onnx").TensorProto
    zero = kinds.get(node.input[2]) if len(node.input) > 2 else proto.UINT8
    if zero in (proto.UINT8, proto.INT32):
        return "quantised values must be int8"
    if version == "8.6" and kinds.get(node.input[1]) != proto.FLOAT:
        return "scales must be float32: export with --opset 18"
    return None


def _ranks(graph: Any) -> dict[str, int]:
    require("onnx", extra="onnx")
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}
