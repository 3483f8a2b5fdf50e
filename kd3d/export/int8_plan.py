"""Which layers of an fp32 ONNX graph compute in 8 bits, and why the others do not.

Rules, in this order:

* **points**: layers over points, pillars or voxels (products of matrices: Gemm, MatMul) stay in higher precision. For
  a CPU not so the sparse convolutions, which are a gather and a product; but the first does, which reads coordinates.
* **output**: layers that put out a head map stay in higher precision: a score or a size has no step of 1/127.
* **kernel**: no 8-bit kernel is there: for a transposed convolution in groups, or any of them on a CPU.
* **sensitive**: what measurement shows to move boxes (``kd3d.export.sensitivity``).

Every other convolution and transposed convolution is quantised: its weights per output channel, and the tensor it reads
with one scale. That is where TensorRT wants them: it takes a ReLU and the next QuantizeLinear into the convolution
before, and moves a QuantizeLinear through a concatenation to its parts. ONNX Runtime's integer convolution also needs
the tensor that it gives (after its ReLU) in 8 bits, and its integer concatenation and pooling need their parts and
their result; these share one scale, so that nothing is rounded twice. A sparse convolution gathers 8-bit rows, a
quarter of the memory that it is bound by, and its product gives floats.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from kd3d.optional import require

CONVOLUTIONS = frozenset(("Conv", "ConvTranspose"))
WEIGHTED = CONVOLUTIONS | {"Gemm", "MatMul"}
_SAME_SCALE = frozenset(("Concat", "MaxPool"))
_ONE = ("MaxPool", "AveragePool", "Transpose", "Reshape", "Slice", "Squeeze", "Unsqueeze", "Flatten", "ReduceMax")
_DATA = {**dict.fromkeys(_ONE, (0,)), "ScatterND": (0, 2), "Add": (0, 1), "Max": (0, 1)}  # what the result is made of


@dataclass(frozen=True)
class Layer:
    """A layer that may be quantised.

    Args:
        name: its output.
        weight: its weights' initializer.
        bias: its bias' initializer, or ``None``.
        channel: the axis of its output channels in the weights.
        reads: the tensor it reads.
        gives: the tensor it gives, after its ReLU where it has one; ``None`` where that may be float for a CPU, too.
        moved: of a sparse convolution, what a gather and a reshape make of ``reads``; they move 8-bit numbers.
    """

    name: str
    weight: str
    bias: str | None
    channel: int
    reads: str
    gives: str | None
    moved: tuple[str, ...] = ()


@dataclass
class Int8Plan:
    """The outcome.

    Args:
        layers: that compute in 8 bits.
        kept: of the layers with weights that do not, the name (its output) and the rule.
    """

    layers: list[Layer] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    def without(self, sensitive: Mapping[str, str]) -> Int8Plan:
        """The plan with some more layers, by name, in higher precision: each with its rule."""
        layers = [layer for layer in self.layers if layer.name not in sensitive]
        return Int8Plan(layers, {**self.kept, **sensitive})

    def only(self, layer: Layer) -> Int8Plan:
        """The plan with ``layer`` alone in 8 bits."""
        return Int8Plan([layer], {})


def make_int8_plan(model: Any, *, cpu: bool) -> Int8Plan:
    """Decide for every layer with weights.

    Args:
        model: ``onnx.ModelProto`` in fp32.
        cpu: for ONNX Runtime on a CPU instead of TensorRT.
    """
    graph = model.graph
    constants = {item.name for item in graph.initializer}
    outputs = {item.name for item in graph.output}
    readers = consumers(graph)
    makers = {name: node for node in graph.node for name in node.output}
    plan = Int8Plan()
    for node in graph.node:
        if node.op_type not in WEIGHTED:
            continue
        sparse = _sparse(node, makers, readers, constants) if cpu and node.input[1] in constants else None
        if sparse is not None:
            plan.layers.append(sparse)
            continue
        gives = _after_relu(node.output[0], readers, outputs)
        rule = _rule(node, cpu=cpu, last=bool({gives, node.output[0]} & outputs), constant=node.input[1] in constants)
        if rule is None:
            channel = 1 if node.op_type == "ConvTranspose" else 0
            bias = node.input[2] if len(node.input) > 2 and node.input[2] in constants else None
            plan.layers.append(Layer(node.output[0], node.input[1], bias, channel, node.input[0], gives))
        else:
            plan.kept[node.output[0]] = rule
    return plan


def activations(model: Any, plan: Int8Plan, *, cpu: bool) -> list[list[str]]:
    """Tensors to quantise, in groups that share a scale, in the order of the graph."""
    wanted = {layer.reads for layer in plan.layers}
    wanted |= {layer.gives for layer in plan.layers if layer.gives is not None and cpu}
    joined: list[set[str]] = []
    for node in reversed(model.graph.node) if cpu else ():  # a result's need reaches its parts, and their parts
        if node.op_type in _SAME_SCALE and node.output[0] in wanted:
            wanted.update(node.input)
            joined.append({node.output[0], *node.input})
    order = [item.name for item in model.graph.input] + [name for node in model.graph.node for name in node.output]
    groups: list[set[str]] = []
    for one in (*joined, *({name} for name in wanted)):
        touching = [group for group in groups if group & one]
        groups = [group for group in groups if not group & one] + [one.union(*touching)]
    place = {name: index for index, name in enumerate(order)}
    listed = [sorted(group, key=place.__getitem__) for group in groups]
    return sorted(listed, key=lambda group: place[group[0]])


def never_negative(model: Any) -> set[str]:
    """Tensors of which the graph itself shows that they hold nothing below zero."""
    numpy_helper: Any = require("onnx.numpy_helper", extra="onnx")
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            value = next((numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"), None)
            sure = value is None or bool((value >= 0).all())
        else:
            data = [node.input[place] for place in _DATA.get(node.op_type, ())]
            if node.op_type == "Concat":
                data = list(node.input)
            sure = node.op_type in ("Relu", "Sigmoid") or (bool(data) and found.issuperset(data))
        if sure:
            found.add(node.output[0])
    return found


def consumers(graph: Any) -> dict[str, list[Any]]:
    """The nodes that read each tensor."""
    found: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _after_relu(name: str, readers: Mapping[str, list[Any]], outputs: Collection[str]) -> str:
    only = readers.get(name, [])
    fused = len(only) == 1 and only[0].op_type == "Relu" and name not in outputs
    return str(only[0].output[0]) if fused else name


def _sparse(
    node: Any, makers: Mapping[str, Any], readers: Mapping[str, list[Any]], constants: Collection[str]
) -> Layer | None:
    """The sparse convolution that a product of matrices ends, unless its rows are an input of the graph."""
    moved: list[str] = []
    name = node.input[0]
    for kind in ("Reshape", "Gather"):
        maker = makers.get(name)
        if maker is None or maker.op_type != kind or len(readers[name]) != 1:
            return None
        moved.insert(0, name)
        name = maker.input[0]
    rows = makers.get(name)  # those of the sites, and one of zeros
    if rows is None or rows.op_type != "Concat" or rows.input[0] not in makers:
        return None
    added = readers.get(node.output[0], [])
    bias = next((one for one in added[0].input if one in constants), None) if len(added) == 1 else None
    if bias is not None and (added[0].op_type != "Add" or len(readers[bias]) != 1):
        bias = None
    return Layer(node.output[0], node.input[1], bias, 1, name, None, tuple(moved))


def _rule(node: Any, *, cpu: bool, last: bool, constant: bool) -> str | None:
    if node.op_type not in CONVOLUTIONS:
        return f"points: {node.op_type}"
    if last:
        return "output"
    if not constant:
        return "kernel: its weights are computed"
    if node.op_type == "ConvTranspose" and (cpu or any(a.name == "group" and a.i != 1 for a in node.attribute)):
        return "kernel: ConvTranspose"
    return None
