"""8-bit graphs: where Q/DQ stands, what its scales are, and what measurement leaves out."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from kd3d.detectors.presets import preset
from kd3d.errors import UsageError
from kd3d.export.calibrate import BINS, thresholds
from kd3d.export.calibrate import threshold as clip
from kd3d.export.int8 import Int8Settings
from kd3d.export.int8_plan import activations, make_int8_plan, never_negative
from kd3d.export.limits import lint
from kd3d.export.parity_match import INT8_TOLERANCE
from kd3d.export.qdq import SIGNED, UNSIGNED, activation_levels, quantise, quantised_weight, scale_of
from kd3d.export.ranges import GraphRunner, measure
from kd3d.export.sensitivity import box_gaps, fewest_left_out
from kd3d.runtime.heads import onnx_names

TINY = preset("world-centerpoint-pillar-tiny")
SINGLE = TensorProto.FLOAT


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def two_branches(bias=0.1):
    """Convolutions, a concatenation of a strided and an upsampled branch, a hidden and an output convolution."""
    rng = np.random.default_rng(0)

    def weights(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        node("Relu", ["x"], ["canvas"]),
        node("Conv", ["canvas", "w0", "b"], ["c0"], **same),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", "w1", "b"], ["c1"], strides=[2, 2], **same),
        node("Relu", ["c1"], ["r1"]),
        node("ConvTranspose", ["r1", "w2", "b"], ["t"], strides=[2, 2], kernel_shape=[2, 2]),
        node("Relu", ["t"], ["r2"]),
        node("Concat", ["r0", "r2"], ["cat"], axis=1),
        node("Conv", ["cat", "w3", "b"], ["c3"], **same),
        node("Relu", ["c3"], ["hidden"]),
        node("Conv", ["hidden", "w4"], ["y"], kernel_shape=[1, 1]),
    ]
    values = {
        "w0": weights(4, 3, 3, 3),
        "w1": weights(4, 4, 3, 3),
        "w2": weights(4, 4, 2, 2),
        "w3": weights(4, 8, 3, 3),
        "w4": weights(2, 4, 1, 1),
        "b": np.full(4, bias, np.float32),
    }
    values["w0"][2] *= 1e-3  # a channel of its own size
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", SINGLE, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", SINGLE, [1, 2, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    # biases of their own, as folded networks have
    for index, one in enumerate(graph.node):
        if len(one.input) > 2:
            graph.initializer.append(numpy_helper.from_array(values["b"] * (index + 1), f"b{index}"))
            one.input[2] = f"b{index}"
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


FEEDS = [{"x": np.random.default_rng(seed).normal(0, 2, (1, 3, 8, 8)).astype(np.float32)} for seed in range(3)]


def quantised(*, cpu, half=False, method="max"):
    fp32 = two_branches()
    plan = make_int8_plan(fp32, cpu=cpu)
    limits = thresholds(fp32, activation_levels(fp32, plan, cpu=cpu), FEEDS, method=method)
    result = quantise(fp32, plan, limits, cpu=cpu, half=half)
    onnx.checker.check_model(result, full_check=True)
    return fp32, plan, result


def constants(graph):
    return {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}


def producers(graph):
    return {name: one for one in graph.graph.node for name in one.output}


def test_the_output_layer_stays_in_higher_precision_and_each_exception_has_its_rule():
    fp32 = two_branches()
    assert make_int8_plan(fp32, cpu=False).kept == {"y": "output"}
    assert make_int8_plan(fp32, cpu=True).kept == {"t": "kernel: ConvTranspose", "y": "output"}


def test_tensorrt_gets_pairs_before_its_layers_only_signed_with_zero_points_of_zero_and_float_biases():
    _, plan, graph = quantised(cpu=False)
    made, values = producers(graph), constants(graph)
    for layer in plan.layers:
        one = made[layer.name]
        for name in one.input[:2]:
            assert made[name].op_type == "DequantizeLinear"
        assert values[one.input[2]].dtype == np.float32
        axis = next(a.i for a in made[one.input[1]].attribute if a.name == "axis")
        assert axis == (1 if one.op_type == "ConvTranspose" else 0)
    assert made["y"].input[0] == "hidden"  # no pair where no 8-bit layer reads
    assert made["cat"].input[1] == "r2"
    zeros = [value for name, value in values.items() if name.endswith(".zero")]
    assert all(value.dtype == np.int8 and not value.any() for value in zeros)
    assert lint(graph, "8.6") == ["opset 20 is above 17, the last one documented for it"]
    assert not lint(graph, "11.4")


def test_a_cpu_gets_unsigned_values_after_relu_int32_biases_and_one_scale_through_a_concatenation():
    fp32, plan, graph = quantised(cpu=True)
    made, values = producers(graph), constants(graph)
    assert set(activation_levels(fp32, plan, cpu=True).values()) == {UNSIGNED}
    assert ["r0", "r2", "cat"] in activations(fp32, plan, cpu=True)
    assert len({float(values[f"{name}.scale"]) for name in ("r0", "r2", "cat")}) == 1
    one = made["c0"]
    bias = made[one.input[2]]
    assert values[bias.input[0]].dtype == np.int32
    step, scales = values["canvas.scale"], values["w0.scale"]
    np.testing.assert_allclose(
        values[bias.input[0]] * scales * step, constants(fp32)["b1"], atol=float((scales * step).max())
    )
    objections = lint(graph, "11.4")
    assert objections
    assert all("quantised values must be int8" in line for line in objections)


def test_biases_are_nodes_of_their_own_where_scales_become_float16():
    """ONNX Runtime would make them int32 by a product of float16 scales, which underflows."""
    _, plan, graph = quantised(cpu=False, half=True)
    made = producers(graph)
    for layer in plan.layers:
        assert made[layer.name].op_type == "Add"
        assert len(made[made[layer.name].input[0]].input) == 2


@pytest.mark.parametrize(("cpu", "half"), [(True, False), (False, False), (False, True)])
def test_an_8_bit_graph_says_nearly_the_same_and_onnx_runtimes_kernels_what_the_graph_says(cpu, half):
    fp32, _, graph = quantised(cpu=cpu, half=half)
    wanted = GraphRunner(fp32).infer(FEEDS[0])["y"]
    plain = GraphRunner(graph).infer(FEEDS[0])["y"]
    fused = GraphRunner(graph, optimised=True).infer(FEEDS[0])["y"]
    assert 0 < np.abs(plain - wanted).max() < 0.05 * np.abs(wanted).max()
    assert np.abs(fused - plain).max() < 0.02 * np.abs(wanted).max()


def test_onnx_runtime_computes_the_cpu_form_in_integers(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    _, plan, graph = quantised(cpu=True)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [one.op_type for one in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == len(plan.layers) == 3
    assert "QLinearConcat" in kinds


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (3, 4, 2, 2), elements=st.floats(-8, 8, width=32)), st.sampled_from([0, 1]))
def test_a_weight_is_off_by_half_a_step_of_its_channel_at_most(weight, channel):
    steps, scales = quantised_weight(weight, channel)
    shape = [-1 if axis == channel else 1 for axis in range(4)]
    assert (np.abs(steps * scales.reshape(shape) - weight) <= 0.5001 * scales.reshape(shape)).all()
    assert (scales > 0).all()
    np.testing.assert_array_equal(scales, scales.astype(np.float16).astype(np.float32))


def test_a_scale_is_float16_and_never_below_what_holds_the_limit():
    for limit in (0.0, 1e-9, 3e-5, 0.1, 7.77, 20_000.0):
        for levels in (SIGNED, UNSIGNED):
            scale = scale_of(limit, levels)
            assert scale > 0
            assert float(scale) * levels >= limit * (1 - 1e-6)
            assert scale == np.float32(np.float16(scale))


def test_a_bias_that_int32_could_not_hold_widens_the_scale_of_its_channel():
    fp32 = two_branches(bias=1e6)
    plan = make_int8_plan(fp32, cpu=True)
    limits = dict.fromkeys(activation_levels(fp32, plan, cpu=True), 1e-3)
    values = constants(quantise(fp32, plan, limits, cpu=True))
    for layer in plan.layers:
        steps, scales = values[f"{layer.bias}.int"], values[f"{layer.bias}.scale"]
        np.testing.assert_allclose(steps * scales.astype(np.float64), constants(fp32)[layer.bias], rtol=1e-5)


def histogram(values, peak):
    return np.histogram(np.abs(values), BINS, (0, peak))[0].astype(np.int64)


def test_a_far_outlier_is_clipped_by_all_methods_but_max():
    values = np.append(np.abs(np.random.default_rng(0).normal(0, 1, 200_000)), 40.0)
    counts = histogram(values, 40.0)
    found = {name: clip(counts, 40.0, name, levels=127) for name in ("max", "percentile", "mse", "entropy")}
    assert found["max"] == 40.0
    assert 3.5 < found["percentile"] < 4.5
    assert 3 < found["mse"] < 25
    assert 2.4 < found["entropy"] < 25


def test_the_mse_threshold_has_no_more_error_than_any_other():
    values = np.abs(np.random.default_rng(1).laplace(0, 1, 100_000))
    peak = float(values.max())
    counts, centers = histogram(values, peak), (np.arange(BINS) + 0.5) * peak / BINS

    def error(limit):
        scale = limit / 127
        return (counts * (np.minimum(np.rint(centers / scale), 127) * scale - centers) ** 2).sum()

    best = clip(counts, peak, "mse", levels=127)
    assert all(error(best) <= error(share * peak) * 1.001 for share in (0.125, 0.25, 0.375, 0.5, 0.75, 1.0))
    assert error(best) < 0.8 * error(peak)


def test_thresholds_are_those_of_the_graphs_own_values():
    fp32 = two_branches()
    levels = dict.fromkeys(("canvas", "r0", "cat"), 127)
    peaks = measure(fp32, list(levels), FEEDS)
    assert thresholds(fp32, levels, FEEDS, method="max") == peaks
    for method in ("percentile", "mse", "entropy"):
        found = thresholds(fp32, levels, FEEDS, method=method)
        assert all(0.1 * peaks[name] < found[name] <= peaks[name] for name in levels)


def test_only_what_cannot_be_negative_is_unsigned():
    fp32 = two_branches()
    assert never_negative(fp32) == {"canvas", "r0", "r1", "r2", "cat", "hidden"}


def test_unknown_methods_and_devices_are_refused():
    with pytest.raises(UsageError, match="calibration must be one of entropy, percentile, mse, max, not 'kl'"):
        Int8Settings("kl")
    with pytest.raises(UsageError, match="int8 is made for tensorrt or cpu, not for 'gpu'"):
        Int8Settings(device="gpu")
    with pytest.raises(UsageError, match="calibration must be one of"):
        thresholds(two_branches(), {}, [], method="kl")


def head_maps(**change):
    grid = TINY.output_grid
    channels = {"hm": len(TINY.head.classes), "center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}
    rng = np.random.default_rng(0)
    maps = {}
    for name in onnx_names(TINY):
        kind = name.split("_", 1)[1]
        maps[name] = rng.normal(0, 1, (1, channels[kind], grid.ny, grid.nx)).astype(np.float32) + change.get(kind, 0)
    return maps


def test_the_error_of_a_layer_is_in_tolerances_of_its_worst_part():
    same = box_gaps(head_maps(), head_maps(), TINY, INT8_TOLERANCE)
    assert same.shape == (200 * len(TINY.head.tasks),)
    assert same.max() == 0
    shifted = box_gaps(head_maps(), head_maps(center_z=0.5), TINY, INT8_TOLERANCE)
    np.testing.assert_allclose(shifted, 0.5 / INT8_TOLERANCE.center_m, rtol=1e-5)
    assert box_gaps(head_maps(), head_maps(vel=np.nan), TINY, INT8_TOLERANCE).max() == 1000  # as far as can be


def test_the_error_of_an_anchor_head_is_measured_class_by_class():
    spec = preset("kitti-pointpillars")
    grid, rng = spec.output_grid, np.random.default_rng(0)
    maps = {
        f"anchor_{name}": rng.normal(0, 0.3, (1, channels, grid.ny, grid.nx)).astype(np.float32)
        for name, channels in spec.head.maps
    }
    same = box_gaps(maps, maps, spec, INT8_TOLERANCE)
    assert same.shape == (200 * len(spec.head.classes),)
    assert same.max() == 0
    surer = {**maps, "anchor_cls": maps["anchor_cls"] + 1}
    assert 1 < box_gaps(maps, surer, spec, INT8_TOLERANCE).mean() < 3  # a logit near 1 is worth about 0.15 of score


def test_as_few_sensitive_layers_as_needed_are_left_out_worst_first():
    plan = make_int8_plan(two_branches(), cpu=False)
    errors = {"c0": 0.1, "c1": 5.0, "t": 0.7, "c3": 0.2}
    asked = []

    def judge(some, needed):
        asked.append(len(some.layers))
        return len(some.kept) - 1 >= needed, len(some.layers)

    for needed in range(4):
        kept, found, good = fewest_left_out(plan, errors, lambda some, needed=needed: judge(some, needed))
        assert good
        assert found == 4 - needed
        left = [name for name in kept.kept if name != "y"]
        assert left == ["c1", "t", "c3"][:needed]
    assert kept.kept["c1"] == "sensitive: 5.00 tolerances alone"
    assert not fewest_left_out(plan, errors, lambda some: judge(some, 9))[2]
    assert 0 not in asked  # a graph without 8-bit layers is no int8 export
