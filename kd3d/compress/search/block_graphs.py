"""ONNX graphs of blocks and of whole networks, node for node as ``kd3d export onnx`` writes them, without torch.

Weights are constant: the time of dense arithmetic does not depend on their values, and they compress to nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kd3d.compress.search.blocks import Block, blocks
from kd3d.errors import SpecError
from kd3d.optional import require
from kd3d.spec import DetectorSpec

OPSET, IR_VERSION = 20, 10
Side = int | str


class GraphWriter:
    """Adds nodes and weights to a graph, one frame per run."""

    def __init__(self) -> None:
        self._onnx: Any = require("onnx", extra="onnx")
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._count = 0

    def input(self, name: str, shape: tuple[Side, ...], *, integer: bool = False) -> str:
        """A graph input; a text stands for a free dimension."""
        kind = self._onnx.TensorProto.INT64 if integer else self._onnx.TensorProto.FLOAT
        self._inputs.append(self._onnx.helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """An operation with one output; returns the output's name."""
        self._count += 1
        name = f"{kind.lower()}_{self._count}"
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: Any) -> str:
        """An initializer."""
        self._count += 1
        name = f"constant_{self._count}"
        self._constants[name] = self._onnx.numpy_helper.from_array(np.asarray(value), name)
        return name

    def integers(self, *values: int) -> str:
        """A vector of int64."""
        return self.constant(np.array(values, np.int64))

    def weights(self, *shape: int, fan_in: int) -> str:
        """Weights that keep the size of what passes, so that no run meets denormal numbers."""
        return self.constant(np.full(shape, 1 / fan_in, np.float32))

    def conv(self, x: str, read: int, out: int, *, kernel: int = 3, stride: int = 1, relu: bool = True) -> str:
        """A convolution with bias and, usually, ReLU; 3x3 is padded, other kernels are not."""
        pad = kernel // 2 if kernel == 3 else 0
        made = self.node(
            "Conv",
            x,
            self.weights(out, read, kernel, kernel, fan_in=read * kernel**2),
            self.constant(np.zeros(out, np.float32)),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
        )
        return self.node("Relu", made) if relu else made

    def deconv(self, x: str, read: int, out: int, *, stride: int) -> str:
        """A transposed convolution whose kernel is its stride, with bias and ReLU."""
        made = self.node(
            "ConvTranspose",
            x,
            self.weights(read, out, stride, stride, fan_in=read),
            self.constant(np.zeros(out, np.float32)),
            kernel_shape=[stride, stride],
            strides=[stride, stride],
            pads=[0] * 4,
        )
        return self.node("Relu", made)

    def model(self, outputs: list[str]) -> bytes:
        """The finished graph, checked and serialised."""
        onnx = self._onnx
        results = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
        graph = onnx.helper.make_graph(self._nodes, "block", self._inputs, results, list(self._constants.values()))
        model = onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="kd3d",
        )
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
        del model.graph.value_info[:]
        content: bytes = model.SerializeToString(deterministic=True)
        return content


def block_graph(block: Block) -> bytes:
    """The ONNX file of one block."""
    graph, made = GraphWriter(), block.values()
    if block.kind == "encoder":
        return graph.model([_encoder(graph, made)])
    if block.kind == "head":
        ups = [
            graph.input(f"up{index}", (1, width, made["ny"], made["nx"])) for index, width in enumerate(made["read"])
        ]
        return graph.model(_head(graph, made, ups))
    x = graph.input("x", (1, made["read"], made["ny"], made["nx"]))
    return graph.model([_level(graph, made, x) if block.kind == "level" else _up(graph, made, x)])


def block_inputs(block: Block, precision: str = "fp32") -> list[dict[str, Any]]:
    """What to feed to the graph of ``block`` in a precision; points are fp32 in all of them."""
    made = block.values()
    if block.kind == "encoder":
        return _point_inputs(made)
    widths = made["read"] if block.kind == "head" else (made["read"],)
    names = [f"up{index}" for index in range(len(widths))] if block.kind == "head" else ["x"]
    kind = {"type": "float16"} if precision == "fp16" else {}
    return [
        {"name": name, "shape": [1, width, made["ny"], made["nx"]], "fill": "uniform", **kind}
        for name, width in zip(names, widths, strict=True)
    ]


def network_graph(spec: DetectorSpec) -> bytes:
    """The ONNX file of the whole network of ``spec``, for any number of pillars."""
    graph = GraphWriter()
    encoder, *rest = blocks(spec, 1)
    x, maps = _encoder(graph, encoder.values()), []
    levels = [block for block in rest if block.kind == "level"]
    for level in levels:
        x = _level(graph, level.values(), x)
        maps.append(x)
    ups = [block for block in rest if block.kind == "up"]
    raised = [_up(graph, up.values(), x) for up, x in zip(ups, maps, strict=True)]
    return graph.model(_head(graph, rest[-1].values(), raised))


