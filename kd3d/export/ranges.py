"""Largest magnitudes of a graph's tensors over frames, and graphs that run from memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import GraphError
from kd3d.optional import require
from kd3d.runtime.tensors import TensorInfo, onnx_tensor

Arrays = Mapping[str, NDArray[Any]]
_PEAK, _SUM = ".peak", ".sum"
# Operators that put out nothing but values of these inputs (and zeros), and so neither raise nor round them.
_FIRST = """
    Expand Flatten Gather GatherElements GatherND Identity MaxPool ReduceMax ReduceMin Relu Reshape Slice Squeeze
    Transpose Unsqueeze
    """.split()  # noqa: SIM905 - as in operators.py
_PASSES = {**dict.fromkeys(_FIRST, (0,)), "ScatterND": (0, 2), "Max": None, "Min": None, "Concat": None}


def passed_on(node: Any) -> tuple[str, ...]:
    """The inputs of which alone the values of a node's output are; empty where it computes new ones."""
    if node.op_type not in _PASSES or any(attribute.name == "reduction" for attribute in node.attribute):
        return ()
    places = _PASSES[node.op_type]
    return tuple(node.input) if places is None else tuple(node.input[place] for place in places)


class GraphRunner:
    """An ``onnx.ModelProto`` in ONNX Runtime exactly as written: no node is fused, moved or dropped.

    Args:
        model: to run; it needs no file.
        optimised: let ONNX Runtime fuse nodes, as it does with a file: for speed, where rounding is of no concern.
    """

    name = "onnxruntime-cpu (unoptimised)"

    def __init__(self, model: Any, *, optimised: bool = False) -> None:
        ort: Any = require("onnxruntime", extra="onnx")
        options = ort.SessionOptions()
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other processes compute, too
        try:
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise GraphError(f"ONNX Runtime refuses this graph: {str(error).strip().splitlines()[0]}") from error

    def __enter__(self) -> GraphRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @property
    def metadata(self) -> dict[str, str]:
        """``metadata_props`` of the model."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    device = "cpu"

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Inputs of the graph."""
        return tuple(onnx_tensor(item) for item in self._session.get_inputs())

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Outputs of the graph."""
        return tuple(onnx_tensor(item) for item in self._session.get_outputs())

    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name."""
        names = [item.name for item in self._session.get_outputs()]
        needed = {item.name: np.ascontiguousarray(feeds[item.name]) for item in self._session.get_inputs()}
        return dict(zip(names, self._session.run(names, needed), strict=True))


def measure(model: Any, names: Sequence[str], feeds: Iterable[Arrays], *, bounds: bool = False) -> dict[str, float]:
    """The largest magnitude that each of ``names`` (fp32 tensors) reaches over ``feeds``; infinite where not finite.

    The magnitudes are taken inside the graph, so that maps are not kept. ONNX Runtime's maximum passes over what is
    not a number; the sum does not.

    Args:
        model: ``onnx.ModelProto``.
        names: of the tensors.
        feeds: inputs of the graph.
        bounds: a tensor that only passes on values of others gets the largest of these, unmeasured: an upper bound. It
            spares a copy of what a sparse convolution gathers, which is 27 times its input.
    """
    onnx: Any = require("onnx", extra="onnx")
    sources = _sources(model, names) if bounds else {}
    looked_at = [name for name in names if name not in sources]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for name in looked_at:
        watched.graph.node.add().CopyFrom(onnx.helper.make_node("Abs", [name], [f"{name}.abs"]))
        for kind, end in (("ReduceMax", _PEAK), ("ReduceSum", _SUM)):
            watched.graph.node.add().CopyFrom(
                onnx.helper.make_node(kind, [f"{name}.abs"], [f"{name}{end}"], keepdims=0)
            )
            value = onnx.helper.make_tensor_value_info(f"{name}{end}", onnx.TensorProto.FLOAT, [])
            watched.graph.output.append(value)
    runner = GraphRunner(watched)
    peaks = dict.fromkeys(looked_at, 0.0)
    for one in feeds:
        outputs = runner.infer(one)
        for name in looked_at:
            peak, total = (float(outputs[f"{name}{end}"]) for end in (_PEAK, _SUM))
            peaks[name] = max(peaks[name], peak) if np.isfinite(total) else float("inf")
    for name, others in sources.items():  # in the order of the graph: sources before what they are passed on to
        peaks[name] = max(peaks[other] for other in others)
    return {name: peaks[name] for name in names}


def _sources(model: Any, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Of those of ``names`` whose values are passed on from others of them: which."""
    known, found = set(names), dict[str, tuple[str, ...]]()
    for node in model.graph.node:
        others = passed_on(node)
        if others and node.output[0] in known and known.issuperset(others):
            found[node.output[0]] = others
    return found


def computed_floats(model: Any, types: Mapping[str, int]) -> list[str]:
    """Float tensors that nodes of ``model`` put out, and its float inputs."""
    single = require("onnx", extra="onnx").TensorProto.FLOAT
    made = [name for node in model.graph.node for name in node.output]
    return [name for name in (*(item.name for item in model.graph.input), *made) if types.get(name) == single]
