"""From a torch module to a file with an ONNX graph that describes itself."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd3d import __version__
from kd3d.detectors.fold import packed
from kd3d.detectors.model import CenterPoint
from kd3d.errors import GraphError
from kd3d.optional import require
from kd3d.runtime.heads import onnx_names
from kd3d.runtime.inputs import input_names
from kd3d.spec import DetectorSpec, VoxelEncoderSpec, to_json

_TRACED_ROWS = 64  # any count but 0 and 1 will do; the graph is for all of them


class OneFrame(nn.Module):
    """The network of one frame of pillars, from and to plain tensors."""

    def __init__(self, module: CenterPoint) -> None:
        super().__init__()
        self.module = packed(module).float().cpu()

    def forward(self, features: Tensor, counts: Tensor, cells: Tensor) -> tuple[Tensor, ...]:
        """``[P, N, D]``, ``[P]``, ``[P]`` to ``[1, C, H, W]`` maps."""
        return self.module.forward_tensors(features, counts, cells)


class OneVoxelFrame(nn.Module):
    """The network of one frame of voxels, from and to plain tensors."""

    def __init__(self, module: CenterPoint) -> None:
        super().__init__()
        self.module = packed(module).float().cpu()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Features, tables and cells, as ``kd3d.runtime.inputs.input_names``, to ``[1, C, H, W]`` maps."""
        return self.module.forward_tensors(*inputs)


def write_graph(
    module: CenterPoint, spec: DetectorSpec, path: Path, *, opset: int, pillars: int | None, weights_sha256: str
) -> None:
    """Export ``module`` to ``path`` in fp32, with the specification in the file's metadata.

    Args:
        module: the detector; it stays as it is.
        spec: to record; differs from the module's at most in ``max_pillars``.
        path: to write.
        opset: of the default domain.
        pillars: a fixed pillar count, or ``None`` for any; sites of voxel networks are always free.
        weights_sha256: recorded, so that the file can be traced to its model.

    Raises:
        GraphError: the exporter cannot express the network.
        BackendError: onnx or onnxscript is not installed.
    """
    voxels = isinstance(spec.encoder, VoxelEncoderSpec)
    inputs, free = _voxel_inputs(spec) if voxels else _pillar_inputs(spec, pillars)
    dynamic: Any = None if free is None else tuple({0: torch.export.Dim(name, min=1)} for name in free)
    export_module(
        (OneVoxelFrame(module) if voxels else OneFrame(module)).eval(),
        inputs,
        path,
        input_names=input_names(spec),
        output_names=onnx_names(spec),
        opset=opset,
        dynamic=(dynamic,) if voxels else dynamic,  # variadic arguments are one parameter
    )
    describe(path, spec, weights_sha256)


def export_module(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int,
    dynamic: Any = None,
) -> None:
    """Trace any module into a file, without external data.

    Args:
        module: in evaluation mode.
        inputs: of the trace.
        path: to write.
        input_names: of the graph's inputs.
        output_names: of its outputs.
        opset: of the default domain.
        dynamic: ``dynamic_shapes`` of ``torch.onnx.export``; ``None`` fixes every shape.

    Raises:
        GraphError: the exporter cannot express the module.
        BackendError: onnx or onnxscript is not installed.
    """
    require("onnxscript", extra="onnx")
    try:
        with _quiet():
            torch.onnx.export(
                module,
                inputs,
                str(path),
                input_names=list(input_names),
                output_names=list(output_names),
                opset_version=opset,
                dynamic_shapes=dynamic,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise GraphError(f"torch cannot export {path.stem} at opset {opset}: {first}") from error


def _pillar_inputs(spec: DetectorSpec, pillars: int | None) -> tuple[tuple[Tensor, ...], list[str] | None]:
    """Example inputs, and the name of the first dimension of each where it is free."""
    rows = pillars or _TRACED_ROWS
    inputs = (
        torch.zeros(rows, spec.pillar_encoder.max_points, spec.point_inputs),
        torch.ones(rows, dtype=torch.int64),
        torch.arange(rows) % (spec.grid.nx * spec.grid.ny),
    )
    return inputs, None if pillars else ["pillars"] * len(inputs)


def _voxel_inputs(spec: DetectorSpec) -> tuple[tuple[Tensor, ...], list[str]]:
    assert isinstance(spec.encoder, VoxelEncoderSpec)
    tables, free, rows = [], [], _TRACED_ROWS
    for name in spec.encoder.tables:
        if name.startswith("strided"):
            rows += 1  # equal numbers would be taken for one dimension
        tables.append(torch.zeros(rows, 3 if name == "strided_out" else 27, dtype=torch.int32))
        free.append(f"sites_{name.removeprefix('strided').removeprefix('submanifold').strip('_')}")
    inputs = (torch.zeros(_TRACED_ROWS, spec.point_inputs), *tables, torch.zeros(rows, dtype=torch.int64))
    return inputs, [free[0], *free, free[-1]]


def lower_opset(path: Path, opset: int) -> None:
    """Rewrite a file for an older operator set, with onnx's own converter.

    Raises:
        GraphError: an operator has no form there.
    """
    onnx: Any = require("onnx", extra="onnx")
    converter: Any = require("onnx.version_converter", extra="onnx")
    try:
        model = converter.convert_version(onnx.load(path), opset)
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise GraphError(
            f"{path.stem} cannot be written for opset {opset}: {first} Choose a higher --opset."
        ) from error
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    onnx.save(model, path)


def describe(path: Path, spec: DetectorSpec, weights_sha256: str, **more: str) -> None:
    """Put the specification, the weights' hash and ``more`` into the file's metadata, as ``kd3d.NAME``."""
    onnx: Any = require("onnx", extra="onnx")
    model = onnx.load(path)
    model.producer_name, model.producer_version = "kd3d", __version__
    onnx.helper.set_model_props(
        model,
        {
            "kd3d.spec": json.dumps(to_json(spec), separators=(",", ":")),
            "kd3d.version": __version__,
            "kd3d.weights_sha256": weights_sha256,
            **{f"kd3d.{name}": value for name, value in more.items()},
        },
    )
    for (
        node
    ) in model.graph.node:  # the exporter's notes on source lines: paths of this machine, and a third of the text
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        if hasattr(value, "metadata_props"):
            del value.metadata_props[:]
    del model.graph.metadata_props[:]
    onnx.save(model, path)


class _quiet(warnings.catch_warnings):  # noqa: N801 - used like the function it stands for
    """Silence the exporter's progress notes; errors still raise."""

    def __enter__(self) -> Any:
        result = super().__enter__()
        warnings.simplefilter("ignore")
        self._logger = logging.getLogger("torch.onnx")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)
        return result

    def __exit__(self, *details: Any) -> None:
        self._logger.setLevel(self._level)
        super().__exit__(*details)
