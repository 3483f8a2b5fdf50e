"""The whole network: shapes, taps, batches, precision, initial values."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kd3d.datasets.sample import Sample
from kd3d.detectors.batch import prepare, view_points
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import DataError
from kd3d.runtime.heads import onnx_names
from kd3d.spec import PillarEncoderSpec

TINY = preset("world-centerpoint-pillar-tiny")
DYNAMIC = replace(TINY, encoder=PillarEncoderSpec(filters=(16, 16), mode="dynamic"))
SIX = preset("world-centerpoint-pillar-six-tasks")


def sample(count: int, seed: int = 0, **more) -> Sample:
    rng = np.random.default_rng(seed)
    low, high = [-50, -50, -4, 0, 0], [50, 50, 2, 255, 0.1]
    points = rng.uniform(low, high, (count, 5)).astype(np.float32)
    return Sample("frame", points, ("x", "y", "z", "intensity", "time_lag"), None, ("car",), **more)


def detector(spec):
    torch.manual_seed(0)
    return build(spec).eval()


@pytest.mark.parametrize("spec", [TINY, SIX])
def test_heads_and_taps_have_the_shapes_the_specification_promises(spec):
    out = detector(spec)(prepare([sample(800), sample(300, 1)], spec))
    grid = spec.output_grid
    assert len(out.heads) == len(spec.head.tasks)
    for maps, names in zip(out.heads, spec.head.tasks, strict=True):
        sizes = [len(names), 2, 1, 3, 2, 2]
        assert [tuple(m.shape) for m in maps] == [(2, size, grid.ny, grid.nx) for size in sizes]
    names = [f"level{i}" for i in range(len(spec.backbone.channels))] + ["neck"]
    assert [tap.name for tap in out.taps] == names
    channels = [*spec.backbone.channels, spec.backbone.out_channels]
    for tap, width in zip(out.taps, channels, strict=True):
        assert tap.tensor.shape == (2, width, tap.grid.ny, tap.grid.nx)
        assert tap.grid.x_max_m == spec.grid.x_max_m


@pytest.mark.parametrize("spec", [TINY, DYNAMIC])
def test_a_batch_gives_what_its_frames_give_alone(spec):
    module, frames = detector(spec), [sample(500), sample(0), sample(700, 2)]
    together = module(prepare(frames, spec)).heads[0]
    for index, frame in enumerate(frames):
        alone = module(prepare([frame], spec)).heads[0]
        for one, many in zip(alone, together, strict=True):
            assert torch.allclose(one[0], many[index], atol=1e-5)


def test_forward_tensors_follow_the_order_of_the_onnx_names():
    module, batch = detector(SIX), prepare([sample(500)], SIX)
    tensors = dict(zip(onnx_names(SIX), module.forward_tensors(batch.features, batch.counts, batch.cells), strict=True))
    heads = module(batch).heads
    assert torch.equal(tensors["task3_hm"], heads[3].hm)
    assert torch.equal(tensors["task5_vel"], heads[5].vel)
    assert torch.equal(tensors["task0_center_z"], heads[0].center_z)


@pytest.mark.parametrize("spec", [TINY, DYNAMIC])
@pytest.mark.parametrize("frames", [[sample(0)], [sample(1)], [sample(0), sample(0)]])
def test_training_survives_clouds_without_points(spec, frames):
    module = detector(spec).train()
    out = module(prepare(frames, spec))
    sum(m.sum() for m in out.heads[0]).backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)


def test_padding_rows_of_an_empty_cloud_touch_no_cell():
    batch = prepare([sample(0)], TINY)
    assert set(batch.cells.tolist()) == {64 * 64}
    assert batch.counts.sum() == 0


def test_cells_of_later_frames_are_offset_by_whole_grids():
    batch = prepare([sample(300), sample(300, 1)], TINY)
    assert 0 < int((batch.cells < 64 * 64).sum()) < len(batch.cells)
    assert int(batch.cells.max()) < 2 * 64 * 64
    assert len(set(batch.cells.tolist())) == len(batch.cells)


def test_the_padded_form_of_dynamic_pillars_agrees_where_nothing_overflows():
    module, frame = detector(DYNAMIC), sample(600)
    flat, padded = prepare([frame], DYNAMIC), prepare([frame], DYNAMIC, padded=True)
    assert int(flat.counts.max()) <= DYNAMIC.encoder.max_points
    for one, other in zip(module(flat).heads[0], module(padded).heads[0], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_missing_point_feature_is_named():
    bad = Sample("f", np.zeros((3, 3), np.float32), ("x", "y", "z"), None, ())
    with pytest.raises(DataError, match="intensity"):
        prepare([bad], TINY)


def test_camera_view_keeps_only_points_that_project_into_the_image():
    spec = preset("kitti-centerpoint-pillar-small")
    # A pinhole with f = 100 looking along +x: u = 50 - 100 y / x, v = 25 - 100 z / x.
    matrix = np.array([[50.0, -100, 0, 0], [25.0, 0, -100, 0], [1, 0, 0, 0]])
    points = np.array([[10, 0, 0, 0], [-10, 0, 0, 0], [10, 4.9, 0, 0], [10, 5.1, 0, 0], [10, 0, 2.6, 0]], np.float32)
    frame = Sample("f", points, ("x", "y", "z", "intensity"), None, (), lidar2image=matrix, image_size_px=(100, 50))
    assert np.array_equal(view_points(frame, spec), points[[0, 2]])
    assert len(view_points(replace(frame, lidar2image=None), spec)) == 5
    assert len(view_points(frame, TINY)) == 5


def test_initial_values_are_those_of_the_published_head():
    head = build(TINY).head
    task = head.tasks[0]
    assert torch.all(task["hm"].out.bias == -2.19)
    assert torch.all(task["rot"].hidden.conv.bias == 0)
    assert head.shared.norm.eps == 1e-5
    assert build(TINY).backbone.levels[0][0].norm.eps == 1e-3


def test_bf16_does_not_round_the_coordinates_of_points():
    spec, module = TINY, detector(TINY)
    batch = prepare([sample(800)], spec)
    exact = module.encoder(batch.features, batch.counts)
    with torch.autocast("cpu", torch.bfloat16):
        got = module._encode(batch)
        maps = module(batch).heads[0]
    assert torch.equal(got, exact.bfloat16())
    assert maps.hm.dtype == torch.bfloat16
    assert torch.allclose(maps.hm.float(), module(batch).heads[0].hm, atol=0.05)
