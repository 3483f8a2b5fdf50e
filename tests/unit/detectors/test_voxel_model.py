"""Voxel detectors: parameters, and the whole network against dense convolutions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from kd3d.compress.search.cost import cost
from kd3d.compress.search.cost_sparse import SparseStats
from kd3d.detectors.build import build
from kd3d.detectors.fold import folded, packed
from kd3d.detectors.presets import preset
from kd3d.detectors.voxel_batch import VoxelBatch, voxel_batch
from kd3d.geometry.grid import BevGrid
from kd3d.spec import VoxelEncoderSpec
from tests.support import sparse_world

GRID = BevGrid(0.0, -8.0, -1.0, 16.0, 8.0, 1.0, 0.5)
RESIDUAL = VoxelEncoderSpec(
    height_m=0.1, channels=(4, 6, 8), blocks=(1, 2, 1), input_channels=4, out_channels=6, z_paddings=(1, 0)
)
PLAIN = replace(RESIDUAL, channels=(5, 6, 8), blocks=(1, 1, 0), block="plain", block_bias=False)


def _spec(encoder):
    base = preset("world-centerpoint-voxel-tiny")
    return replace(base, grid=GRID, encoder=encoder)


def _clouds(frames=2, count=120):
    rng = np.random.default_rng(7)
    return [rng.uniform((0, -8, -1, 0, 0), (16, 8, 1, 1, 1), (count, 5)).astype(np.float32) for _ in range(frames)]


def _random_norms(module):
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 1.5)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_(0, 0.2)
    return module.eval()


def _conv(layer, x, active, *, stride=(1, 1, 1), padding=(1, 1, 1)):
    """A dense convolution with norm, kept at the active sites."""
    conv, norm = layer.conv, layer.norm
    out = functional.conv3d(x, conv.weight.unflatten(2, conv.kernel), conv.bias, stride=stride, padding=padding)
    if stride != (1, 1, 1):
        active = sparse_world.active_after(active, conv.kernel, stride, padding)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    out = (out - norm.running_mean.view(1, -1, 1, 1, 1)) * scale.view(1, -1, 1, 1, 1)
    return (out + norm.bias.view(1, -1, 1, 1, 1)) * active, active


def _dense_map(encoder, features, sites, frames, paddings):
    """Its BEV map, ``[B, C * depth, ny, nx]``, by dense convolutions."""
    shape = (21, 32, 32)
    x = sparse_world.to_dense(features, sites, shape, frames)
    active = sparse_world.to_dense(torch.ones(len(sites), 1), sites, shape, frames)
    x = torch.relu(_conv(encoder.input, x, active)[0])
    for index, stage in enumerate(encoder.stages):
        if index:
            padding = (paddings[index - 1], 1, 1)
            x, active = _conv(stage.down, x, active, stride=(2, 2, 2), padding=padding)
            x = torch.relu(x)
        for block in stage.blocks:
            out = _conv(block.convs[0], x, active)[0]
            if len(block.convs) == 2:
                out = _conv(block.convs[1], torch.relu(out), active)[0] + x
            x = torch.relu(out)
    x, _ = _conv(encoder.out, x, active, stride=(2, 1, 1), padding=(0, 0, 0))
    x = torch.relu(x)
    return x.reshape(frames, -1, *x.shape[3:])  # OpenPCDet's view(N, C * D, H, W)


def _sites(clouds, spec):
    from kd3d.runtime.voxels import mean_voxels

    found = [mean_voxels(cloud, spec.grid, spec.encoder).sites for cloud in clouds]
    return np.concatenate([np.insert(sites, 0, frame, axis=1) for frame, sites in enumerate(found)])


@pytest.mark.parametrize("encoder", [RESIDUAL, PLAIN], ids=["residual", "plain"])
def test_the_bev_map_is_that_of_dense_convolutions_at_the_active_sites(encoder):
    torch.manual_seed(0)
    spec = _spec(encoder)
    module = _random_norms(build(spec))
    clouds = _clouds()
    batch = voxel_batch(clouds, spec.grid, spec.encoder)
    wanted = _dense_map(module.encoder, batch.features, _sites(clouds, spec), 2, encoder.z_paddings)
    with torch.no_grad():
        canvas = module._canvas(module._encode(batch), batch.cells, 2)
        torch.testing.assert_close(canvas, wanted, rtol=1e-4, atol=1e-5)
        assert float(canvas.abs().max()) > 0.1
        heads = module.head(module.backbone(wanted)[1])
        for got, maps in zip(module(batch).heads, heads, strict=True):
            torch.testing.assert_close(got.hm, maps.hm, rtol=1e-4, atol=1e-4)


def test_a_batch_is_its_frames_one_by_one():
    torch.manual_seed(1)
    spec = _spec(RESIDUAL)
    module = _random_norms(build(spec))
    clouds = [*_clouds(), np.zeros((0, 5), np.float32)]
    with torch.no_grad():
        together = module(voxel_batch(clouds, spec.grid, spec.encoder)).heads[0].hm
        for frame, cloud in enumerate(clouds):
            alone = module(voxel_batch([cloud], spec.grid, spec.encoder)).heads[0].hm
            torch.testing.assert_close(together[frame : frame + 1], alone, rtol=1e-4, atol=1e-5)


def test_an_empty_cloud_trains_without_nan():
    spec = _spec(RESIDUAL)
    module = build(spec)
    output = module(voxel_batch([np.zeros((0, 5), np.float32)] * 2, spec.grid, spec.encoder))
    sum(map_.square().mean() for map_ in output.heads[0] if map_ is not None).backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)
    assert all(bool(buffer.isfinite().all()) for buffer in module.buffers())


def test_gradients_reach_every_parameter():
    spec = _spec(RESIDUAL)
    module = build(spec)
    output = module(voxel_batch(_clouds(), spec.grid, spec.encoder))
    sum(map_.square().sum() for map_ in output.heads[0] if map_ is not None).backward()
    for name, parameter in module.encoder.named_parameters():
        # A bias before a norm in training mode moves nothing.
        assert parameter.grad is not None, name
        assert name.endswith("conv.bias") or float(parameter.grad.abs().max()) > 0, name


def test_folding_and_packing_change_nothing_but_rounding():
    torch.manual_seed(2)
    spec = _spec(RESIDUAL)
    module = _random_norms(build(spec))
    batch = voxel_batch(_clouds(1), spec.grid, spec.encoder)
    inputs = (batch.features, *batch.tables, batch.cells)
    with torch.no_grad():
        wanted = module.forward_tensors(*inputs)
        for twin in (folded(module), packed(module)):
            for one, other in zip(twin.forward_tensors(*inputs), wanted, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_batch_survives_the_way_through_named_arrays():
    spec = _spec(RESIDUAL)
    batch = voxel_batch(_clouds(1), spec.grid, spec.encoder)
    again = VoxelBatch.from_feeds(batch.feeds(spec.encoder), spec.encoder)
    assert list(batch.feeds(spec.encoder)) == ["features", *spec.encoder.tables, "cells"]
    assert all(torch.equal(one, other) for one, other in zip(batch.tables, again.tables, strict=True))


PARAMETERS = {
    "waymo-centerpoint-voxel": (2_695_312, 4_576_768, 486_731),
    "waymo-centerpoint-voxel-s": (2_695_312, 1_219_328, 123_563),
    "waymo-centerpoint-voxel-xs": (1_517_196, 1_182_464, 123_563),
    "waymo-centerpoint-voxel-xxs": (675_272, 305_536, 31_835),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_built_networks_have_sparsekds_parameters_and_those_of_the_cost(name):
    module = build(preset(name))
    parts = tuple(
        sum(parameter.numel() for parameter in part.parameters())
        for part in (module.encoder, module.backbone, module.head)
    )
    assert parts == PARAMETERS[name]
    stats = SparseStats((1.0,) * 5, (1.0,) * 4, (1.0,) * 4)
    assert cost(module.spec, stats).params == sum(parts)
    assert module.spec.output_grid.nx == 188


@pytest.mark.parametrize(
    ("name", "expected"),
    [("kitti-second", 5_325_576), ("kitti-second-a", 1_601_960), ("kitti-second-b", 1_342_824)],
)
def test_built_seconds_have_the_published_parameters_and_those_of_the_cost(name, expected):
    spec = preset(name)
    found = sum(part.numel() for part in build(spec).parameters())
    assert found == expected
    assert cost(spec, SparseStats((0,) * 5, (0,) * 4, (0,) * 4)).params == expected
