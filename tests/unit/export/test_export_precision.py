"""The float16 converter: every known trap, on small graphs made by hand."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kd3d.errors import GateError, GraphError
from kd3d.export.emulate import emulated
from kd3d.export.half import check_overflow
from kd3d.export.precision import rewrite, to_fp16, with_initializers
from kd3d.export.precision_plan import Plan, tensor_types
from kd3d.export.ranges import GraphRunner, computed_floats, measure, passed_on

HALF, SINGLE, INT64 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def model(nodes, *, inputs, outputs, constants=()):
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants]
    given = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    made = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs]
    graph = helper.make_graph(nodes, "g", given, made, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def converted(fp32, feeds):
    """Convert on the ranges of ``feeds``; the result must pass the full checker and load."""
    source = with_initializers(fp32)
    peaks = measure(source, computed_floats(source, tensor_types(source)), [feeds])
    half, plan = to_fp16(fp32, peaks)
    onnx.checker.check_model(half, full_check=True)
    assert [item.type for item in half.graph.input] == [item.type for item in fp32.graph.input]
    assert [item.type for item in half.graph.output] == [item.type for item in fp32.graph.output]
    return half, plan, GraphRunner(half).infer(feeds)


def types(fp16):
    inferred = onnx.shape_inference.infer_shapes(fp16, strict_mode=True).graph
    found = {item.name: item.data_type for item in inferred.initializer}
    found.update(
        {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    )
    return found


WEIGHT = np.random.default_rng(0).normal(0, 0.3, (4, 3)).astype(np.float32)


def pillar_scatter(cells=1000):
    """Points in metres, a linear layer, a canvas and a scatter into it, as every pillar detector begins."""
    return model(
        [
            node("MatMul", ["points", "w"], ["linear"]),
            node("Relu", ["linear"], ["pillars"]),
            node("ConstantOfShape", ["shape"], ["canvas"]),
            node("Unsqueeze", ["cells", "one"], ["places"]),
            node("ScatterND", ["canvas", "places", "pillars"], ["bev"]),
        ],
        inputs=[("points", SINGLE, [2, 4]), ("cells", INT64, [2])],
        outputs=[("bev", SINGLE, [cells, 3])],
        constants=[("w", WEIGHT), ("shape", np.array([cells, 3])), ("one", np.array([1]))],
    )


def test_points_in_metres_stay_fp32_and_the_canvas_is_fp16_with_integer_indices():
    points = np.array([[51.17, -51.19, 0.3, 200.0], [1.0, 2.0, -1.0, 3.0]], np.float32)
    feeds = {"points": points, "cells": np.array([999_999, 3])}
    half, plan, got = converted(pillar_scatter(1_000_000), feeds)
    kinds = types(half)
    assert kinds["linear"] == SINGLE
    assert kinds["w"] == SINGLE
    assert kinds["canvas"] == kinds["pillars"] == HALF
    assert kinds["places"] == INT64
    assert plan.kept == {"linear": "absolute: points"}
    wanted = np.maximum(points @ WEIGHT, 0)
    np.testing.assert_allclose(got["bev"][[999_999, 3]], wanted, rtol=1e-3, atol=1e-3)


def test_only_the_edges_of_precision_have_casts_and_each_only_one():
    half, _, _ = converted(pillar_scatter(), {"points": np.ones((2, 4), np.float32), "cells": np.array([1, 2])})
    casts = [(item.input[0], item.output[0]) for item in half.graph.node if item.op_type == "Cast"]
    assert casts == [("linear", "linear.fp16"), ("bev.fp16", "bev")]


def peak_nms():
    """Heatmap peaks: MaxPool, Equal, Cast, Mul, which onnxconverter-common converts into an invalid model."""
    return model(
        [
            node("Conv", ["x", "w"], ["map"], pads=[1, 1, 1, 1]),
            node("Relu", ["map"], ["hm"]),
            node("MaxPool", ["hm"], ["pooled"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Equal", ["hm", "pooled"], ["peak"]),
            node("Cast", ["peak"], ["mask"], to=SINGLE),
            node("Mul", ["hm", "mask"], ["y"]),
        ],
        inputs=[("x", SINGLE, [1, 1, 6, 6])],
        outputs=[("y", SINGLE, [1, 1, 6, 6])],
        constants=[("w", np.full((1, 1, 3, 3), 0.1, np.float32))],
    )


def test_the_peak_rule_converts_to_a_valid_graph_with_the_same_peaks():
    x = np.random.default_rng(1).uniform(0, 1, (1, 1, 6, 6)).astype(np.float32)
    wanted = GraphRunner(peak_nms()).infer({"x": x})["y"]
    half, _, got = converted(peak_nms(), {"x": x})
    assert types(half)["mask"] == HALF
    np.testing.assert_array_equal(got["y"] > 0, wanted > 0)
    assert 0 < (wanted > 0).sum() < 36


def test_a_comparison_never_sees_one_rounded_and_one_exact_side():
    """Sigmoid of an fp32 value, pooled in fp16: both sides of Equal must be rounded alike."""
    fp32 = peak_nms()
    fp32.graph.node[1].op_type = "Exp"  # stays fp32, and so must all that compares it
    half, plan, got = converted(fp32, {"x": np.random.default_rng(2).uniform(0, 1, (1, 1, 6, 6)).astype(np.float32)})
    assert plan.kept["hm"] == "operator: Exp"
    assert plan.kept["pooled"].startswith("absolute")
    assert (got["y"] > 0).sum() > 0
    assert types(half)["mask"] == HALF


def test_box_decoding_stays_fp32_grid_index_angle_and_exponential():
    nodes = [
        node("Conv", ["x", "w"], ["map"], pads=[1, 1, 1, 1]),
        node("Exp", ["map"], ["size"]),
        node("Range", ["zero", "side", "one"], ["index"]),
        node("Cast", ["index"], ["column"], to=SINGLE),
        node("Add", ["map", "column"], ["place"]),
        node("Mul", ["place", "cell"], ["metres"]),
        node("Atan", ["map"], ["yaw"]),
        node("Add", ["size", "yaw"], ["sum"]),
        node("Add", ["sum", "metres"], ["y"]),
    ]
    side = 3000
    fp32 = model(
        nodes,
        inputs=[("x", SINGLE, [1, 1, 1, side])],
        outputs=[("y", SINGLE, [1, 1, 1, side])],
        constants=[
            ("w", np.full((1, 1, 3, 3), 0.05, np.float32)),
            ("zero", np.array(0)),
            ("side", np.array(side)),
            ("one", np.array(1)),
            ("cell", np.float32(0.16)),
        ],
    )
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 1, 1, side)).astype(np.float32)}
    _, plan, got = converted(fp32, feeds)
    assert {"size", "column", "place", "metres", "yaw", "sum", "y"} <= set(plan.kept)
    np.testing.assert_array_equal(got["y"], GraphRunner(fp32).infer(feeds)["y"])


def test_top_k_stays_fp32_and_its_indices_integers():
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["a", "w2"], ["score"]),
        node("TopK", ["score", "k"], ["best", "place"]),
    ]
    fp32 = model(
        nodes,
        inputs=[("x", SINGLE, [1, 4])],
        outputs=[("best", SINGLE, [1, 2]), ("place", INT64, [1, 2])],
        constants=[("w", WEIGHT), ("w2", WEIGHT.T.copy()), ("k", np.array([2]))],
    )
    _, plan, got = converted(fp32, {"x": np.ones((1, 4), np.float32)})
    assert plan.kept["best"] == "operator: TopK"
    assert got["place"].dtype == np.int64


def test_resize_keeps_its_scales_in_fp32():
    fp32 = model(
        [
            node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            node("Relu", ["a"], ["r"]),
            node("Resize", ["r", "", "scales"], ["y"], mode="nearest"),
        ],
        inputs=[("x", SINGLE, [1, 1, 4, 4])],
        outputs=[("y", SINGLE, [1, 1, 8, 8])],
        constants=[("w", np.ones((1, 1, 3, 3), np.float32)), ("scales", np.array([1, 1, 2, 2], np.float32))],
    )
    half, plan, _ = converted(fp32, {"x": np.ones((1, 1, 4, 4), np.float32)})
    assert types(half)["scales"] == SINGLE
    assert "y" not in plan.kept


def chain(gain):
    """Two products; the first reaches ``gain`` times its input."""
    return model(
        [
            node("MatMul", ["x", "w0"], ["start"]),
            node("MatMul", ["start", "w1"], ["large"]),
            node("Relu", ["large"], ["relu"]),
            node("MatMul", ["relu", "w2"], ["y"]),
        ],
        inputs=[("x", SINGLE, [1, 2])],
        outputs=[("y", SINGLE, [1, 2])],
        constants=[
            ("w0", np.eye(2, dtype=np.float32)),
            ("w1", np.eye(2, dtype=np.float32) * gain),
            ("w2", np.eye(2, dtype=np.float32) / gain),
        ],
    )


def test_what_overflows_is_kept_in_fp32_and_named():
    feeds = {"x": np.array([[100.0, 3.0]], np.float32)}
    _, plan, got = converted(chain(np.float32(1000)), feeds)
    assert plan.kept["large"] == "range: large reaches 1e+05"
    assert "relu" in plan.kept
    np.testing.assert_allclose(got["y"], feeds["x"], rtol=1e-3)


def test_weights_beyond_float16_stay_fp32():
    _, plan, got = converted(chain(np.float32(1e5)), {"x": np.array([[1e-3, 1e-3]], np.float32)})
    assert plan.kept["large"].startswith("range: w1 reaches 1e+05")
    np.testing.assert_allclose(got["y"], [[1e-3, 1e-3]], rtol=1e-2)


def test_a_graph_planted_to_overflow_fails_the_gate_although_onnx_runtime_hides_it():
    source = chain(np.float32(1000))
    kinds = tensor_types(source)
    forced = Plan(low={1, 2, 3})
    feeds = {"x": np.array([[100.0, 3.0]], np.float32)}
    shown = GraphRunner(rewrite(source, forced, kinds)).infer(feeds)["y"]
    assert np.isfinite(shown).all()  # the CPU provider computed it in fp32
    rounded = GraphRunner(emulated(rewrite(source, forced, kinds))).infer(feeds)["y"]
    assert not np.isfinite(rounded).all()
    with pytest.raises(GateError, match=r"gate fp16: large reaches inf in float16, above 32000"):
        check_overflow(rewrite(source, forced, kinds), [feeds])


def planted(nodes, constants=(), shape=(1, 4)):
    """Operators after a product with the identity, all of them forced into float16."""
    fp32 = model(
        [node("MatMul", ["x", "eye"], ["start"]), *nodes],
        inputs=[("x", SINGLE, [1, 4])],
        outputs=[("y", SINGLE, list(shape))],
        constants=[("eye", np.eye(4, dtype=np.float32)), *constants],
    )
    kinds = tensor_types(fp32)
    return fp32, rewrite(fp32, Plan(low=set(range(len(fp32.graph.node)))), kinds)


PLANTED = {
    "a chain of additions": ([node("Add", [f"a{i}" if i else "start"] * 2, [f"a{i + 1}"]) for i in range(9)]
                             + [node("Neg", ["a9"], ["y"])], (), [300.0, 1, 1, 1], "a7"),
    "the sums of a convolution": (
        [
            node("Reshape", ["start", "image"], ["map"]),
            node("Conv", ["map", "w"], ["conv"], kernel_shape=[2, 2]),
            node("Reshape", ["conv", "flat"], ["y"]),
        ],
        [("image", np.array([1, 1, 2, 2])), ("w", np.full((4, 1, 2, 2), 100, np.float32)), ("flat", np.array([1, 4]))],
        [200.0, 200, 200, 200],
        "conv",
    ),
    "an exponential": ([node("Exp", ["start"], ["y"])], (), [12.0, 1, 1, 1], "y"),
    "a sum of many": (
        [node("ReduceSum", ["start", "axes"], ["sum"]), node("Add", ["start", "sum"], ["y"])],
        [("axes", np.array([1]))],
        [20_000.0, 20_000, 20_000, 20_000],
        "sum",
    ),
    "a division by a small number": (
        [node("Div", ["start", "eps"], ["y"])], [("eps", np.float32([1e-4]))], [30.0, 1, 1, 1], "y",
    ),
    "a division by a number that rounds to zero": (
        [node("Div", ["start", "eps"], ["y"])], [("eps", np.float32([1e-9]))], [1.0, 2, 3, 4], "y",
    ),
    "the variance of a norm": (
        [
            node("ReduceMean", ["start", "axes"], ["mean"]),
            node("Sub", ["start", "mean"], ["centred"]),
            node("Mul", ["centred", "centred"], ["square"]),
            node("ReduceMean", ["square", "axes"], ["variance"]),
            node("Sqrt", ["variance"], ["deviation"]),
            node("Div", ["centred", "deviation"], ["y"]),  # finite again: only the square tells
        ],
        [("axes", np.array([1]))],
        [900.0, -900, 900, -900],
        "square",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_whatever_operator_overflows_in_float16_is_found_and_named(name):
    nodes, constants, x, where = PLANTED[name]
    fp32, half = planted(nodes, constants)
    onnx.checker.check_model(half, full_check=True)
    feeds = {"x": np.float32([x])}
    assert np.isfinite(GraphRunner(fp32).infer(feeds)["y"]).all()
    with pytest.raises(GateError, match=rf"gate fp16: {where}(\.fp16)? reaches .* in float16, above 32000"):
        check_overflow(half, [feeds])


def test_the_same_operators_pass_where_nothing_overflows():
    nodes, constants, *_ = PLANTED["the variance of a norm"]
    _, half = planted(nodes, constants)
    assert check_overflow(half, [{"x": np.float32([[90, -90, 90, -90]])}]) == 8100


def test_a_value_that_is_no_number_is_found_wherever_it_stands():
    """0 / 0, with nothing infinite before; ONNX Runtime's maximum passes over it."""
    _, half = planted([node("Div", ["start", "start"], ["y"])])
    for place in range(4):
        x = np.float32([[1, 2, 3, 4]])
        x[0, place] = 1e-9  # zero in float16
        with pytest.raises(GateError, match=r"gate fp16: y.fp16 reaches inf"):
            check_overflow(half, [{"x": x}])


