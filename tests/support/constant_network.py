"""Networks that read what a detector's network reads and always put out the same maps: exports without an exporter."""

import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from kd3d.export.autoware import _pipeline
from kd3d.export.autoware_rules import class_names, decoration
from kd3d.export.manifest import pipeline_json
from kd3d.runtime.autoware_rules import OUTPUTS, PILLAR_CHANNELS, POINTS_PER_PILLAR, NodeRules
from kd3d.runtime.heads import onnx_names
from kd3d.runtime.inputs import input_names
from kd3d.spec import VoxelEncoderSpec, to_json


def write_export(spec, folder):
    """An export folder of a pillar, voxel or anchor detector."""
    folder.mkdir(parents=True)
    encoder = spec.encoder
    voxels = isinstance(encoder, VoxelEncoderSpec)
    features = ["n", len(spec.points.features)] if voxels else ["n", encoder.max_points, spec.point_inputs]
    kinds = {"features": (TensorProto.FLOAT, features)}
    for name in input_names(spec)[1:]:
        table = voxels and name != "cells"
        kinds[name] = (TensorProto.INT32, [f"{name}_n", "k"]) if table else (TensorProto.INT64, [f"{name}_n"])
    _write(folder / "model.onnx", kinds, _maps(spec, onnx_names(spec)))
    (folder / "spec.json").write_text(json.dumps(to_json(spec)))
    (folder / "pipeline.json").write_text(json.dumps(pipeline_json(spec, pillars=None)))
    return folder


def write_autoware(spec, folder):
    """An export folder in Autoware's layout."""
    folder.mkdir(parents=True)
    columns = decoration(spec)
    rows, grid = spec.pillar_encoder.max_pillars, spec.grid
    names = ("encoder.onnx", "head.onnx")
    fed = {"input_features": (TensorProto.FLOAT, [rows, POINTS_PER_PILLAR, columns.features])}
    _write(folder / names[0], fed, {"pillar_features": np.ones((rows, PILLAR_CHANNELS), np.float32)})
    fed = {"spatial_features": (TensorProto.FLOAT, [1, PILLAR_CHANNELS, grid.ny, grid.nx])}
    _write(folder / names[1], fed, dict(zip(OUTPUTS, _maps(spec, onnx_names(spec)).values(), strict=True)))
    (folder / "spec.json").write_text(json.dumps(to_json(spec)))
    node = NodeRules(columns.names, class_names(spec), score_threshold=0.1)
    (folder / "pipeline.json").write_text(json.dumps(_pipeline(names, node)))
    return folder


def _maps(spec, names):
    grid = spec.output_grid
    sizes = dict(getattr(spec.head, "maps", ())) or dict(spec.center_head.branches)
    found = {}
    for name in names:
        kind = name.partition("_")[2]
        channels = len(spec.head.tasks[int(name[4])]) if kind == "hm" else sizes[kind]
        value = np.full((1, channels, grid.ny, grid.nx), 0.2, np.float32)
        if kind in ("hm", "cls"):
            value[:] = -9
            value[0, 0, grid.ny // 2, grid.nx // 2] = 3
        found[name] = value
    return found


def _write(path, inputs, outputs):
    """Every input is summed into a zero that is added to the first output."""
    nodes, zeros = [], []
    for name in inputs:
        nodes.append(helper.make_node("Cast", [name], [f"f_{name}"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("ReduceSum", [f"f_{name}"], [f"s_{name}"], keepdims=0))
        nodes.append(helper.make_node("Mul", [f"s_{name}", "nothing"], [f"z_{name}"]))
        zeros.append(f"z_{name}")
    nodes.append(helper.make_node("Sum", zeros, ["zero"]))
    nodes += [helper.make_node("Add", [f"c_{name}", "zero"], [name]) for name in outputs]
    held = [numpy_helper.from_array(value, f"c_{name}") for name, value in outputs.items()]
    held.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in outputs.items()],
        held,
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    )
