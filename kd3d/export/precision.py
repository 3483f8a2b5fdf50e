"""Float16 in the ONNX graph itself: one artefact for TensorRT versions with builder flags and with strong typing.

Inputs and outputs stay fp32, so nothing around the network changes. Casts are written only where precision changes,
one per tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd3d.export.precision_plan import Plan, float_inputs, make_plan, tensor_types
from kd3d.optional import require


def to_fp16(model: Any, ranges: Mapping[str, float]) -> tuple[Any, Plan]:
    """Convert a graph; ``model`` stays as it is.

    Args:
        model: ``onnx.ModelProto`` in fp32.
        ranges: largest magnitude of each computed float tensor over calibration frames.

    Returns:
        The mixed-precision model, and which nodes changed.

    Raises:
        GraphError: the graph holds float16 already, has subgraphs, or its types cannot be inferred.
    """
    model = with_initializers(model)
    types = tensor_types(model)
    plan = make_plan(model, types, ranges)
    return rewrite(model, plan, types), plan


def with_initializers(model: Any) -> Any:
    """A copy whose float ``Constant`` nodes are initializers, so that a converter meets constants in one form only."""
    onnx: Any = require("onnx", extra="onnx")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = []
    for node in copy.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is None or value.data_type != onnx.TensorProto.FLOAT:
            kept.append(node)
        else:
            copy.graph.initializer.add().CopyFrom(value)
            copy.graph.initializer[-1].name = node.output[0]
    copied = [_copied(node) for node in kept]
    del copy.graph.node[:]
    copy.graph.node.extend(copied)
    return copy


def rewrite(model: Any, plan: Plan, types: Mapping[str, int]) -> Any:
    """Carry out a plan.

    Args:
        model: fp32, as ``with_initializers`` gives.
        plan: for this model.
        types: of its tensors.

    Returns:
        A new ``onnx.ModelProto``, its intermediate types inferred anew.
    """
    onnx: Any = require("onnx", extra="onnx")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]  # they tell the old types
    writer = _Writer(result.graph, types)
    nodes = list(model.graph.node)
    del result.graph.node[:]
    for index, node in enumerate(nodes):
        writer.add(node, low=index in plan.low)
    result.graph.node.extend(writer.nodes)
    used = {name for node in writer.nodes for name in node.input} | {item.name for item in result.graph.output}
    initializers = [item for item in result.graph.initializer if item.name in used] + writer.constants
    copied = [_copied(item) for item in initializers]
    del result.graph.initializer[:]
    result.graph.initializer.extend(copied)
    return onnx.shape_inference.infer_shapes(result, strict_mode=True)


class _Writer:
    """Nodes with their inputs in the right precision; casts are shared."""

    def __init__(self, graph: Any, types: Mapping[str, int]) -> None:
        self.onnx: Any = require("onnx", extra="onnx")
        self.numpy: Any = require("onnx.numpy_helper", extra="onnx")
        proto = self.onnx.TensorProto
        self.single, self.half = proto.FLOAT, proto.FLOAT16
        self.floats = frozenset(name for name, kind in types.items() if kind == self.single)
        self.values = {item.name: item for item in graph.initializer}
        self.outputs = {item.name for item in graph.output}
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.low: dict[str, str] = {}  # tensor to the name of its float16 form
        self.high: dict[str, str] = {}  # and to the name of its fp32 form, where that is not its own

    def add(self, node: Any, *, low: bool) -> None:
        """Append ``node`` in its precision."""
        node = _copied(node)
        for place in float_inputs(node, self.floats):
            name = node.input[place]
            node.input[place] = self._low(name) if low else self._high(name)
        if low:
            self._retype(node)
        made = [(place, name) for place, name in enumerate(node.output) if low and name in self.floats]
        for place, name in made:
            if name in self.outputs:
                node.output[place] = f"{name}.fp16"
        self.nodes.append(node)
        for place, name in made:
            self._publish(name, node.output[place])

    def _publish(self, name: str, written: str) -> None:
        self.low[name] = written
        if written != name:
            self._cast(written, name, self.single)
            self.high[name] = name

    def _low(self, name: str) -> str:
        if name in self.low:
            return self.low[name]
        target = f"{name}.fp16"
        if name in self.values:
            values = self.numpy.to_array(self.values[name]).astype("float16")
            self.constants.append(self.numpy.from_array(values, target))
        else:
            self._cast(name, target, self.half)
        self.low[name] = target
        return target

    def _high(self, name: str) -> str:
        if name in self.values or name not in self.low or self.low[name] != name:
            return name
        if name not in self.high:
            self.high[name] = f"{name}.fp32"
            self._cast(name, self.high[name], self.single)
        return self.high[name]

    def _retype(self, node: Any) -> None:
        """Operators that name their output's type."""
        if node.op_type == "Cast":
            next(a for a in node.attribute if a.name == "to").i = self.half
        elif node.op_type == "ConstantOfShape":
            value = next((a for a in node.attribute if a.name == "value"), None)
            if value is None:
                value = node.attribute.add()
                value.name, value.type = "value", self.onnx.AttributeProto.TENSOR
                array = self.numpy.to_array(self.onnx.helper.make_tensor("", self.single, [1], [0.0]))
            else:
                array = self.numpy.to_array(value.t)
            value.t.CopyFrom(self.numpy.from_array(array.astype("float16")))

    def _cast(self, source: str, target: str, kind: int) -> None:
        self.nodes.append(self.onnx.helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind))


def _copied(message: Any) -> Any:
    twin = type(message)()
    twin.CopyFrom(message)
    return twin