def test_the_emulation_rounds_every_float16_tensor():
    source = chain(np.float32(3))
    kinds = tensor_types(source)
    x = np.array([[0.1, 1.0]], np.float32)
    got = GraphRunner(emulated(rewrite(source, Plan(low={1, 2, 3}), kinds))).infer({"x": x})["y"]
    half = x.astype(np.float16)
    product = (half.astype(np.float32) * 3).astype(np.float16)
    third = np.float32(np.float16(1 / 3))
    np.testing.assert_array_equal(got, (product.astype(np.float32) * third).astype(np.float16).astype(np.float32))


def test_a_tensor_read_in_both_precisions_and_put_out_keeps_its_name():
    fp32 = model(
        [
            node("MatMul", ["x", "w0"], ["a"]),
            node("Relu", ["a"], ["shared"]),
            node("Exp", ["shared"], ["e"]),
            node("Neg", ["shared"], ["n"]),
        ],
        inputs=[("x", SINGLE, [1, 2])],
        outputs=[("shared", SINGLE, [1, 2]), ("e", SINGLE, [1, 2]), ("n", SINGLE, [1, 2])],
        constants=[("w0", np.eye(2, dtype=np.float32))],
    )
    _, _, got = converted(fp32, {"x": np.array([[0.5, 2.0]], np.float32)})
    np.testing.assert_allclose(got["e"], np.exp([[0.5, 2.0]]), rtol=1e-6)
    np.testing.assert_array_equal(got["n"], [[-0.5, -2.0]])


