"""Active sites and kernel maps against dense convolutions of the occupancy, and the errors of the statistics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv3d

from kd3d.compress.search.cost import PillarStats, SparseStats, cost
from kd3d.compress.search.sparse_sites import (
    count_sites,
    measure_sparse,
    measure_sparse_samples,
    strided_map,
    submanifold_pairs,
)
from kd3d.datasets.sample import Sample
from kd3d.detectors.presets import preset
from kd3d.errors import DataError, SpecError, UsageError
from kd3d.geometry.grid import BevGrid
from kd3d.spec import from_json, to_json

VOXELS = "waymo-centerpoint-voxel"


def small(**changes):
    """The published backbone on 64 x 64 x 40 voxels."""
    spec = preset(VOXELS)
    encoder = replace(spec.encoder, **changes)
    return replace(spec, grid=BevGrid(-3.2, -3.2, -2, 3.2, 3.2, 4, 0.1), encoder=encoder)


def occupancy(at, shape):
    dense = torch.zeros(1, 1, *shape, dtype=torch.float64)
    dense[0, 0, at[:, 0], at[:, 1], at[:, 2]] = 1
    return dense


@st.composite
def sites(draw):
    shape = draw(st.tuples(*[st.integers(3, 9)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    filled = rng.random(shape) < draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    return rng.permutation(np.argwhere(filled)), shape


@settings(max_examples=60, deadline=None)
@given(sites())
def test_submanifold_pairs_are_those_of_a_dense_convolution(drawn):
    at, shape = drawn
    dense = occupancy(at, shape)
    taps = conv3d(dense, torch.ones(1, 1, 3, 3, 3, dtype=torch.float64), padding=1)
    assert submanifold_pairs(at, shape) == int((taps * dense).sum())


@settings(max_examples=60, deadline=None)
@given(sites(), st.sampled_from([((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((3, 3, 3), (2, 2, 2), (0, 1, 1)),
                                 ((3, 1, 1), (2, 1, 1), (0, 0, 0))]))  # fmt: skip
def test_strided_sites_and_pairs_are_those_of_a_dense_convolution(drawn, layer):
    at, shape = drawn
    kernel, stride, padding = layer
    taps = conv3d(occupancy(at, shape), torch.ones(1, 1, *kernel, dtype=torch.float64), stride=stride, padding=padding)
    found, out, pairs = strided_map(at, shape, kernel=kernel, stride=stride, padding=padding)
    assert out == tuple(taps.shape[2:])
    assert pairs == int(taps.sum())
    assert sorted(map(tuple, found)) == sorted(map(tuple, torch.nonzero(taps[0, 0]).numpy()))


def cloud(points, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform((-4, -4, -3, 0, 0), (4, 4, 5, 1, 1), (points, 5)).astype(np.float32)


def test_a_cloud_gives_its_voxels_inside_the_range_and_shrinking_stages():
    spec, points = small(), cloud(3000)
    inside = (np.abs(points[:, :2]) < 3.2).all(axis=1) & (points[:, 2] >= -2) & (points[:, 2] < 4)
    voxels = {tuple(row) for row in np.floor((points[inside, :3] - [-3.2, -3.2, -2]) / [0.1, 0.1, 0.15]).astype(int)}
    found = count_sites(points, spec)
    assert found.sites[0] == pytest.approx(len(voxels), abs=2)  # float32 at the edges of voxels
    assert found.points == inside.sum()
    assert len(found.sites) == 5
    assert found.sites[-1] <= 2 * 8 * 8
    assert found.sites[3] <= 5 * 8 * 8


def test_the_cap_keeps_the_voxels_of_the_first_points_and_the_first_points_of_each():
    spec = small(max_voxels=2, max_points=1)
    points = np.array([[0.05, 0.05, 0, 0, 0]] * 3 + [[1, 1, 1, 0, 0], [-1, -1, 1, 0, 0]], np.float32)
    found = count_sites(points, spec)
    assert (found.sites[0], found.points) == (2, 2)


def test_an_empty_cloud_has_no_sites_and_costs_only_its_dense_part():
    found = count_sites(np.zeros((0, 5), np.float32), small())
    assert found == SparseStats((0,) * 5, (0,) * 4, (0,) * 4, 0)
    assert sum(stage.macs for stage in cost(small(), found).stages if stage.name.startswith("voxel")) == 0


def sample(points):
    names = ("x", "y", "z", "intensity", "elongation")
    return Sample("t", points, names, None, ("car",))


def test_statistics_are_means_over_frames_and_survive_json():
    spec = small()
    ones = [count_sites(cloud(500, seed), spec) for seed in (1, 2)]
    found = measure_sparse_samples([sample(cloud(500, seed)) for seed in (1, 2)], spec)
    assert found.sites == pytest.approx(np.mean([one.sites for one in ones], axis=0))
    assert found.submanifold_pairs == pytest.approx(np.mean([one.submanifold_pairs for one in ones], axis=0))
    assert found.strided_pairs == pytest.approx(np.mean([one.strided_pairs for one in ones], axis=0))
    assert from_json(SparseStats, to_json(found)) == found


def test_statistics_of_the_wrong_kind_are_refused():
    with pytest.raises(UsageError, match=r"the cost of waymo-centerpoint-voxel needs SparseStats; .* are of pillars"):
        cost(preset(VOXELS), PillarStats(1, 1))
    with pytest.raises(UsageError, match=r"the cost of waymo-centerpoint-pillar needs PillarStats; .* are of voxels"):
        cost(preset("waymo-centerpoint-pillar"), SparseStats((0, 0), (0,), (0,)))
    with pytest.raises(SpecError, match="the statistics are of 1 sparse stages, the encoder has 4"):
        cost(preset(VOXELS), SparseStats((0, 0), (0,), (0,)))
    with pytest.raises(SpecError, match=r"one more entry in sites .* got 2, 2 and 2"):
        SparseStats((0, 0), (0, 0), (0, 0))
    with pytest.raises(UsageError, match="has pillars; sparse statistics are of voxel encoders"):
        count_sites(cloud(5), preset("waymo-centerpoint-pillar"))
    with pytest.raises(
        SpecError, match="waymo-centerpoint-voxel has a voxel encoder, but this works with pillars only"
    ):
        PillarStats.full(preset(VOXELS))


def test_an_empty_data_set_cannot_be_measured():
    with pytest.raises(DataError, match="no frames"):
        measure_sparse([], preset(VOXELS))


def test_the_voxels_of_real_kitti_frames_are_like_those_stored_with_the_preset(shared_data):
    from kd3d.compress.search.published import KITTI_VOXELS
    from kd3d.datasets.open import open_dataset

    dataset = open_dataset(shared_data / "kitti", split="train", sweeps=0)
    found = measure_sparse(dataset, preset("kitti-second"), n=4)  # the stored ones are of all 20
    assert found.sites == pytest.approx(KITTI_VOXELS.sites, rel=0.25)
    assert found.submanifold_pairs == pytest.approx(KITTI_VOXELS.submanifold_pairs, rel=0.25)


@pytest.mark.slow
def test_the_stored_voxels_of_kitti_are_the_means_of_its_twenty_frames(shared_data):
    from kd3d.compress.search.published import KITTI_VOXELS
    from kd3d.datasets.open import open_dataset

    dataset = open_dataset(shared_data / "kitti", split="train", sweeps=0)
    found = measure_sparse(dataset, preset("kitti-second"), n=20)
    for name in ("sites", "submanifold_pairs", "strided_pairs", "points"):
        assert getattr(found, name) == pytest.approx(getattr(KITTI_VOXELS, name), rel=1e-4)
