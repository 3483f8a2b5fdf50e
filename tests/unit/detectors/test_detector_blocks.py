"""Scatter, encoder and folding against slow, obvious versions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.detectors.blocks import scatter_to_bev, up_branch
from kd3d.detectors.build import build
from kd3d.detectors.encoder import PillarEncoder
from kd3d.detectors.fold import folded
from kd3d.detectors.presets import preset


def shake(module: torch.nn.Module) -> torch.nn.Module:
    """Give batch norms statistics and weights as training does, negative scales included."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.3, 2, generator=generator)
            part.weight.data.uniform_(-0.5, 1.5, generator=generator)
            part.bias.data.normal_(0, 0.3, generator=generator)
    return module


def test_scatter_equals_a_loop_and_ignores_garbage_in_padding_rows():
    batch, ny, nx, channels = 2, 4, 6, 3
    generator = np.random.default_rng(0)
    cells = generator.permutation(batch * ny * nx)[:20]
    pillars = torch.from_numpy(generator.normal(size=(25, channels)).astype(np.float32))
    pillars[20:] = torch.nan
    place = torch.from_numpy(np.concatenate([cells, np.full(5, batch * ny * nx)]))
    got = scatter_to_bev(pillars, place, batch_size=batch, ny=ny, nx=nx)
    wanted = torch.zeros(batch, channels, ny, nx)
    for row, cell in enumerate(cells):
        wanted[cell // (ny * nx), :, cell % (ny * nx) // nx, cell % nx] = pillars[row]
    assert torch.equal(got, wanted)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_scatter_sends_the_gradient_of_a_cell_to_its_pillar():
    pillars = torch.randn(3, 2, requires_grad=True)
    canvas = scatter_to_bev(pillars, torch.tensor([5, 0, 6]), batch_size=1, ny=2, nx=3)
    canvas[0, :, 1, 2].sum().backward()
    assert torch.equal(pillars.grad, torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))


def padded_cloud(pillars: int, slots: int, width: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, slots + 1, (pillars,), generator=generator)
    features = torch.randn(pillars, slots, width, generator=generator)
    features[torch.arange(slots) >= counts[:, None]] = 0
    return features, counts


def by_hand(encoder: PillarEncoder, points: torch.Tensor) -> torch.Tensor:
    """One pillar, ``points [n, D]``, as the papers write it."""
    x = points
    for index, layer in enumerate(encoder.layers):
        x = torch.relu(layer.norm(x @ layer.linear.weight.T))
        highest = x.max(0).values
        if index + 1 < len(encoder.layers):
            x = torch.cat([x, highest.expand(len(x), -1)], dim=1)
    return highest


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), filters=st.sampled_from([(6,), (8, 6), (4, 8, 5)]))
def test_hard_pillars_let_zero_rows_compete_and_dynamic_ones_do_not(seed, filters):
    features, counts = padded_cloud(7, 4, 5, seed)
    for mode in ("hard", "dynamic"):
        torch.manual_seed(seed)
        encoder = shake(PillarEncoder(5, filters, mode)).eval()
        got = encoder(features, counts)
        for pillar, count in enumerate(counts):
            used = features[pillar] if mode == "hard" else features[pillar, :count]
            assert torch.allclose(got[pillar], by_hand(encoder, used), atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_flat_and_masked_forms_agree(seed):
    encoder = shake(PillarEncoder(5, (8, 6), "dynamic")).eval()
    features, counts = padded_cloud(9, 4, 5, seed)
    used = torch.arange(4) < counts[:, None]
    owner = used.nonzero()[:, 0]
    order = torch.randperm(len(owner))
    flat = encoder.forward_flat(features[used][order], owner[order], 9)
    assert torch.allclose(flat, encoder(features, counts), atol=1e-5)


def test_training_statistics_of_hard_pillars_include_the_zero_rows():
    encoder = PillarEncoder(5, (6,), "hard").train()
    features, counts = padded_cloud(6, 4, 5, 3)
    encoder(features, counts)
    mean = encoder.layers[0].linear(features.reshape(-1, 5)).mean(0)
    assert torch.allclose(encoder.layers[0].norm.running_mean, 0.01 * mean, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), filters=st.sampled_from([(6,), (8, 6)]), mode=st.sampled_from(["hard", "dynamic"]))
def test_the_maximum_of_training_has_the_values_and_weight_gradients_of_the_exported_one(seed, filters, mode):
    """Unused slots tie: ``amax`` shares their gradient, ``max`` gives it to one, and the weights see no difference."""
    features, counts = padded_cloud(40, 6, 5, seed)
    features[:10, 1] = features[:10, 0]  # and so do points that are there twice
    pull = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = []
    for highest in (PillarEncoder._highest, lambda self, x: x.amax(1)):
        torch.manual_seed(seed)
        encoder = shake(PillarEncoder(5, filters, mode)).double().train()
        encoder._highest = highest.__get__(encoder)
        values = encoder(features.double(), counts)
        values.backward(pull)
        found.append((values, *(parameter.grad for parameter in encoder.parameters())))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.allclose(one, other, atol=1e-9) for one, other in zip(*found, strict=True))


def test_no_pillars_are_no_error_in_evaluation():
    for mode in ("hard", "dynamic"):
        encoder = PillarEncoder(5, (8, 6), mode).eval()
        assert encoder(torch.zeros(0, 4, 5), torch.zeros(0, dtype=torch.int64)).shape == (0, 6)


@pytest.mark.parametrize(("stride", "size"), [(0.5, 4), (1, 8), (2, 16), (4, 32)])
def test_up_branches_change_the_resolution_by_their_stride(stride, size):
    branch = up_branch(3, 5, stride)
    assert branch(torch.zeros(2, 3, 8, 8)).shape == (2, 5, size, size)
    assert isinstance(branch.conv, torch.nn.ConvTranspose2d) == (stride >= 1)


@pytest.mark.parametrize("name", ["world-centerpoint-pillar-tiny", "world-centerpoint-pillar-six-tasks"])
def test_folding_changes_no_map_and_leaves_the_module_alone(name):
    torch.manual_seed(0)
    module = shake(build(preset(name))).eval()
    spec = module.spec
    before = {key: value.clone() for key, value in module.state_dict().items()}
    features, counts = padded_cloud(200, spec.encoder.max_points, spec.point_inputs, 0)
    cells = torch.randperm(spec.grid.nx * spec.grid.ny)[:200]
    twin = folded(module)
    with torch.no_grad():
        pairs = zip(
            module.forward_tensors(features, counts, cells), twin.forward_tensors(features, counts, cells), strict=True
        )
        for wanted, got in pairs:
            assert torch.allclose(wanted, got, atol=1e-4 * max(1, float(wanted.abs().max())))
    assert not any(isinstance(part, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)) for part in twin.modules())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
