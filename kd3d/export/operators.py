"""Which ONNX operators an export may hold: what TensorRT and TensorRT-RTX parse and build without plugins.

The list is extended on purpose, never by accident (facts: docs of onnx-tensorrt, and trial builds).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from kd3d.errors import GraphError
from kd3d.optional import require

MAX_TOP_K = 3840  # TensorRT's builder refuses more

PORTABLE = frozenset(
    """
    Abs Add And Atan AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv ConvTranspose
    Cos CumSum DequantizeLinear Div Einsum Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool Greater GreaterOrEqual GridSample HardSigmoid Identity LayerNormalization LeakyRelu Less
    LessOrEqual Log MatMul Max MaxPool Min Mod Mul Neg Not OneHot Or Pad Pow QuantizeLinear Range Reciprocal ReduceMax
    ReduceMean ReduceMin ReduceSum Relu Reshape Resize ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice
    Softmax Split Sqrt Squeeze Sub Tanh Tile TopK Transpose Unsqueeze Where
    """.split()  # noqa: SIM905 - ninety quoted names hide the few that matter
)
_SHOWN = 5


def operator_counts(graph: Any) -> dict[str, int]:
    """How often each operator occurs in an ``onnx.GraphProto`` and its subgraphs, by name."""
    return dict(sorted(Counter(node.op_type for node in all_nodes(graph)).items()))


def check_operators(model: Any) -> dict[str, int]:
    """Refuse a graph with anything outside the portable set.

    Args:
        model: ``onnx.ModelProto``.

    Returns:
        Operators and how often they occur.

    Raises:
        GraphError: lists the offending nodes and why each is refused.
    """
    constants = small_constants(model.graph)
    refused = [
        f"{node.op_type} at {node.name or node.output[0]} ({reason})"
        for node in all_nodes(model.graph)
        if (reason := _objection(node, constants)) is not None
    ]
    if refused:
        shown = "; ".join(refused[:_SHOWN]) + ("; ..." if len(refused) > _SHOWN else "")
        raise GraphError(
            f"gate operators: {len(refused)} node(s) outside the portable set: {shown}. "
            "Change the network so that it does without them."
        )
    return operator_counts(model.graph)


def _objection(node: Any, constants: Mapping[str, Any]) -> str | None:
    if node.domain not in ("", "ai.onnx"):
        return f"domain {node.domain} needs a plugin"
    if node.op_type not in PORTABLE:
        return "not in the portable set"
    if node.op_type in ("ScatterND", "ScatterElements"):
        reduction = next((a.s.decode() for a in node.attribute if a.name == "reduction"), "none")
        return None if reduction == "none" else f"reduction {reduction} is not supported by TensorRT"
    if node.op_type == "TopK":
        return _top_k_objection(constants.get(node.input[1]))
    return None


def _top_k_objection(value: Any) -> str | None:
    if value is None:
        return f"k is not a constant, so it may exceed {MAX_TOP_K}"
    top_k = int(value.reshape(-1)[0])
    return None if top_k <= MAX_TOP_K else f"k is {top_k}, and TensorRT allows at most {MAX_TOP_K}"


def small_constants(graph: Any) -> dict[str, Any]:
    """Named constants of up to 16 values, as numpy arrays."""
    numpy_helper = require("onnx.numpy_helper", extra="onnx")
    small = [tensor for tensor in graph.initializer if all(size <= 16 for size in tensor.dims)]
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in small}
    for node in all_nodes(graph):
        if node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            if value is not None:
                found[node.output[0]] = numpy_helper.to_array(value)
    return found


def all_nodes(graph: Any) -> Iterator[Any]:
    """Every node of an ``onnx.GraphProto`` and its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from all_nodes(inner)
