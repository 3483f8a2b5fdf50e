"""An ONNX network for the tiny preset, without torch: every pillar is an object, and the other maps are constant."""

import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from kd3d.detectors.presets import preset
from kd3d.runtime.heads import onnx_names
from kd3d.spec import to_json

TINY = preset("world-centerpoint-pillar-tiny")


def write_network(path):
    """Head maps of the tiny detector: the heatmap follows the pillars' cells, the other maps are constant."""
    grid, encoder, names = TINY.output_grid, TINY.pillar_encoder, onnx_names(TINY)
    cells = TINY.grid.nx * TINY.grid.ny
    sides = {"hm": None, **dict(TINY.center_head.branches)}
    shapes = {
        name: [1, sides[name.partition("_")[2]] or len(TINY.head.tasks[int(name[4])]), grid.ny, grid.nx]
        for name in names
    }
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["p", encoder.max_points, TINY.point_inputs]),
        helper.make_tensor_value_info("counts", TensorProto.INT64, ["p"]),
        helper.make_tensor_value_info("cells", TensorProto.INT64, ["p"]),
    ]
    constants = {
        "canvas": np.full(cells + 1, -9, np.float32),
        "begin": np.array([0]),
        "end": np.array([cells]),
        "map": np.array([1, 1, TINY.grid.ny, TINY.grid.nx]),
        **{f"c_{name}": np.full(shapes[name], 0.2, np.float32) for name in names if not name.endswith("_hm")},
        **{f"t_{name}": np.array([1, shapes[name][1], 1, 1]) for name in names if name.endswith("_hm")},
    }
    stride = TINY.grid.ny // grid.ny
    nodes = [
        helper.make_node("Cast", ["counts"], ["high"], to=TensorProto.FLOAT),
        helper.make_node("ScatterElements", ["canvas", "cells", "high"], ["filled"]),
        helper.make_node("Slice", ["filled", "begin", "end"], ["cut"]),
        helper.make_node("Reshape", ["cut", "map"], ["fine"]),
        helper.make_node("MaxPool", ["fine"], ["coarse"], kernel_shape=[stride] * 2, strides=[stride] * 2),
    ]
    for name in names:
        hm = name.endswith("_hm")
        nodes.append(
            helper.make_node("Tile", ["coarse", f"t_{name}"], [name])
            if hm
            else helper.make_node("Identity", [f"c_{name}"], [name])
        )
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in names]
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"kd3d.spec": json.dumps(to_json(TINY)), "kd3d.precision": "fp16"})
    path.write_bytes(model.SerializeToString())
    return path