def test_float_constant_nodes_are_converted_too():
    fp32 = model(
        [
            node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32([2.0, 4.0]))),
            node("MatMul", ["x", "w0"], ["a"]),
            node("Mul", ["a", "c"], ["y"]),
        ],
        inputs=[("x", SINGLE, [1, 2])],
        outputs=[("y", SINGLE, [1, 2])],
        constants=[("w0", np.eye(2, dtype=np.float32))],
    )
    half, _, got = converted(fp32, {"x": np.ones((1, 2), np.float32)})
    np.testing.assert_array_equal(got["y"], [[2.0, 4.0]])
    assert types(half)["c.fp16"] == HALF


def test_half_precision_graphs_and_subgraphs_are_refused():
    half, _, _ = converted(chain(np.float32(3)), {"x": np.ones((1, 2), np.float32)})
    with pytest.raises(GraphError, match=r"the graph is not fp32: .* is a half-precision tensor"):
        to_fp16(half, {})
    inner = helper.make_graph(
        [node("Identity", ["x"], ["i"])], "inner", [], [helper.make_tensor_value_info("i", SINGLE, [1, 2])]
    )
    fp32 = model(
        [node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)],
        inputs=[("x", SINGLE, [1, 2]), ("c", TensorProto.BOOL, [])],
        outputs=[("y", SINGLE, [1, 2])],
    )
    with pytest.raises(GraphError, match="If at y has a subgraph, which cannot be converted to fp16"):
        to_fp16(fp32, {})


