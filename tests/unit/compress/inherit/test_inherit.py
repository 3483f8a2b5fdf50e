from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.compress.inherit.apply import apply_plan
from kd3d.compress.inherit.dataflow import plan
from kd3d.compress.inherit.layers import layers
from kd3d.compress.inherit.plan import Fresh, InheritPlan, Pick, Resize
from kd3d.compress.inherit.positions import nearest_position
from kd3d.compress.inherit.rules import l1
from kd3d.detectors.batch import PillarBatch
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import CheckpointError, UsageError
from kd3d.geometry.grid import BevGrid
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec

DECODE = DecodeSpec(1, 50, 0.1, (-9, -9, -9, 9, 9, 9), "none", (0.2,), 50, 50)


def make_spec(
    *,
    filters=(8, 12),
    channels=(8, 12, 10),
    depths=(1, 2, 1),
    ups=(6, 8, 4),
    shared=9,
    branch=7,
    tasks=(("car", "bus"), ("pedestrian",)),
    velocity=True,
    features=("x", "y", "z", "intensity"),
    strides=(1, 2, 2),
    up_strides=(0.5, 1.0, 2.0),
    cell=1.0,
    mode="hard",
):
    return DetectorSpec(
        name="test",
        points=PointSpec(features=features),
        grid=BevGrid(0, 0, -1, 16, 16, 1, cell),
        encoder=PillarEncoderSpec(filters=filters, max_points=4, max_pillars=60, mode=mode),
        backbone=BevBackboneSpec(strides, depths, channels, up_strides, ups),
        head=CenterHeadSpec(tasks, shared, branch, velocity),
        decode=replace(DECODE, nms_threshold=(0.2,) * len(tasks)),
    )


