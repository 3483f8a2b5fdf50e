"""What a float16 graph gives where every operator really computes in float16, node by node.

ONNX Runtime's CPU provider computes float16 graphs in fp32 between casts, and so hides overflow and rounding. Here the
very graph that ships, whoever converted it, becomes an fp32 graph in which each float16 tensor is rounded to float16
and back: a value above 65,504 becomes infinite.
"""

from __future__ import annotations

from typing import Any

from kd3d.export.precision_plan import inferred_types
from kd3d.export.ranges import passed_on
from kd3d.optional import require


def emulated(model: Any) -> Any:
    """The fp32 form of a graph with float16 tensors.

    Args:
        model: ``onnx.ModelProto`` whose inputs and outputs are fp32.

    Returns:
        A new ``onnx.ModelProto`` with the same tensors by name, all of them fp32.

    Raises:
        GraphError: a type cannot be inferred.
    """
    onnx: Any = require("onnx", extra="onnx")
    half = onnx.TensorProto.FLOAT16
    types = inferred_types(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]  # they tell the old types
    del result.graph.node[:]
    for tensor in result.graph.initializer:
        _widen(tensor)
    for node in model.graph.node:
        twin = result.graph.node.add()
        twin.CopyFrom(node)
        _retype(twin)
        others = passed_on(node)
        if others and all(types.get(name) == half for name in others):
            continue  # of rounded values it makes no others
        made = [(place, name) for place, name in enumerate(node.output) if types.get(name) == half]
        for place, name in made:
            twin.output[place] = f"{name}.exact"
        for _, name in made:
            result.graph.node.append(onnx.helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=half))
            result.graph.node.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    return onnx.shape_inference.infer_shapes(result, strict_mode=True)


def half_tensors(model: Any) -> list[str]:
    """Float16 tensors that the nodes of ``model`` put out.

    Raises:
        GraphError: a type cannot be inferred.
    """
    half = require("onnx", extra="onnx").TensorProto.FLOAT16
    types = inferred_types(model)
    return [name for node in model.graph.node for name in node.output if types.get(name) == half]


def _retype(node: Any) -> None:
    """Operators that name their output's type, and constants inside nodes."""
    proto: Any = require("onnx", extra="onnx").TensorProto
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _widen(attribute.t)
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == proto.FLOAT16:
            attribute.i = proto.FLOAT


def _widen(tensor: Any) -> None:
    """Make a float16 tensor fp32, in place."""
    onnx: Any = require("onnx", extra="onnx")
    numpy: Any = require("onnx.numpy_helper", extra="onnx")
    if tensor.data_type == onnx.TensorProto.FLOAT16:
        tensor.CopyFrom(numpy.from_array(numpy.to_array(tensor).astype("float32"), tensor.name))