def passing(kind, inputs, **attributes):
    """A product of the input, and an operator that only passes values on."""
    return model(
        [node("Mul", ["x", "w"], ["a"]), node(kind, inputs, ["y"], **attributes)],
        inputs=[("x", SINGLE, [3, 4])],
        outputs=[("y", SINGLE, None)],
        constants=[
            ("w", np.float32(0.1)),
            ("rows", np.array([2, 0], np.int64)),
            ("shape", np.array([4, 3], np.int64)),
            ("places", np.array([[1]], np.int64)),
            ("axis", np.array([1], np.int64)),
            ("update", np.full((1, 4), 7, np.float32)),
        ],
    )


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("Gather", ["a", "rows"], {}),
        ("Reshape", ["a", "shape"], {}),
        ("Relu", ["a"], {}),
        ("Transpose", ["a"], {}),
        ("ReduceMax", ["a", "axis"], {}),
        ("Concat", ["a", "a"], {"axis": 0}),
        ("Max", ["a", "a"], {}),
        ("ScatterND", ["a", "places", "update"], {}),
    ],
)
def test_what_only_passes_values_on_is_not_measured_but_bounded_by_what_it_reads(kind, inputs, attributes):
    source = passing(kind, inputs, **attributes)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * 100
    exact = measure(source, ["a", "y"], [{"x": x}])
    bound = measure(source, ["a", "y"], [{"x": x}], bounds=True)
    assert bound["a"] == exact["a"]
    assert bound["y"] == (exact["y"] if "update" in inputs else exact["a"]) >= exact["y"]  # a constant has no bound


def test_an_operator_that_reduces_what_it_scatters_makes_new_values():
    assert passed_on(onnx.helper.make_node("ScatterND", ["a", "i", "u"], ["y"], reduction="add")) == ()
    assert passed_on(onnx.helper.make_node("ScatterND", ["a", "i", "u"], ["y"])) == ("a", "u")
    assert passed_on(onnx.helper.make_node("Conv", ["a", "w"], ["y"])) == ()


def test_the_emulation_rounds_once_where_values_are_only_passed_on():
    source = passing("Gather", ["a", "rows"])
    half = rewrite(source, Plan(low={0, 1}), tensor_types(source))
    casts = Counter(one.op_type for one in emulated(half).graph.node)["Cast"]
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    got = GraphRunner(emulated(half)).infer({"x": x})["y"]
    product = (x.astype(np.float16).astype(np.float32) * np.float32(np.float16(0.1))).astype(np.float16)
    np.testing.assert_array_equal(got, product[[2, 0]].astype(np.float32))
    assert casts < 2 * 3 + 2  # of the input, the product and the output; none of what was gathered
