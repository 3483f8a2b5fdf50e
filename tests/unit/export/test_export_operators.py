"""The operator gate, on graphs made by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from kd3d.errors import GraphError
from kd3d.export.operators import check_operators


def graph(nodes, constants=()):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [], initializers))


def test_portable_operators_pass_and_are_counted():
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    assert check_operators(graph(nodes)) == {"Relu": 2}


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("NonZero", ["x"], ["y"], name="n"), "NonZero at n .not in the portable set"),
        (helper.make_node("NonMaxSuppression", ["x", "x"], ["y"]), "NonMaxSuppression at y .not in"),
        (helper.make_node("ScatterND", ["x", "i", "u"], ["y"], reduction="add"), "reduction add is not supported"),
        (helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], reduction="max"), "reduction max"),
        (helper.make_node("Relu", ["x"], ["y"], domain="com.microsoft"), "domain com.microsoft needs a plugin"),
    ],
)
def test_others_are_named_with_the_reason(node, reason):
    with pytest.raises(GraphError, match=f"gate operators: 1 node.*{reason}"):
        check_operators(graph([node]))


def test_scatter_without_reduction_passes():
    assert check_operators(graph([helper.make_node("ScatterND", ["x", "i", "u"], ["y"])])) == {"ScatterND": 1}


def test_top_k_is_limited_and_must_be_known():
    node = helper.make_node("TopK", ["x", "k"], ["v", "i"])
    assert check_operators(graph([node], [("k", np.array([3840]))])) == {"TopK": 1}
    with pytest.raises(GraphError, match="k is 3841, and TensorRT allows at most 3840"):
        check_operators(graph([node], [("k", np.array([3841]))]))
    with pytest.raises(GraphError, match="k is not a constant"):
        check_operators(graph([node]))


def test_subgraphs_are_looked_into_and_long_lists_shortened():
    inner = helper.make_graph([helper.make_node("Unique", ["x"], [f"u{i}"]) for i in range(7)], "inner", [], [])
    outer = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    with pytest.raises(GraphError, match=r"15 node\(s\) .*If at y .*; \.\.\."):
        check_operators(graph([outer]))
