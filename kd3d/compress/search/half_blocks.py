"""Blocks and whole networks in float16, as ``kd3d export onnx --precision fp16`` writes them. No torch.

A block takes and gives its maps in float16, as its neighbours do inside an fp16 network: the casts are where a network
has them, after the layer that sees points in metres, and before the head maps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kd3d.errors import UsageError
from kd3d.export.precision import rewrite, with_initializers
from kd3d.export.precision_plan import Plan, make_plan, tensor_types
from kd3d.optional import require

PRECISIONS = ("fp32", "fp16")


def lowered(content: bytes, kind: str, precision: str) -> bytes:
    """A graph of ``kd3d.compress.search.block_graphs`` in another precision.

    Args:
        content: the ONNX file, in fp32.
        kind: ``encoder``, ``level``, ``up`` or ``head`` for a block, ``network`` for a whole network or an export.
        precision: one of ``PRECISIONS``.

    Raises:
        UsageError: another precision: where 8 bits go depends on calibration, which blocks do not have.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"blocks are written in {' or '.join(PRECISIONS)}, not in {precision!r}.")
    return content if precision == "fp32" else _half(content, kind)


def _half(content: bytes, kind: str) -> bytes:
    onnx: Any = require("onnx", extra="onnx")
    model = with_initializers(onnx.load_model_from_string(content))
    types = tensor_types(model)
    if kind in ("encoder", "network"):
        plan = make_plan(model, types, {})
    else:  # its maps are no points in metres
        plan = Plan(low=set(range(len(model.graph.node))))
    half = rewrite(model, plan, types)
    if kind in ("level", "up", "head"):
        _narrow(half.graph, half.graph.input, lambda node: (node.input[0], node.output[0]))
    if kind in ("encoder", "level", "up"):
        _narrow(half.graph, half.graph.output, lambda node: (node.output[0], node.input[0]))
    del half.graph.value_info[:]
    onnx.checker.check_model(half, full_check=True)
    done: bytes = half.SerializeToString(deterministic=True)
    return done


def _narrow(graph: Any, values: Any, ends: Callable[[Any], tuple[str, str]]) -> None:
    """Inputs or outputs that are only cast become float16 themselves, in place.

    Args:
        graph: ``onnx.GraphProto``.
        values: its inputs or its outputs.
        ends: of a cast, the name that stays and the float16 tensor that takes it.
    """
    half: Any = require("onnx", extra="onnx").TensorProto.FLOAT16
    for value in values:
        cast = next((node for node in graph.node if node.op_type == "Cast" and ends(node)[0] == value.name), None)
        if cast is None:
            continue
        stays, inner = ends(cast)
        graph.node.remove(cast)
        for node in graph.node:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == inner:
                        names[place] = stays
        value.type.tensor_type.elem_type = half
