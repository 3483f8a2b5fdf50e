"""What an engine really computes in, from TensorRT's engine inspector (the JSON of 8.x/10.x and of 11.x)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kd3d.errors import PrecisionError

_NAMES = (
    ("fp16", r"fp16|half|float16"),
    ("bf16", r"bf16|bfloat16"),
    ("int8", r"int8"),
    ("fp8", r"fp8"),
    ("fp32", r"fp32|float"),
)
_CONVOLUTION = re.compile(r"conv|gemm|matrix_?multiply", re.IGNORECASE)


def layers(trt: Any, engine: bytes, logger: Any) -> list[dict[str, Any]]:
    """The layers of a serialised engine, on the device that it was built for.

    Raises:
        PrecisionError: the engine cannot be loaded or does not tell its layers.
    """
    runtime = trt.Runtime(logger)
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        raise PrecisionError("the engine cannot be loaded again here, so its precision cannot be read back.")
    text = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return read_layers(text)


def read_layers(text: str) -> list[dict[str, Any]]:
    """Parse the inspector's JSON.

    Raises:
        PrecisionError: it holds no layers with details.
    """
    try:
        found = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError) as error:
        raise PrecisionError(f"the engine inspector's text is not its JSON ({error}).") from error
    detailed = [layer for layer in found if isinstance(layer, dict)]
    if not detailed:
        raise PrecisionError("the engine inspector tells no layers: build with detailed profiling verbosity.")
    return detailed


def tensor_type(entry: Mapping[str, Any]) -> str:
    """Element type of an input or output: ``fp16``, ``fp32``, ``int8``, ... or ``other``.

    Up to 10.x it is inside ``Format/Datatype`` (``Row major linear FP16 format``), in 11.x in ``Datatype`` (``Half``).
    """
    text = str(entry.get("Datatype") or entry.get("Format/Datatype") or "")
    return next(
        (name for name, pattern in _NAMES if re.search(rf"(?<![a-z])(?:{pattern})", text, re.IGNORECASE)), "other"
    )


def histogram(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Layers by type of their first output: all of them, and convolutions with matrix products by their first input."""
    every, heavy = Counter[str](), Counter[str]()
    for layer in found:
        outputs, inputs = layer.get("Outputs") or [], layer.get("Inputs") or []
        if outputs:
            every[tensor_type(outputs[0])] += 1
        if inputs and _CONVOLUTION.search(f"{layer.get('LayerType', '')} {layer.get('TacticName', '')}"):
            heavy[tensor_type(inputs[0])] += 1
    return {"layers": dict(sorted(every.items())), "convolutions": dict(sorted(heavy.items()))}


def check_precision(found: Sequence[Mapping[str, Any]], wanted: str, *, int8: float = 0.0) -> dict[str, dict[str, int]]:
    """Compare with what was asked for; returns the histogram.

    fp16 means that most convolutions read float16 (all layers count where none is called a convolution: Myelin gives
    fused layers other names); fp32 means that no layer puts out anything narrower. int8 means that at least half of the
    convolutions that have 8 bits in the graph read int8 (TensorRT merges some).

    Args:
        found: the engine's layers.
        wanted: ``fp32``, ``fp16`` or ``int8``.
        int8: the share of 8-bit layers in the graph.

    Raises:
        PrecisionError: the engine computes in something else.
    """
    counts = histogram(found)
    heavy = counts["convolutions"] or counts["layers"]
    narrow = sum(heavy.get(name, 0) for name in ("fp16", "int8", "fp8", "bf16"))
    floats = narrow + heavy.get("fp32", 0)
    told = ", ".join(f"{count} in {name}" for name, count in heavy.items()) or "none"
    if wanted == "fp32" and any(counts["layers"].get(name) for name in ("fp16", "int8", "fp8", "bf16")):
        raise PrecisionError(f"the engine was to be fp32, but has layers: {counts['layers']}.")
    if wanted == "int8" and not (heavy.get("int8", 0) > 0 and 2 * heavy.get("int8", 0) >= int8 * floats):
        raise PrecisionError(
            f"the engine was to be int8 in {int8:.0%} of its convolutions, but they are: {told}. "
            "Build it with the TensorRT that the documentation names for int8."
        )
    if wanted == "fp16" and not 2 * heavy.get("fp16", 0) > floats:
        raise PrecisionError(
            f"the engine was to be fp16, but its convolutions are: {told}. "
            "Export an fp16 graph: kd3d export onnx --precision fp16"
        )
    return counts
