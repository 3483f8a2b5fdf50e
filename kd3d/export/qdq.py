"""QuantizeLinear and DequantizeLinear written into a graph: INT8 for every TensorRT, or for ONNX Runtime on a CPU.

Per activation one pair, which all its readers share; per weight an int8 initializer and one DequantizeLinear. All zero
points are 0 and given (TensorRT 8 asks for them). Scales are exact in float16, so that the graph means the same
whatever the rest computes in.

TensorRT refuses unsigned activations and int32 biases. ONNX Runtime's CPU provider needs both: a
ReLU fuses into an integer convolution only where the smallest integer stands for zero.

Where scales become float16, biases are added by a node of their own, which TensorRT fuses: ONNX Runtime (seen in 1.31)
makes a float bias int32 by the product of two float16 scales, which underflows, and would give wrong boxes silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kd3d.export.int8_plan import Int8Plan, Layer, activations, never_negative
from kd3d.optional import require

Scales = NDArray[np.float32]
SIGNED, UNSIGNED = 127, 255
_LEAST = np.float32(2.0**-24)  # float16's smallest number above zero
_BIAS_LEVELS = 2.0**30
Biases = Literal["float", "added", "int32"]


@dataclass(frozen=True)
class Activation:
    """How a tensor is quantised: its step, and ``SIGNED`` or ``UNSIGNED`` levels."""

    scale: Scales
    levels: int


def activation_levels(model: Any, plan: Int8Plan, *, cpu: bool) -> dict[str, int]:
    """Steps from zero to the threshold of each tensor that ``plan`` quantises; who shares a scale shares them."""
    positive = never_negative(model) if cpu else set()
    groups = activations(model, plan, cpu=cpu)
    return {name: UNSIGNED if positive.issuperset(group) else SIGNED for group in groups for name in group}


def quantise(model: Any, plan: Int8Plan, limits: Mapping[str, float], *, cpu: bool, half: bool = False) -> Any:
    """Carry out a plan.

    Args:
        model: ``onnx.ModelProto`` in fp32 without float ``Constant`` nodes; it stays as it is.
        plan: for this model.
        limits: clipping threshold of each activation, as ``kd3d.export.calibrate.thresholds`` gives.
        cpu: for ONNX Runtime on a CPU instead of TensorRT.
        half: scales will become float16.

    Returns:
        A new ``onnx.ModelProto``, its types inferred anew.
    """
    onnx: Any = require("onnx", extra="onnx")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    levels = activation_levels(model, plan, cpu=cpu)
    found = {}
    for group in activations(model, plan, cpu=cpu):
        scale = scale_of(max(limits[name] for name in group), levels[group[0]])
        found.update({name: Activation(scale, levels[name]) for name in group})
    writer = _Writer(result.graph, found, biases="int32" if cpu else "added" if half else "float")
    for layer in plan.layers:
        writer.weight(layer)
        writer.moved.update(dict.fromkeys(layer.moved, layer))
    for item in result.graph.input:
        writer.activation(item.name)
    for node in model.graph.node:
        writer.node(node)
        for name in node.output:
            writer.activation(name)
    del result.graph.node[:]
    result.graph.node.extend(writer.nodes)
    return onnx.shape_inference.infer_shapes(result, strict_mode=True)


def scale_of(limit: float | NDArray[np.floating[Any]], levels: int) -> Scales:
    """The step of ``levels`` steps up to ``limit``: rounded up to float16, and never zero."""
    exact = np.maximum(np.asarray(limit, np.float32) / np.float32(levels), _LEAST)
    rounded = exact.astype(np.float16)
    above = np.where(rounded.astype(np.float32) < exact, np.nextafter(rounded, np.float16(np.inf)), rounded)
    return np.asarray(above, np.float32)


def quantised_weight(
    weight: NDArray[np.float32], channel: int, *, least: NDArray[np.float32] | float = 0.0
) -> tuple[NDArray[np.int8], Scales]:
    """Symmetric 8-bit weights with a scale per output channel.

    Args:
        weight: of any rank.
        channel: the axis of the output channels.
        least: of the scales.

    Returns:
        The weights, and ``[C]`` scales.
    """
    others = tuple(axis for axis in range(weight.ndim) if axis != channel)
    scales = scale_of(np.maximum(np.abs(weight).max(axis=others), np.float32(SIGNED) * least), SIGNED)
    shape = [-1 if axis == channel else 1 for axis in range(weight.ndim)]
    steps = np.rint(weight / scales.reshape(shape))
    return np.clip(steps, -SIGNED, SIGNED).astype(np.int8), scales


class _Writer:
    """Nodes with the names they read after quantisation."""

    def __init__(self, graph: Any, activations: Mapping[str, Activation], *, biases: Biases) -> None:
        self.helper: Any = require("onnx.helper", extra="onnx")
        self.numpy: Any = require("onnx.numpy_helper", extra="onnx")
        self.graph, self.activations, self.biases = graph, activations, biases
        self.values = {item.name: item for item in graph.initializer}
        self.renamed: dict[str, str] = {}
        self.added: dict[str, str] = {}  # layer to the bias that a node of its own adds
        self.moved: dict[str, Layer] = {}  # what only moves the 8-bit numbers that a layer reads
        self.nodes: list[Any] = []

    def node(self, node: Any) -> None:
        """Append a node, its inputs renamed."""
        copy = type(node)()
        copy.CopyFrom(node)
        if node.output[0] in self.moved:
            self._move(copy, self.moved[node.output[0]])
            return
        for place, name in enumerate(copy.input):
            copy.input[place] = self.renamed.get(name, name)
        self.nodes.append(copy)
        bias = self.added.get(node.output[0])
        if bias is not None:
            del copy.input[2]
            copy.output[0] = f"{node.output[0]}.unbiased"
            add = self.helper.make_node("Add", [copy.output[0], bias], [node.output[0]], name=f"bias_{node.output[0]}")
            self.nodes.append(add)

    def _move(self, node: Any, layer: Layer) -> None:
        """Append a node that moves 8-bit numbers, and what makes them floats again behind the last."""
        name = node.output[0]
        node.input[0], node.output[0] = f"{node.input[0]}.int8", f"{name}.int8"
        self.nodes.append(node)
        if name == layer.moved[-1]:
            self._half("DequantizeLinear", f"{name}.int8", f"{name}.dequantised", layer.reads)
            self.renamed[name] = f"{name}.dequantised"

    def weight(self, layer: Layer) -> None:
        """Replace the weights of a layer, and its bias where that is wanted."""
        item, step = self.values[layer.weight], self.activations[layer.reads].scale
        bias = None if layer.bias is None else self.numpy.to_array(self.values[layer.bias])
        least = 0.0 if bias is None or self.biases != "int32" else np.abs(bias) / (step * np.float32(_BIAS_LEVELS))
        steps, scales = quantised_weight(self.numpy.to_array(item), layer.channel, least=least)
        self._constant(layer.weight, steps, scales, axis=layer.channel)
        if layer.bias is None or bias is None:
            return
        if self.biases == "int32":
            steps32 = np.rint(bias / (scales * step).astype(np.float64)).astype(np.int32)
            self._constant(layer.bias, steps32, scales * step, axis=0)
        elif self.biases == "added":
            self.added[layer.name] = f"{layer.bias}.added"
            planes = bias.reshape(-1, *(1 for _ in range(len(item.dims) - 2)))
            self.graph.initializer.append(self.numpy.from_array(planes, self.added[layer.name]))
            self.graph.initializer.remove(self.values[layer.bias])

    def activation(self, name: str) -> None:
        """Quantise a tensor, if it is to be, for all its readers."""
        if name not in self.activations:
            return
        one = self.activations[name]
        zero = np.zeros((), np.uint8 if one.levels == UNSIGNED else np.int8)
        self._scale(name, one.scale, zero)
        self._half("QuantizeLinear", name, f"{name}.int8", name)
        self._half("DequantizeLinear", f"{name}.int8", f"{name}.dequantised", name)
        self.renamed[name] = f"{name}.dequantised"

    def _constant(self, name: str, steps: NDArray[Any], scales: Scales, *, axis: int) -> None:
        self._scale(name, scales, np.zeros(scales.shape, steps.dtype))
        self.graph.initializer.append(self.numpy.from_array(steps, f"{name}.int"))
        self._half("DequantizeLinear", f"{name}.int", f"{name}.dequantised", name, axis=axis)
        self.renamed[name] = f"{name}.dequantised"
        self.graph.initializer.remove(self.values[name])

    def _scale(self, name: str, scale: Scales, zero: NDArray[Any]) -> None:
        self.graph.initializer.append(self.numpy.from_array(scale, f"{name}.scale"))
        self.graph.initializer.append(self.numpy.from_array(zero, f"{name}.zero"))

    def _half(self, kind: str, source: str, target: str, name: str, **attributes: int) -> None:
        inputs = [source, f"{name}.scale", f"{name}.zero"]
        self.nodes.append(self.helper.make_node(kind, inputs, [target], name=f"{kind}_{target}", **attributes))
