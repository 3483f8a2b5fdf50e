"""The second way to fp16: AutoCast of NVIDIA ModelOpt converts, and the same gates judge (extra ``autocast``).

AutoCast decides node by node, by the ranges of one frame and by constants. It is told two things that it cannot know:
that points in metres lose centimetres in float16 (the nodes that kd3d's plan keeps as ``absolute``), and that the
scatter into the canvas may be float16 although its cell indices are large integers, which its range rule looks at.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd3d.errors import GraphError
from kd3d.export.emulate import half_tensors
from kd3d.export.precision_plan import LIMIT, Plan, inferred_types
from kd3d.export.ranges import Arrays
from kd3d.optional import require

MODULE = "modelopt.onnx.autocast"
INDEXED = ("ScatterND", "ScatterElements", "Gather", "GatherND", "GatherElements")


def autocast(model: Any, plan: Plan, feeds: Sequence[Arrays]) -> tuple[Any, dict[str, str]]:
    """Convert a graph with AutoCast.

    Args:
        model: ``onnx.ModelProto`` in fp32; it stays as it is.
        plan: kd3d's own plan for it, of which the rule ``absolute`` is taken.
        feeds: network inputs; AutoCast sees the fullest, since it holds every tensor of a frame in memory.

    Returns:
        The mixed-precision model, and of the nodes of ``model`` that stay fp32 the name (first output) and the rule.

    Raises:
        BackendError: ModelOpt, or one of the packages it needs, is not installed.
        GraphError: AutoCast fails, or changes the inputs or outputs.
    """
    tool: Any = require(MODULE, extra="autocast")
    tool.configure_logging("ERROR")  # it writes its progress to standard output, where --json writes its line
    named = _named(model)
    with tempfile.TemporaryDirectory(prefix="kd3d-autocast-") as folder:
        half = _converted(tool, named, plan, feeds, Path(folder))
    if _interface(half) != _interface(named):
        raise GraphError("AutoCast changed the inputs or outputs of the graph. Convert with --half-by kd3d.")
    _narrow_canvases(half)
    return half, _kept(named, half, plan)


def _named(model: Any) -> Any:
    """A copy whose nodes are named by their first outputs: each has a name of its own, which AutoCast keeps."""
    copy = require("onnx", extra="onnx").ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.name = node.output[0]
    return copy


def _converted(tool: Any, model: Any, plan: Plan, feeds: Sequence[Arrays], folder: Path) -> Any:
    onnx: Any = require("onnx", extra="onnx")
    path, ranges = folder / "model.onnx", folder / "ranges"
    onnx.save(model, path)
    ranges.mkdir()
    fullest = max(feeds, key=lambda one: sum(value.size for value in one.values()))
    np.savez(ranges / "frame.npz", **fullest)
    absolute = [name for name, rule in plan.kept.items() if rule.startswith("absolute")]
    nodes = enumerate(model.graph.node)
    indexed = [node.name for index, node in nodes if node.op_type in INDEXED and index in plan.low]
    try:
        return tool.convert_to_mixed_precision(
            str(path),
            low_precision_type="fp16",
            keep_io_types=True,
            calibration_data=str(ranges),
            data_max=LIMIT,
            init_max=LIMIT,
            nodes_to_exclude=[f"{re.escape(name)}$" for name in absolute],
            nodes_to_include=[f"{re.escape(name)}$" for name in indexed],
            providers=["cpu"],
        )
    except Exception as error:  # it raises what its parts raise, plain Exception included
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise GraphError(f"AutoCast cannot convert this graph: {first} Convert with --half-by kd3d.") from error


def _interface(model: Any) -> list[bytes]:
    return [value.SerializeToString(deterministic=True) for value in (*model.graph.input, *model.graph.output)]


def _narrow_canvases(half: Any) -> None:
    """A canvas of fp32 zeros that is only cast to float16 is written in float16 at once, in place."""
    onnx: Any = require("onnx", extra="onnx")
    numpy: Any = require("onnx.numpy_helper", extra="onnx")
    readers: dict[str, list[Any]] = {}
    for node in half.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for canvas in [node for node in half.graph.node if node.op_type == "ConstantOfShape"]:
        casts = readers.get(canvas.output[0], [])
        if len(casts) != 1 or not _to_half(casts[0]):
            continue
        value = next((numpy.to_array(a.t) for a in canvas.attribute if a.name == "value"), np.zeros(1, np.float32))
        del canvas.attribute[:]
        canvas.attribute.append(onnx.helper.make_attribute("value", numpy.from_array(value.astype("float16"))))
        canvas.output[0] = casts[0].output[0]
        half.graph.node.remove(casts[0])
    del half.graph.value_info[:]
    half.CopyFrom(onnx.shape_inference.infer_shapes(half, strict_mode=True))


def _to_half(node: Any) -> bool:
    half = require("onnx", extra="onnx").TensorProto.FLOAT16
    return node.op_type == "Cast" and any(a.name == "to" and a.i == half for a in node.attribute)


def _kept(model: Any, half: Any, plan: Plan) -> dict[str, str]:
    single = require("onnx", extra="onnx").TensorProto.FLOAT
    types, low = inferred_types(model), set(half_tensors(half))
    narrow = {node.name for node in half.graph.node if low.intersection(node.output)}
    found = {}
    for node in model.graph.node:
        if node.name not in narrow and any(types.get(name) == single for name in node.output):
            rule = plan.kept.get(node.output[0], "")
            found[node.output[0]] = rule if rule.startswith("absolute") else "autocast"
    return found
