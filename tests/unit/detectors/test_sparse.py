"""Sparse convolution against dense conv3d and against spconv."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from kd3d.detectors.sparse import KernelMap, PackedSparseConv, SparseConv, gather_product, sparse_conv, tap_matrices
from tests.support.sparse_world import at_sites, clustered_sites, random_sites, strided, submanifold, to_dense

SHAPE = (5, 9, 7)
ROUTES = ("table", "pairs")
STRIDED = [((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((3, 3, 3), (2, 2, 2), (0, 1, 1)), ((3, 1, 1), (2, 1, 1), (0, 0, 0))]


def _leaves(rows, inputs, outputs, kernel=(3, 3, 3), seed=0):
    made = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, inputs, generator=made, dtype=torch.float64).requires_grad_()
    weight = torch.randn(outputs, inputs, *kernel, generator=made, dtype=torch.float64).requires_grad_()
    return features, weight


def _gradients(out, leaves, seed=1):
    seed_of = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype)
    return torch.autograd.grad(out, leaves, seed_of, retain_graph=True)


def _same(one, other, tolerance=1e-10):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("route", ROUTES)
@given(count=st.integers(1, 200), frames=st.integers(1, 2), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_submanifold_convolution_is_a_dense_one_at_the_sites(route, count, frames, seed):
    sites = random_sites(count, SHAPE, frames=frames, seed=seed)
    features, weight = _leaves(len(sites), 3, 4, seed=seed)
    kernel_map = KernelMap(torch.from_numpy(submanifold(sites)), len(sites), True)
    got = sparse_conv(features, weight, kernel_map, route=route)
    wanted = at_sites(functional.conv3d(to_dense(features, sites, SHAPE, frames), weight, padding=1), sites)
    _same([got, *_gradients(got, (features, weight))], [wanted, *_gradients(wanted, (features, weight))])


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("kernel", "stride", "padding"), STRIDED)
def test_a_strided_convolution_is_a_dense_one_wherever_a_site_is_in_the_window(route, kernel, stride, padding):
    sites = random_sites(60, SHAPE, frames=2, seed=3)
    features, weight = _leaves(len(sites), 3, 4, kernel)
    out, table, _ = strided(sites, SHAPE, kernel, stride, padding)
    got = sparse_conv(features, weight, KernelMap(torch.from_numpy(table), len(sites), False), route=route)
    dense = functional.conv3d(to_dense(features, sites, SHAPE, 2), weight, stride=stride, padding=padding)
    wanted = at_sites(dense, out)
    assert float((dense.abs().sum() - wanted.abs().sum()).detach()) == pytest.approx(0, abs=1e-9)  # nothing is left out
    _same([got, *_gradients(got, (features, weight))], [wanted, *_gradients(wanted, (features, weight))])


def test_a_graph_can_be_walked_backward_twice():
    sites = random_sites(40, SHAPE)
    features, weight = _leaves(len(sites), 2, 3)
    out = sparse_conv(features, weight, KernelMap(torch.from_numpy(submanifold(sites)), len(sites), True))
    _same(_gradients(out, (features, weight)), _gradients(out, (features, weight)), 0)


def test_frozen_features_and_frozen_weights_get_no_gradient():
    sites = random_sites(40, SHAPE)
    kernel_map = KernelMap(torch.from_numpy(submanifold(sites)), len(sites), True)
    for route in ROUTES:
        features, weight = _leaves(len(sites), 2, 3)
        (only,) = torch.autograd.grad(sparse_conv(features.detach(), weight, kernel_map, route=route).sum(), weight)
        (other,) = torch.autograd.grad(sparse_conv(features, weight.detach(), kernel_map, route=route).sum(), features)
        assert only.shape == weight.shape
        assert other.shape == features.shape


def test_sites_without_any_neighbour_still_meet_the_centre_of_the_kernel():
    sites = np.array([[0, 0, 0, 0], [0, 4, 8, 6]], np.int32)
    features, weight = _leaves(2, 3, 4)
    kernel_map = KernelMap(torch.from_numpy(submanifold(sites)), 2, True)
    for route in ROUTES:
        torch.testing.assert_close(
            sparse_conv(features, weight, kernel_map, route=route), features @ weight[:, :, 1, 1, 1].t()
        )


def test_a_large_table_is_gathered_in_blocks_with_the_same_result(monkeypatch):
    sites = random_sites(150, SHAPE)
    features, weight = _leaves(len(sites), 3, 4)
    kernel_map = KernelMap(torch.from_numpy(submanifold(sites)), len(sites), True)
    whole = sparse_conv(features, weight, kernel_map, route="table")
    monkeypatch.setattr("kd3d.detectors.sparse._CHUNK_ELEMENTS", 27 * 3 * 40)
    parts = sparse_conv(features, weight, kernel_map, route="table")
    _same([parts, *_gradients(parts, (features, weight))], [whole, *_gradients(whole, (features, weight))])


def test_backward_stores_features_and_weights_only():
    sites = random_sites(150, SHAPE)
    features, weight = _leaves(len(sites), 3, 4)
    kernel_map = KernelMap(torch.from_numpy(submanifold(sites)), len(sites), True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        sparse_conv(features, weight, kernel_map)
    assert sorted(kept) == sorted([features.numel(), weight.numel()])


def test_the_packed_convolution_of_an_export_gives_the_same():
    torch.manual_seed(0)
    sites = random_sites(80, SHAPE)
    kernel_map = KernelMap(torch.from_numpy(submanifold(sites)), len(sites), True)
    conv = SparseConv(3, 4, bias=True)
    features = torch.randn(len(sites), 3)
    torch.testing.assert_close(PackedSparseConv(conv)(features, kernel_map), conv(features, kernel_map))
    matrix = tap_matrices(conv.weight).flatten(0, 1)
    torch.testing.assert_close(
        gather_product(features, kernel_map.table, matrix), sparse_conv(features, conv.weight, kernel_map)
    )


def test_initial_weights_are_those_of_a_dense_convolution():
    torch.manual_seed(5)
    sparse = SparseConv(4, 8, bias=True)
    torch.manual_seed(5)
    dense = torch.nn.Conv3d(4, 8, 3)
    assert torch.equal(sparse.weight, dense.weight.flatten(2))
    assert torch.equal(sparse.bias, dense.bias)


@pytest.mark.parametrize("kind", ["submanifold", "strided"])
def test_values_and_gradients_are_those_of_spconv(kind):
    spconv = pytest.importorskip("spconv.pytorch")
    ops = pytest.importorskip("spconv.pytorch.ops")
    threads, stream = torch.get_num_threads(), ops.get_current_stream
    torch.set_num_threads(1)  # its CPU build races with more
    ops.get_current_stream = lambda: 0  # asks CUDA for a stream otherwise
    try:
        _compare_with_spconv(spconv, kind)
    finally:
        ops.get_current_stream = stream
        torch.set_num_threads(threads)


def _compare_with_spconv(spconv, kind):
    shape = (21, 120, 120)
    sites = clustered_sites(6000, shape)
    features = torch.randn(len(sites), 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    theirs = (spconv.SubMConv3d if kind == "submanifold" else spconv.SparseConv3d)(
        8, 12, 3, stride=1 if kind == "submanifold" else 2, padding=1, bias=False, algo=spconv.ConvAlgo.Native
    )
    wanted = theirs(spconv.SparseConvTensor(features, torch.from_numpy(sites), shape, 1))
    order = np.lexsort(wanted.indices.numpy().T[::-1])
    weight = theirs.weight.detach().permute(0, 4, 1, 2, 3).contiguous().requires_grad_()
    if kind == "submanifold":
        out, table = sites, submanifold(sites)
    else:
        out, table, _ = strided(sites, shape, (3, 3, 3), (2, 2, 2), (1, 1, 1))
    assert np.array_equal(wanted.indices.numpy()[order], out[np.lexsort(out.T[::-1])])
    got = sparse_conv(features, weight, KernelMap(torch.from_numpy(table), len(sites), kind == "submanifold"))
    torch.testing.assert_close(got, wanted.features[order], rtol=0, atol=1e-4)
    seed_of = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(got, (features, weight), seed_of)
    back = torch.empty_like(seed_of)
    back[order] = seed_of
    of_features, of_weight = torch.autograd.grad(wanted.features, (features, theirs.weight), back)
    torch.testing.assert_close(ours[0], of_features, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours[1], of_weight.permute(0, 4, 1, 2, 3), rtol=1e-4, atol=1e-3)
