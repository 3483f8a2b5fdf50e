"""Inheritance through sparse stages, residual sums, and height that is folded into channels (SparseKD's check C10)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from kd3d.compress.inherit.apply import apply_plan
from kd3d.compress.inherit.dataflow import plan
from kd3d.compress.inherit.plan import Fresh
from kd3d.compress.search.cost import cost
from kd3d.compress.search.counter import count
from kd3d.compress.search.sparse_sites import count_sites
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.detectors.voxel_batch import voxel_batch
from kd3d.geometry.grid import BevGrid
from kd3d.spec import BevBackboneSpec, VoxelEncoderSpec
from tests.support.dropped_channels import zero_what_is_dropped

GRID = BevGrid(0.0, -8.0, -1.0, 16.0, 8.0, 1.0, 0.5)


def make_spec(
    *, channels=(6, 8, 10), blocks=(1, 2, 1), first=6, out=8, kind="residual", bias=True, up=(8, 8), level=(8, 12)
):
    base = preset("world-centerpoint-voxel-tiny")
    encoder = VoxelEncoderSpec(
        height_m=0.1, channels=channels, blocks=blocks, input_channels=first, out_channels=out, block=kind,
        block_bias=bias, z_paddings=(1, 0)[: len(channels) - 1],
    )  # fmt: skip
    backbone = BevBackboneSpec((1, 2), (1, 1), level, (1.0, 2.0), up)
    return replace(base, grid=GRID, encoder=encoder, backbone=backbone)


def network(spec, seed):
    torch.manual_seed(seed)
    module = build(spec).eval()
    for name, tensor in module.state_dict().items():
        if name.endswith(("norm.bias", "running_mean")):
            tensor.normal_(0, 0.3)
        elif name.endswith(("norm.weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return module


def batch_of(spec, points=150):
    rng = np.random.default_rng(4)
    cloud = rng.uniform((0, -8, -1, 0, 0), (16, 8, 1, 1, 1), (points, 5)).astype(np.float32)
    return voxel_batch([cloud], spec.grid, spec.encoder), cloud


def maps(module, batch):
    with torch.no_grad():
        return [tensor for task in module(batch).heads for tensor in task if tensor is not None]


@given(st.data(), st.sampled_from(["first", "l1"]), st.sampled_from(["residual", "plain"]))
@settings(max_examples=8, deadline=None)
def test_student_equals_a_teacher_whose_dropped_channels_are_zero(data, rule, kind):
    def narrower(width):
        return data.draw(st.integers(1, width))

    teacher_spec = make_spec(kind=kind)
    channels = tuple(map(narrower, (6, 8, 10)))
    student_spec = make_spec(
        kind=kind, channels=channels, first=channels[0] if kind == "residual" else narrower(6), out=narrower(8),
        up=(narrower(8), narrower(8)), level=(narrower(8), narrower(12)),
    )  # fmt: skip
    teacher, student = network(teacher_spec, 0), network(student_spec, 1)
    made = plan(teacher_spec, student_spec, rule, teacher.state_dict())
    assert made.fresh == {}
    zero_what_is_dropped(teacher_spec, teacher.state_dict(), made, student_spec)
    student.load_state_dict(apply_plan(made, student.state_dict(), teacher.state_dict()))
    batch, _ = batch_of(teacher_spec)
    for ours, theirs in zip(maps(student, batch), maps(teacher, batch), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [0.75, 0.5])
def test_c10_the_first_bev_convolution_reads_both_heights_of_the_channels_that_are_kept(share):
    teacher_spec = preset("waymo-centerpoint-voxel")
    student_spec = preset("waymo-centerpoint-voxel-xs" if share == 0.75 else "waymo-centerpoint-voxel-xxs")
    student_spec = replace(student_spec, backbone=teacher_spec.backbone)
    weights = dict(build(teacher_spec).state_dict().items())
    made = plan(teacher_spec, student_spec, "first", weights)
    kept, read = made.entries["backbone.levels.0.0.conv.weight"].indices
    narrow = int(128 * share)
    assert read == tuple(range(2 * narrow))  # c * D + d
    depth_major = [c + 128 * d for d in range(2) for c in range(narrow)]  # the released code's, wrong
    assert sum(one == other for one, other in zip(read, depth_major, strict=True)) == narrow
    weight = weights["backbone.levels.0.0.conv.weight"][list(kept)]
    x = torch.randn(1, 256, 9, 9)
    whole = x.view(1, 128, 2, 9, 9).clone()
    whole[:, narrow:] = 0
    wanted = functional.conv2d(whole.view(1, 256, 9, 9), weight, padding=1)
    got = functional.conv2d(x[:, : 2 * narrow], weight[:, list(read)], padding=1)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["residual", "plain"])
def test_another_depth_keeps_one_choice_per_stage(kind):
    teacher_spec = make_spec(kind=kind, blocks=(2, 3, 1))
    student_spec = make_spec(kind=kind, channels=(5, 6, 7), first=5, blocks=(1, 4, 0))
    teacher = network(teacher_spec, 0)
    made = plan(teacher_spec, student_spec, "l1", teacher.state_dict())
    assert made.fresh == {}
    stage = made.entries["encoder.stages.1.down.conv.weight"].indices[0]
    last = 1 if kind == "residual" else 0
    sources = []
    for block in range(4):
        entry = made.entries[f"encoder.stages.1.blocks.{block}.convs.{last}.conv.weight"]
        assert entry.indices[0] == stage
        assert made.entries[f"encoder.stages.1.blocks.{block}.convs.0.conv.weight"].indices[1] == stage
        sources.append(entry.source.split(".")[4])
    assert sources == ["0", "1", "1", "2"]
    assert made.entries["encoder.stages.2.down.conv.weight"].indices[1] == stage
    assert (
        made.entries["encoder.out.conv.weight"].indices[1]
        == made.entries["encoder.stages.2.down.conv.weight"].indices[0]
    )
    apply_plan(made, build(student_spec).state_dict(), teacher.state_dict())


def test_what_cannot_be_inherited_says_why():
    teacher_spec, pillars = make_spec(), preset("world-centerpoint-pillar-tiny")
    weights = network(teacher_spec, 0).state_dict()

    def reason(student, name, teacher=teacher_spec, state=weights):
        entry = plan(teacher, student, "first", state).entries[name]
        assert isinstance(entry, Fresh), entry
        return entry.reason

    down = "encoder.stages.1.down.conv.weight"
    first = "encoder.stages.1.blocks.0.convs.0.conv.weight"
    two = make_spec(channels=(6, 8), blocks=(1, 1))
    assert reason(two, down) == "the encoder has 2 stage(s), the teacher's has 3"
    assert reason(make_spec(kind="plain"), first) == "its block is plain, the teacher's are residual"
    none = make_spec(blocks=(1, 0, 1))
    assert reason(teacher_spec, first, none, network(none, 0).state_dict()) == "the teacher's stage has no blocks"
    bare = make_spec(bias=False)
    assert (
        reason(teacher_spec, first.replace("weight", "bias"), bare, network(bare, 0).state_dict())
        == "the teacher's layer has no bias"
    )
    assert reason(pillars, "encoder.layers.0.linear.weight") == "the teacher's encoder has voxels"
    other = network(pillars, 0).state_dict()
    assert reason(teacher_spec, down, pillars, other) == "the teacher's encoder has pillars"
    low = replace(teacher_spec, encoder=replace(teacher_spec.encoder, height_m=0.05))
    assert reason(low, "backbone.levels.0.0.conv.weight") == "the teacher folds another number of heights into channels"


@given(st.data(), st.sampled_from(["residual", "plain"]))
@settings(max_examples=10, deadline=None)
def test_the_analytic_cost_equals_what_is_counted_on_the_built_network(data, kind):
    width = st.integers(1, 9)
    channels = data.draw(st.tuples(width, width, width))
    blocks = data.draw(st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 2)))
    spec = make_spec(
        channels=channels, blocks=blocks, first=channels[0] if kind == "residual" else data.draw(width),
        out=data.draw(width), kind=kind, bias=data.draw(st.booleans()),
    )  # fmt: skip
    batch, cloud = batch_of(spec, data.draw(st.integers(20, 200)))
    found = cost(spec, count_sites(cloud, spec))
    counted = count(build(spec), batch)
    assert (found.params, found.macs, found.macs_thop, found.acts) == (
        counted.params, counted.macs, counted.macs_thop, counted.acts,
    )  # fmt: skip
    canvas = spec.bev_channels * spec.output_grid.nx * spec.output_grid.ny
    assert found.read_elements - found.weight_elements == counted.read_elements
    assert found.written_elements - canvas == counted.written_elements
