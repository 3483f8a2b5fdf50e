"""Inheritance through anchor heads: their outputs stay whole, and their inputs follow the necks' channels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.compress.inherit.apply import apply_plan
from kd3d.compress.inherit.dataflow import plan
from kd3d.detectors.batch import PillarBatch
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.detectors.voxel_batch import voxel_batch
from kd3d.geometry.grid import BevGrid
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, PillarEncoderSpec, VoxelEncoderSpec
from tests.support.dropped_channels import zero_what_is_dropped

PILLARS, VOXELS = "kitti-pointpillars", "kitti-second"


def make_spec(like=PILLARS, *, encoder=(8, 12), levels=(8, 12), ups=(6, 8), layers=(1, 2)):
    """KITTI's anchors on a small trunk: two pillar layers, or a plain sparse encoder of three stages."""
    if like == PILLARS:
        made = PillarEncoderSpec(filters=encoder, max_points=4, max_pillars=60)
    else:
        first, *stages, last = encoder
        made = VoxelEncoderSpec(
            height_m=0.1, channels=tuple(stages), blocks=(1, 2, 1), input_channels=first, out_channels=last,
            block="plain", block_bias=False, z_paddings=(1, 0),
        )  # fmt: skip
    return replace(
        preset(like),
        name="test",
        grid=BevGrid(0.0, -8.0, -1.0, 16.0, 8.0, 1.0, 1.0 if like == PILLARS else 0.5),
        encoder=made,
        backbone=BevBackboneSpec((1, 2), layers, levels, (1.0, 2.0), ups),
    )


def network(spec, seed):
    torch.manual_seed(seed)
    module = build(spec).eval()
    for name, tensor in module.state_dict().items():
        if name.endswith(("norm.bias", "running_mean", "cls.bias", "box.bias", "dir.bias")):
            tensor.normal_(0, 0.3)
        elif name.endswith(("norm.weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
        elif name == "head.box.weight":
            tensor.normal_(0, 0.3)  # a head begins with boxes near its anchors
    return module


def batch_of(spec, count=40):
    if isinstance(spec.encoder, VoxelEncoderSpec):
        cloud = np.random.default_rng(4).uniform((0, -8, -1, 0), (16, 8, 1, 1), (150, 4)).astype(np.float32)
        return voxel_batch([cloud], spec.grid, spec.encoder)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(count, spec.encoder.max_points, spec.point_inputs, generator=generator)
    counts = torch.randint(1, spec.encoder.max_points + 1, (count,), generator=generator)
    features *= (torch.arange(spec.encoder.max_points) < counts[:, None])[..., None]
    cells = torch.randperm(spec.grid.nx * spec.grid.ny, generator=generator)[:count]
    return PillarBatch(features, counts, cells, 1)


def maps(module, spec):
    with torch.no_grad():
        return module(batch_of(spec)).heads[0]


@given(st.data(), st.sampled_from([PILLARS, VOXELS]), st.sampled_from(["first", "l1", "bn", "random"]))
@settings(max_examples=12, deadline=None)
def test_student_equals_a_teacher_whose_dropped_channels_are_zero(data, like, rule):
    def narrower(width):
        return data.draw(st.integers(1, width))

    encoder = (8, 12) if like == PILLARS else (6, 6, 8, 10, 8)
    slim = tuple(map(narrower, encoder))
    if like == PILLARS:
        slim = (2 * max(1, slim[0] // 2), slim[1])
    depths = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    teacher_spec = make_spec(like, encoder=encoder, layers=depths)
    student_spec = make_spec(
        like, encoder=slim, layers=depths, levels=tuple(map(narrower, (8, 12))), ups=tuple(map(narrower, (6, 8)))
    )
    teacher, student = network(teacher_spec, 0), network(student_spec, 1)
    made = plan(teacher_spec, student_spec, rule, teacher.state_dict())
    assert made.fresh == {}
    zero_what_is_dropped(teacher_spec, teacher.state_dict(), made, student_spec)
    student.load_state_dict(apply_plan(made, student.state_dict(), teacher.state_dict()))
    for ours, theirs in zip(maps(student, student_spec), maps(teacher, teacher_spec), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_all_outputs_are_kept_and_the_inputs_are_the_kept_channels_of_each_branch():
    teacher_spec, student_spec = make_spec(), make_spec(ups=(3, 5))
    made = plan(teacher_spec, student_spec, "l1", network(teacher_spec, 0).state_dict())
    branches = [made.entries[f"backbone.ups.{level}.conv.weight"].indices[1] for level in range(2)]
    for name, outputs in (("cls", 18), ("box", 42), ("dir", 12)):
        kept, read = made.entries[f"head.{name}.weight"].indices
        assert kept == tuple(range(outputs))
        assert read == (*branches[0], *(6 + channel for channel in branches[1]))


def test_anchors_are_matched_by_class_whatever_their_order():
    spec = make_spec()
    order = (1, 2, 0)
    head = spec.anchor_head
    other = replace(spec, head=replace(head, anchors=tuple(head.anchors[index] for index in order)))
    teacher, student = network(spec, 0), network(other, 1)
    made = plan(spec, other, "first", teacher.state_dict())
    student.load_state_dict(apply_plan(made, student.state_dict(), teacher.state_dict()))
    ours, theirs = maps(student, other), maps(teacher, spec)

    def by_class(part, codes):
        return part.view(3, 2, codes, *part.shape[2:])

    torch.testing.assert_close(by_class(ours.cls, 3), by_class(theirs.cls, 3)[list(order)][:, :, list(order)])
    torch.testing.assert_close(by_class(ours.box, 7), by_class(theirs.box, 7)[list(order)])
    torch.testing.assert_close(by_class(ours.dir, 2), by_class(theirs.dir, 2)[list(order)])


def test_a_class_that_the_teacher_does_not_know_is_fresh_and_named():
    spec = make_spec()
    head = spec.anchor_head
    dog = replace(spec, head=replace(head, anchors=(head.anchors[0], replace(head.anchors[1], name="Dog"))))
    made = plan(spec, dog, "first", network(spec, 0).state_dict())
    entry = made.entries["head.box.weight"]
    assert entry.indices[0] == (*range(14), *(-1,) * 14)
    assert "fresh rows: Dog at 0: x" in entry.note


@pytest.mark.parametrize("anchors_teach", [True, False])
def test_between_an_anchor_head_and_a_centre_head_all_but_the_head_is_inherited(anchors_teach):
    anchors = make_spec()
    centres = replace(anchors, head=CenterHeadSpec((anchors.head.classes,), 8, 8))
    teacher_spec, student_spec = (anchors, centres) if anchors_teach else (centres, anchors)
    teacher, student = network_of(teacher_spec), network_of(student_spec)
    made = plan(teacher_spec, student_spec, "first", teacher.state_dict())
    student.load_state_dict(apply_plan(made, student.state_dict(), teacher.state_dict()))
    kind = "an anchor" if anchors_teach else "a centre"
    assert {name.split(".")[0] for name in made.fresh} == {"head"}
    assert {reason.removeprefix("input: ") for reason in made.fresh.values()} == {f"the teacher has {kind} head"}


def network_of(spec):
    torch.manual_seed(0)
    return build(spec).eval()