def network_inputs(spec: DetectorSpec, pillars: int) -> list[dict[str, Any]]:
    """What to feed to the graph of ``spec``."""
    return _point_inputs(blocks(spec, pillars)[0].values())


def overhead_graph() -> bytes:
    """A graph that computes next to nothing: what it takes is the price of a call."""
    graph = GraphWriter()
    return graph.model([graph.node("Relu", graph.input("x", (1,)))])


def _point_inputs(made: dict[str, Any]) -> list[dict[str, Any]]:
    pillars, points, area = made["pillars"], made["points"], made["ny"] * made["nx"]
    if pillars > area:
        raise SpecError(f"{pillars} pillars do not fit a grid of {area} cells.")
    return [
        {"name": "features", "shape": [pillars, points, made["inputs"]], "fill": "uniform"},
        {"name": "counts", "shape": [pillars], "fill": "constant", "value": points},
        {"name": "cells", "shape": [pillars], "fill": "distinct", "below": area},
    ]


def _encoder(graph: GraphWriter, made: dict[str, Any]) -> str:
    points, read, last = made["points"], made["inputs"], len(made["filters"]) - 1
    x = graph.input("features", ("pillars", points, read))
    counts = graph.input("counts", ("pillars",), integer=True)
    cells = graph.input("cells", ("pillars",), integer=True)
    used = _used(graph, counts, points) if made["mode"] == "dynamic" else None
    for index, width in enumerate(made["filters"]):
        out = width if index == last else width // 2
        flat = graph.node("Reshape", x, graph.integers(-1, read), allowzero=1)
        weights, bias = graph.weights(out, read, fan_in=read), graph.constant(np.zeros(out, np.float32))
        x = graph.node("Reshape", graph.node("Gemm", flat, weights, bias, transB=1), graph.integers(-1, points, out))
        if used is not None:
            x = graph.node("Mul", x, used)
        if index < last:
            x = graph.node("Relu", x)
            highest = graph.node("ReduceMax", x, graph.integers(1), keepdims=0)
            highest = graph.node("Unsqueeze", highest, graph.integers(1))
            x = graph.node("Concat", x, graph.node("Expand", highest, graph.integers(1, points, 1)), axis=2)
        read = width
    return _scatter(graph, graph.node("Relu", graph.node("ReduceMax", x, graph.integers(1), keepdims=0)), cells, made)


def _used(graph: GraphWriter, counts: str, points: int) -> str:
    column = graph.node("Unsqueeze", counts, graph.integers(1))
    less = graph.node("Less", graph.constant(np.arange(points)), column)
    return graph.node("Cast", graph.node("Unsqueeze", less, graph.integers(2)), to=1)


def _scatter(graph: GraphWriter, pillars: str, cells: str, made: dict[str, Any]) -> str:
    ny, nx, width = made["ny"], made["nx"], made["filters"][-1]
    canvas = graph.node("ConstantOfShape", graph.integers(ny * nx + 1, width))
    canvas = graph.node("ScatterND", canvas, graph.node("Unsqueeze", cells, graph.integers(-1)), pillars)
    cut = graph.node("Slice", canvas, graph.integers(0), graph.integers(ny * nx), graph.integers(0), graph.integers(1))
    return graph.node("Transpose", graph.node("Reshape", cut, graph.integers(1, ny, nx, width)), perm=[0, 3, 1, 2])


def _level(graph: GraphWriter, made: dict[str, Any], x: str) -> str:
    x = graph.conv(x, made["read"], made["out"], stride=made["stride"])
    for _ in range(made["further"]):
        x = graph.conv(x, made["out"], made["out"])
    return x


def _up(graph: GraphWriter, made: dict[str, Any], x: str) -> str:
    if made["stride"] >= 1:
        return graph.deconv(x, made["read"], made["out"], stride=int(made["stride"]))
    size = round(1 / made["stride"])
    return graph.conv(x, made["read"], made["out"], kernel=size, stride=size)


def _head(graph: GraphWriter, made: dict[str, Any], ups: list[str]) -> list[str]:
    neck = graph.node("Concat", *ups, axis=1) if len(ups) > 1 else ups[0]
    if "anchors" in made:
        return [graph.conv(neck, sum(made["read"]), out, kernel=1, relu=False) for out in made["anchors"]]
    shared = graph.conv(neck, sum(made["read"]), made["shared"])
    tasks = [widths for name, widths in made.items() if name.startswith("task")]
    found = []
    for out in (width for widths in tasks for width in widths):
        hidden = graph.conv(shared, made["shared"], made["hidden"])
        found.append(graph.conv(hidden, made["hidden"], out, relu=False))
    return found
