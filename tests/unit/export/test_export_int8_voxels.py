"""8-bit sparse convolutions for a CPU: numbers are gathered as bytes and multiplied as integers."""

import numpy as np
import onnx
import pytest
import torch

from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.export.calibrate import thresholds
from kd3d.export.graph import write_graph
from kd3d.export.int8_plan import make_int8_plan
from kd3d.export.precision import with_initializers
from kd3d.export.probes import probe_frames
from kd3d.export.qdq import activation_levels, quantise
from kd3d.export.ranges import GraphRunner
from kd3d.runtime.pipeline import load_pipeline

TINY = preset("world-centerpoint-voxel-tiny")


@pytest.fixture(scope="module")
def graph_and_feeds(tmp_path_factory):
    """The fp32 graph of the tiny detector with random weights, and what it reads of a sparse and a full frame."""
    torch.manual_seed(3)
    module = build(TINY).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.running_var.uniform_(0.5, 2)
            part.bias.data.normal_(0, 0.2)
    path = tmp_path_factory.mktemp("voxels") / "model.onnx"
    write_graph(module, TINY, path, opset=20, pillars=None, weights_sha256="")
    with load_pipeline(path) as pipeline:
        feeds = [pipeline.pre(probe_frames(TINY)[index]) for index in (2, 4)]
    return with_initializers(onnx.load(path)), feeds


@pytest.fixture(scope="module")
def quantised(graph_and_feeds):
    graph, feeds = graph_and_feeds
    plan = make_int8_plan(graph, cpu=True)
    limits = thresholds(graph, activation_levels(graph, plan, cpu=True), feeds, method="max")
    return plan, quantise(graph, plan, limits, cpu=True)


def test_every_sparse_convolution_but_that_of_the_coordinates_is_quantised_for_a_cpu_and_none_for_tensorrt(
    graph_and_feeds,
):
    graph, _ = graph_and_feeds
    products = [node.output[0] for node in graph.graph.node if node.op_type == "MatMul"]
    plan = make_int8_plan(graph, cpu=True)
    assert [layer.name for layer in plan.layers if layer.moved] == products[1:]
    assert plan.kept[products[0]] == "points: MatMul"
    assert all(layer.bias is not None for layer in plan.layers if layer.moved)
    kept = make_int8_plan(graph, cpu=False).kept
    assert {kept[name] for name in products} == {"points: MatMul"}


def test_gathers_move_bytes_and_an_8_bit_graph_says_nearly_the_same(graph_and_feeds, quantised):
    graph, feeds = graph_and_feeds
    plan, result = quantised
    onnx.checker.check_model(result, full_check=True)
    types = {item.name: item.type.tensor_type.elem_type for item in result.graph.value_info}
    moved = [node.output[0] for node in result.graph.node if node.op_type in ("Gather", "Reshape")]
    bytes_ = [name for name in moved if types[name] == onnx.TensorProto.UINT8]
    assert len(bytes_) == 2 * sum(bool(layer.moved) for layer in plan.layers)
    for feed in feeds:
        wanted, got = GraphRunner(graph).infer(feed), GraphRunner(result, optimised=True).infer(feed)
        gaps = [np.abs(got[name] - map_).max() / np.abs(map_).max() for name, map_ in wanted.items()]
        assert 0 < max(gaps) < 0.1


def test_onnx_runtime_multiplies_integers(quantised, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    plan, result = quantised
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(result.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [one.op_type for one in onnx.load(tmp_path / "optimised.onnx").graph.node]
    sparse = sum(bool(layer.moved) for layer in plan.layers)
    assert sparse == kinds.count("Gather") - 1
    assert kinds.count("QGemm") == sparse - 1  # the last writes floats to the map: its ReLU is fused instead
    assert kinds.count("QLinearConv") == len(plan.layers) - sparse
