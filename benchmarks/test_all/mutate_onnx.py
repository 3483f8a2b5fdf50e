"""An ONNX file with one node, tensor, shape or fact changed."""

from __future__ import annotations

from typing import Any

import numpy as np

_NUMBERS = (-1, 0, 1, 2, 7, 255, 10**6, 2**31, 2**62)


def changed_graph(content: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """A graph that is still a message, but not the one that was exported."""
    import onnx

    model = onnx.load_from_string(content)
    ways = (_operator, _wire, _drop, _attribute, _dimension, _type, _fact, _outside, _opset, _input)
    way = ways[random.integers(len(ways))]
    if not model.graph.initializer and way in (_dimension, _outside):
        way = _operator
    what = way(model, random)
    return model.SerializeToString(), f"{way.__name__[1:]}: {what}"


def _pick(values: Any, random: np.random.Generator) -> Any:
    return values[int(random.integers(len(values)))]


def _operator(model: Any, random: np.random.Generator) -> str:
    node = _pick(model.graph.node, random)
    node.op_type = str(random.choice(["Loop", "Identity", "Exp", "TopK", "Nope", "", "Conv", "Reshape", "NonZero"]))
    node.domain = str(random.choice(["", "", "com.microsoft", "elsewhere"]))
    return f"{node.name} is {node.domain}:{node.op_type}"


def _wire(model: Any, random: np.random.Generator) -> str:
    node, names = _pick(model.graph.node, random), [name for one in model.graph.node for name in one.output]
    if node.input:
        node.input[int(random.integers(len(node.input)))] = str(random.choice([*names, "nowhere", ""]))
    return node.name


def _drop(model: Any, random: np.random.Generator) -> str:
    part = _pick([model.graph.node, model.graph.initializer, model.graph.input, model.graph.output], random)
    if part:
        del part[int(random.integers(len(part)))]
    return type(part).__name__


def _attribute(model: Any, random: np.random.Generator) -> str:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return "none"
    one = _pick(_pick(nodes, random).attribute, random)
    if one.ints:
        one.ints[int(random.integers(len(one.ints)))] = _pick(_NUMBERS, random)
    else:
        one.i = _pick(_NUMBERS, random)
    return str(one.name)


def _dimension(model: Any, random: np.random.Generator) -> str:
    tensor = _pick([*model.graph.initializer], random)
    if tensor.dims:
        tensor.dims[int(random.integers(len(tensor.dims)))] = _pick(_NUMBERS, random)
    return str(tensor.name)


def _input(model: Any, random: np.random.Generator) -> str:
    value = _pick([*model.graph.input, *model.graph.output], random)
    shape = value.type.tensor_type.shape.dim
    if shape:
        _pick(shape, random).dim_value = _pick(_NUMBERS, random)
    return str(value.name)


def _type(model: Any, random: np.random.Generator) -> str:
    one = _pick([*model.graph.initializer, *model.graph.input], random)
    kind = int(random.integers(0, 25))
    if hasattr(one, "data_type"):
        one.data_type = kind
    else:
        one.type.tensor_type.elem_type = kind
    return f"{one.name} is {kind}"


def _fact(model: Any, random: np.random.Generator) -> str:
    from mutate_values import json_text

    if not model.metadata_props:
        return "none"
    prop = _pick(model.metadata_props, random)
    try:
        prop.value, what = json_text(prop.value, random)
    except ValueError:
        prop.value, what = str(random.choice(["", "x", "[]", "fp99"])), "text"
    return f"{prop.key} {what}"


def _outside(model: Any, random: np.random.Generator) -> str:
    """Weights that are said to be in another file."""
    tensor = _pick([*model.graph.initializer], random)
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    place = str(random.choice(["../outside", "/etc/passwd", "spec.json", "nowhere", ""]))
    tensor.external_data.add(key="location", value=place)
    tensor.external_data.add(key="length", value=str(_pick(_NUMBERS, random)))
    return place


def _opset(model: Any, random: np.random.Generator) -> str:
    model.opset_import[0].version = _pick([0, 1, 6, 11, 99, 2**40], random)
    model.ir_version = _pick([0, 1, 3, 10, 99], random)
    return str(model.opset_import[0].version)