def network(spec, seed):
    """A network whose norms are far from their initial values."""
    torch.manual_seed(seed)
    module = build(spec).eval()
    for name, tensor in module.state_dict().items():
        if name.endswith(("norm.bias", "running_mean")):
            tensor.normal_(0, 0.3)
        elif name.endswith(("norm.weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return module


def pillars(spec, seed=0, count=40):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, spec.encoder.max_points, spec.point_inputs, generator=generator)
    counts = torch.randint(1, spec.encoder.max_points + 1, (count,), generator=generator)
    features *= (torch.arange(spec.encoder.max_points) < counts[:, None])[..., None]
    cells = torch.randperm(spec.grid.nx * spec.grid.ny, generator=generator)[:count]
    return PillarBatch(features, counts, cells, 1)


def outputs(module, batch):
    with torch.no_grad():
        return [tensor for maps in module(batch).heads for tensor in maps if tensor is not None]


def test_keeping_everything_reproduces_the_teacher_exactly():
    spec = make_spec()
    teacher, student = network(spec, 0), network(spec, 1)
    for rule in ("first", "l1"):
        made = plan(spec, spec, rule, teacher.state_dict())
        state = apply_plan(made, student.state_dict(), teacher.state_dict())
        assert made.fresh == {}
        assert all(torch.equal(state[name], tensor) for name, tensor in teacher.state_dict().items())


def zero_dropped_channels(spec, state, made, student_spec):
    """Make every teacher channel that no student tensor takes constantly zero: its filter, bias and norm."""
    kept = {}
    for layer in layers(student_spec):
        entry = made.entries[f"{layer.module}.weight"]
        axis = 1 if layer.kind == "deconv" else 0
        kept[entry.source.removesuffix(".weight")] = entry.indices[axis]
    for layer in layers(spec):
        dropped = [channel for channel in range(layer.out) if channel not in kept[layer.module]]
        weight = state[f"{layer.module}.weight"]
        (weight.transpose(0, 1) if layer.kind == "deconv" else weight)[dropped] = 0
        for name in [f"{layer.module}.bias"] if layer.bias else []:
            state[name][dropped] = 0
        if layer.norm:
            for name in ("weight", "bias", "running_mean"):
                state[f"{layer.norm}.{name}"][dropped] = 0


widths = st.integers(1, 4)


@settings(max_examples=12, deadline=None)
@given(st.data(), st.sampled_from(["first", "l1", "bn", "random"]), st.sampled_from(["hard", "dynamic"]))
def test_student_equals_a_teacher_whose_dropped_channels_are_zero(data, rule, mode):
    depths = data.draw(st.tuples(*[st.integers(0, 2)] * 3))
    teacher_spec = make_spec(depths=depths, mode=mode)

    def narrower(width):
        return data.draw(st.integers(1, width))

    student_spec = make_spec(
        depths=depths, mode=mode, filters=(2 * narrower(4), narrower(12)), channels=tuple(map(narrower, (8, 12, 10))),
        ups=tuple(map(narrower, (6, 8, 4))), shared=narrower(9), branch=narrower(7),
    )  # fmt: skip
    teacher, student = network(teacher_spec, 0), network(student_spec, 1)
    made = plan(teacher_spec, student_spec, rule, teacher.state_dict())
    assert made.fresh == {}
    zero_dropped_channels(teacher_spec, teacher.state_dict(), made, student_spec)
    student.load_state_dict(apply_plan(made, student.state_dict(), teacher.state_dict()))
    batch = pillars(teacher_spec)
    for ours, theirs in zip(outputs(student, batch), outputs(teacher, batch), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_different_depths_keep_one_choice_per_level_so_that_consumers_read_what_producers_write():
    teacher_spec, student_spec = make_spec(depths=(2, 4, 1)), make_spec(depths=(1, 2, 3), channels=(5, 7, 6))
    teacher = network(teacher_spec, 0)
    made = plan(teacher_spec, student_spec, "l1", teacher.state_dict())
    assert made.fresh == {}
    for level, count in enumerate((1, 2, 3)):
        first = made.entries[f"backbone.levels.{level}.0.conv.weight"].indices[0]
        for position in range(1, count + 1):
            entry = made.entries[f"backbone.levels.{level}.{position}.conv.weight"]
            assert entry.indices == (first, first)
        assert made.entries[f"backbone.ups.{level}.conv.weight"].indices[0 if level else 1] == first
    sources = [made.entries[f"backbone.levels.1.{p}.conv.weight"].source for p in range(3)]
    assert sources == [f"backbone.levels.1.{p}.conv.weight" for p in (0, 1, 4)]
    sources = [made.entries[f"backbone.levels.2.{p}.conv.weight"].source for p in range(1, 4)]
    assert sources == ["backbone.levels.2.1.conv.weight"] * 3  # extra student layers copy the nearest


def test_a_student_of_another_depth_loads_and_runs():
    teacher_spec, student_spec = make_spec(depths=(2, 4, 1)), make_spec(depths=(0, 2, 3), channels=(5, 7, 6), cell=2.0)
    teacher, student = network(teacher_spec, 0), network(student_spec, 1)
    made = plan(teacher_spec, student_spec, "l1", teacher.state_dict())
    student.load_state_dict(apply_plan(made, student.state_dict(), teacher.state_dict()))
    assert all(torch.isfinite(tensor).all() for tensor in outputs(student, pillars(student_spec)))


@pytest.mark.parametrize(
    ("index", "count", "of", "place"),
    [(0, 1, 3, 1), (0, 2, 5, 0), (1, 2, 5, 4), (1, 3, 5, 2), (0, 4, 1, 0), (2, 5, 3, 1)],
)
def test_nearest_position_maps_ends_to_ends_and_one_to_the_middle(index, count, of, place):
    assert nearest_position(index, count, of) == place


def test_six_tasks_take_their_classes_from_the_one_task_of_the_teacher_by_name():
    one = make_spec(tasks=(("bus", "car", "pedestrian"),))
    many = make_spec(tasks=(("car",), ("pedestrian", "bus")))
    teacher = network(one, 0)
    made = plan(one, many, "first", teacher.state_dict())
    assert made.entries["head.tasks.0.hm.out.weight"].indices[0] == (1,)
    assert made.entries["head.tasks.1.hm.out.weight"].indices[0] == (2, 0)
    student = network(many, 1)
    student.load_state_dict(apply_plan(made, student.state_dict(), teacher.state_dict()))
    batch = pillars(one)
    with torch.no_grad():
        ours, theirs = student(batch).heads, teacher(batch).heads
    torch.testing.assert_close(ours[1].hm, theirs[0].hm[:, [2, 0]])
    torch.testing.assert_close(ours[0].dim, theirs[0].dim)


def test_a_class_that_the_teacher_does_not_know_stays_fresh_and_says_so():
    known, more = make_spec(tasks=(("car", "bus"),)), make_spec(tasks=(("bus", "tram"), ("dog",)))
    teacher, student = network(known, 0), network(more, 1)
    made = plan(known, more, "first", teacher.state_dict())
    assert "tram" in made.entries["head.tasks.0.hm.out.weight"].note
    assert made.fresh["head.tasks.1.hm.out.weight"] == "the teacher knows none of the classes dog"
    state = apply_plan(made, student.state_dict(), teacher.state_dict())
    own, theirs = student.state_dict(), teacher.state_dict()
    assert torch.equal(state["head.tasks.0.hm.out.weight"][0], theirs["head.tasks.0.hm.out.weight"][1])
    assert torch.equal(state["head.tasks.0.hm.out.weight"][1], own["head.tasks.0.hm.out.weight"][1])
    assert torch.equal(state["head.tasks.1.dim.out.weight"], own["head.tasks.1.dim.out.weight"])


def test_point_features_are_matched_by_name():
    theirs = make_spec(features=("x", "y", "z", "intensity", "time_lag"))
    ours = make_spec(features=("x", "y", "z", "time_lag", "elongation"))
    teacher, student = network(theirs, 0), network(ours, 1)
    made = plan(theirs, ours, "first", teacher.state_dict())
    entry = made.entries["encoder.layers.0.linear.weight"]
    assert entry.indices[1] == (0, 1, 2, 4, -1, 5, 6, 7, 8, 9, 10)
    assert "elongation" in entry.note
    state = apply_plan(made, student.state_dict(), teacher.state_dict())
    weight = state["encoder.layers.0.linear.weight"]
    assert torch.equal(weight[:, 3], teacher.state_dict()["encoder.layers.0.linear.weight"][:, 4])
    assert torch.equal(weight[:, 4], student.state_dict()["encoder.layers.0.linear.weight"][:, 4])


def test_a_wider_student_layer_stays_fresh_with_the_reason_and_the_rest_is_inherited():
    teacher_spec, student_spec = make_spec(), make_spec(ups=(6, 9, 4))
    made = plan(teacher_spec, student_spec, "first", network(teacher_spec, 0).state_dict())
    assert made.fresh["backbone.ups.1.conv.weight"] == "student is wider (9 channels) than the teacher (8)"
    assert made.fresh["backbone.ups.1.norm.running_mean"].startswith("student is wider")
    shared = made.entries["head.shared.conv.weight"]
    assert shared.indices[1] == (*range(6), *(-1,) * 9, *range(14, 18))
    assert "student is wider" in shared.note
    assert isinstance(made.entries["backbone.levels.2.1.conv.weight"], Pick)


def test_an_up_branch_of_another_stride_is_stretched_and_of_another_kind_is_fresh():
    teacher_spec = make_spec(strides=(1, 2, 2), up_strides=(1.0, 2.0, 4.0))
    student_spec = make_spec(strides=(1, 2, 2), up_strides=(0.5, 1.0, 2.0))
    teacher, student = network(teacher_spec, 0), network(student_spec, 1)
    made = plan(teacher_spec, student_spec, "first", teacher.state_dict())
    assert isinstance(made.entries["backbone.ups.2.conv.weight"], Resize)
    assert isinstance(made.entries["backbone.ups.0.conv.weight"], Fresh)
    student.load_state_dict(apply_plan(made, student.state_dict(), teacher.state_dict()))


def test_a_missing_velocity_branch_and_another_encoder_depth_are_reasons():
    teacher_spec, student_spec = make_spec(velocity=False, filters=(12,)), make_spec()
    made = plan(teacher_spec, student_spec, "first", network(teacher_spec, 0).state_dict())
    assert made.fresh["head.tasks.0.vel.out.bias"] == "the teacher does not predict velocity"
    assert made.fresh["encoder.layers.1.norm.weight"] == "the encoder has 2 layer(s), the teacher's has 1"
    assert made.fresh["backbone.levels.0.0.conv.weight"].startswith("input: the encoder has 2")
    assert made.to_json()["inherited"] + len(made.fresh) == len(made.entries)


@pytest.mark.parametrize(
    "name", ["nuscenes-centerpoint-pillar", "kitti-centerpoint-pillar", "world-centerpoint-pillar"]
)
def test_every_tensor_of_a_preset_is_accounted_for(name):
    spec = preset(name)
    module = build(spec)
    made = plan(spec, spec, "first", module.state_dict())
    assert set(made.entries) == set(module.state_dict())
    assert made.fresh == {}


def test_l1_keeps_the_largest_filters_and_the_lower_index_of_equals():
    weight = torch.tensor([1.0, 3.0, 1.0, 2.0])[:, None]
    assert l1([weight], 2) == (1, 3)
    assert l1([weight], 3) == (0, 1, 3)
    assert l1([weight, torch.tensor([9.0, 0, 0, 0])[:, None]], 2) == (0, 1)


def test_a_rule_of_the_users_own_is_a_callable():
    def last(filters, keep):
        return tuple(range(len(filters[0]) - keep, len(filters[0])))

    teacher_spec, student_spec = make_spec(), make_spec(shared=4)
    made = plan(teacher_spec, student_spec, last, network(teacher_spec, 0).state_dict())
    assert made.entries["head.shared.conv.weight"].indices[0] == (5, 6, 7, 8)
    assert made.entries["head.tasks.0.hm.hidden.conv.weight"].indices[1] == (5, 6, 7, 8)
    assert made.rule == "last"


def test_an_unknown_rule_lists_the_known_ones():
    spec = make_spec()
    with pytest.raises(UsageError, match=r"no inheritance rule 'luck'. Use one of first, l1, bn, random, taylor, copy"):
        plan(spec, spec, "luck", network(spec, 0).state_dict())
    with pytest.raises(UsageError, match="the taylor rule needs training frames"):
        plan(spec, spec, "taylor", network(spec, 0).state_dict())


def test_weights_of_another_network_are_refused():
    with pytest.raises(CheckpointError, match=r"the teacher's weights lack .*backbone.levels.0.1.conv"):
        plan(make_spec(), make_spec(), "first", network(make_spec(depths=(0, 2, 1)), 0).state_dict())


def test_all_problems_are_listed_at_once_and_inputs_stay_as_they_were():
    student = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1), "d": torch.zeros(2)}
    teacher = {"t": torch.arange(4.0)}
    bad = InheritPlan({"a": Pick("gone"), "b": Pick("t"), "d": Pick("t", ((1, 9),)), "e": Fresh("")})
    with pytest.raises(CheckpointError) as error:
        apply_plan(bad, student, teacher)
    text = str(error.value)
    for part in (
        "5 problem(s)",
        "no tensor gone",
        "shape (4,) but has shape (3,)",
        "c is not in the plan",
        "e is not a tensor",
        "index 9",
    ):
        assert part in text
    good = InheritPlan({"a": Pick("t", ((3, -1),))})
    result = apply_plan(good, {"a": torch.full((2,), 7.0)}, teacher)
    assert np.allclose(result["a"], [3.0, 7.0])
    result["a"][0] = 100
    assert torch.equal(teacher["t"], torch.arange(4.0))
