"""The side-car files of an export folder: what the vehicle side needs to run it, and how it came to be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from kd3d import __version__
from kd3d.runtime.heads import onnx_names
from kd3d.runtime.inputs import input_names
from kd3d.spec import DetectorSpec, VoxelEncoderSpec

ONNX_FILE, SPEC_FILE, PIPELINE_FILE, EXPORT_FILE = "model.onnx", "spec.json", "pipeline.json", "export.json"
INT8_KEY = "kd3d.int8"  # in metadata_props: device, layers in 8 bits, layers with weights
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def pipeline_json(
    spec: DetectorSpec, *, kind: str = "onnx", file: str = ONNX_FILE, pillars: int | None
) -> dict[str, Any]:
    """Ordered steps with named tensors; ``state`` pairs an output with the next frame's input (none here).

    Args:
        spec: of the detector.
        kind: of the network step: ``onnx`` or ``engine``.
        file: of the network step, in the same folder.
        pillars: fixed pillar count of the network, or ``None`` where it is dynamic.
    """
    outputs, inputs = onnx_names(spec), list(input_names(spec))
    operation = "voxels" if isinstance(spec.encoder, VoxelEncoderSpec) else "pillars"
    return {
        "format": 1,
        "spec": SPEC_FILE,
        "pillars": pillars,
        "steps": [
            {"name": "pre", "kind": "host", "operation": operation, "inputs": ["points"], "outputs": inputs},
            {"name": "network", "kind": kind, "file": file, "inputs": inputs, "outputs": outputs},
            {"name": "decode", "kind": "host", "operation": "decode", "inputs": outputs, "outputs": ["candidates"]},
            {"name": "nms", "kind": "host", "operation": "nms", "inputs": ["candidates"], "outputs": ["boxes"]},
        ],
        "state": [],
    }


def export_json(
    *,
    model: dict[str, Any],
    artifact: Path,
    opset: int,
    pillars: int | None,
    operators: dict[str, int],
    parity: dict[str, Any],
    gates: Sequence[dict[str, Any]],
    precision: str = "fp32",
) -> dict[str, Any]:
    """The record of an export: source, artefact, versions, and the gates it passed."""
    return {
        "format": 1,
        "kd3d": __version__,
        "model": model,
        "artifact": artifact.name,
        "bytes": artifact.stat().st_size,
        "sha256": hashlib.sha256(artifact.read_bytes()).hexdigest(),
        "precision": precision,
        "opset": opset,
        "pillars": pillars,
        "operators": operators,
        "gates": list(gates),
        "parity": parity,
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str | None]:
    """Of the packages that an export depends on; ``None`` for one that is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
