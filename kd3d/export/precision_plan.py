"""Which nodes of an fp32 ONNX graph may compute in float16, and why the others may not.

Rules, in this order (traps and figures: specs of TensorRT's and of ModelOpt's converters, and trials):

* **absolute**: values that come from a float input of the graph (points in metres) or from integers (cell indices,
  counts) stay fp32 until a layer with weights has consumed them; that layer computes in fp32, too. 51.2 m is known to
  3 cm in float16, and integers above 2048 not at all.
* **operator**: operators outside ``LOW`` (exponentials, angles, roots, divisions, sums of many, TopK: box decoding)
  stay fp32, and so does what follows them up to the next layer with weights.
* **range**: a node stays fp32 where a value that goes in or comes out, or a constant, exceeds ``LIMIT``.

Everything else computes in float16, the BEV canvas and the scatter into it included: its indices are integers and are
not touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kd3d.errors import GraphError
from kd3d.optional import require

LIMIT = 32_000.0  # half of float16's largest value, 65,504: another frame may hold twice what was seen
LOW = frozenset(
    """
    Abs Add AveragePool Clip Concat ConstantOfShape Conv ConvTranspose DequantizeLinear Equal Expand Flatten Gather
    GatherElements GatherND Gemm GlobalAveragePool Greater GreaterOrEqual HardSigmoid Identity LeakyRelu Less
    LessOrEqual MatMul Max MaxPool Min Mul Neg Pad QuantizeLinear ReduceMax ReduceMin Relu Reshape Resize
    ScatterElements ScatterND Sigmoid Slice Split Squeeze Sub Tanh Tile Transpose Unsqueeze Where
    """.split()  # noqa: SIM905 - as in operators.py
)
WEIGHTED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
KEPT_INPUTS = frozenset((("Resize", 1), ("Resize", 2)))  # region and scales: float32 whatever the data are


@dataclass
class Plan:
    """The outcome.

    Args:
        low: positions in ``graph.node`` of the nodes that compute in float16.
        kept: of the float nodes that do not, the name (its first output) and the rule.
    """

    low: set[int] = field(default_factory=set)
    kept: dict[str, str] = field(default_factory=dict)


def float_inputs(node: Any, floats: frozenset[str]) -> list[int]:
    """Positions of the inputs that follow the node's precision."""
    return [
        index for index, name in enumerate(node.input) if name in floats and (node.op_type, index) not in KEPT_INPUTS
    ]


def tensor_types(model: Any) -> dict[str, int]:
    """Element type of every tensor, by name.

    Raises:
        GraphError: a type cannot be inferred, the graph has subgraphs, or it holds float16 already.
    """
    onnx: Any = require("onnx", extra="onnx")
    found = inferred_types(model)
    half = sorted(name for name, kind in found.items() if kind in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16))
    if half:
        raise GraphError(f"the graph is not fp32: {half[0]} is a half-precision tensor. Convert the fp32 graph.")
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise GraphError(f"{node.op_type} at {node.output[0]} has a subgraph, which cannot be converted to fp16.")
        unknown = [name for name in node.output if name and not found.get(name)]
        if unknown:
            raise GraphError(f"gate checker: the type of {unknown[0]} ({node.op_type}) cannot be inferred.")
    return found


def inferred_types(model: Any) -> dict[str, int]:
    """Element type of every tensor that has one, by name.

    Raises:
        GraphError: the types contradict each other.
    """
    onnx: Any = require("onnx", extra="onnx")
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise GraphError(f"gate checker: types cannot be inferred: {str(error).strip().splitlines()[0]}") from error
    found = {item.name: item.data_type for item in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def make_plan(model: Any, types: Mapping[str, int], ranges: Mapping[str, float]) -> Plan:
    """Decide for every node.

    Args:
        model: ``onnx.ModelProto`` in fp32 without float ``Constant`` nodes.
        types: as ``tensor_types`` gives.
        ranges: largest magnitude of each computed float tensor, as ``kd3d.export.ranges.measure`` gives.
    """
    proto: Any = require("onnx", extra="onnx").TensorProto
    floats = frozenset(name for name, kind in types.items() if kind == proto.FLOAT)
    peaks = {**ranges, **_constant_peaks(model)}
    constants = {item.name for item in model.graph.initializer}
    sticky = {item.name for item in model.graph.input if item.name in floats} - constants
    plan = Plan()
    for index, node in enumerate(model.graph.node):
        used = [node.input[place] for place in float_inputs(node, floats)]
        made = [name for name in node.output if name in floats]
        if not used and not made:
            continue
        rule = _rule(node, types, sticky.intersection(used))
        beyond = [name for name in (*used, *made) if not peaks.get(name, 0.0) <= LIMIT]
        if rule is None and beyond:
            plan.kept[node.output[0]] = f"range: {beyond[0]} reaches {peaks[beyond[0]]:.3g}"
        elif rule is None:
            plan.low.add(index)
        else:
            plan.kept[node.output[0]] = rule
            if not (rule.startswith("absolute") and node.op_type in WEIGHTED and constants.intersection(used)):
                sticky.update(made)
    return plan


def _rule(node: Any, types: Mapping[str, int], absolute: set[str]) -> str | None:
    proto: Any = require("onnx", extra="onnx").TensorProto
    if node.op_type == "Cast":
        source = types.get(node.input[0])
        return None if source == proto.BOOL else "absolute: integers or another type"
    if node.op_type not in LOW:
        return f"operator: {node.op_type}"
    return f"absolute: {min(absolute)}" if absolute else None


def _constant_peaks(model: Any) -> dict[str, float]:
    numpy_helper: Any = require("onnx.numpy_helper", extra="onnx")
    proto: Any = require("onnx", extra="onnx").TensorProto
    found = {}
    for item in model.graph.initializer:
        if item.data_type == proto.FLOAT:
            found[item.name] = float(np.abs(numpy_helper.to_array(item)).max(initial=0.0))
    return found
