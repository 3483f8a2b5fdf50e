import math

import pytest
import torch

from kd3d.training.losses import focal_loss, gather_cells, l1_loss


def naive_focal(logits, target):
    p = torch.sigmoid(logits.double())
    positive = target == 1
    found = -((1 - p) ** 2) * p.log()
    missed = -((1 - target.double()) ** 4) * p**2 * (1 - p).log()
    return torch.where(positive, found, missed).sum(), positive.sum()


def test_focal_loss_equals_the_formula_in_double_precision():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 8, 8) * 3, torch.rand(2, 3, 8, 8)
    target[0, 1, 2, 3] = target[1, 2, 5, 5] = 1.0
    want, count = naive_focal(logits, target)
    value, mass = focal_loss(logits, target)
    assert value.item() == pytest.approx(want.item(), rel=1e-5)
    assert mass.item() == count.item() == 2


def test_focal_loss_of_one_cell_by_hand():
    value, mass = focal_loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.5]]]]))
    # p = 1/2: the centre gives (1/2)^2 log 2, the other cell (1/2)^4 (1/2)^2 log 2
    assert value.item() == pytest.approx((1 / 4 + 1 / 64) * math.log(2), rel=1e-6)
    assert mass.item() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_focal_loss_and_its_gradient_are_finite_for_extreme_logits(dtype):
    logits = torch.tensor([-1e4, 1e4, -80.0, 80.0]).to(dtype).reshape(1, 1, 2, 2).requires_grad_()
    target = torch.tensor([[[[1.0, 0.0], [0.3, 1.0]]]])
    value, _ = focal_loss(logits, target)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


def test_focal_loss_is_computed_in_fp32_inside_autocast():
    logits, target = torch.randn(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = focal_loss(logits, target)
    assert torch.equal(inside, focal_loss(logits, target)[0])


def test_focal_gradient_matches_finite_differences():
    torch.manual_seed(1)
    logits, target = torch.randn(1, 2, 3, 3), torch.rand(1, 2, 3, 3)
    target[0, 0, 1, 1] = 1
    logits.requires_grad_()
    focal_loss(logits, target)[0].backward()
    exact = logits.detach().double().requires_grad_()
    naive_focal(exact, target)[0].backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


def test_a_map_without_centres_has_mass_zero_and_a_finite_loss():
    value, mass = focal_loss(torch.randn(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))
    assert mass.item() == 0
    assert value.item() > 0
    assert math.isfinite(value.item())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gathered_columns_are_those_of_the_cells(layout):
    maps = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5).to(memory_format=layout)
    cell = torch.tensor([0, 7, 20 + 19, 20 + 19])
    got = gather_cells(maps, cell)
    want = torch.stack([maps[0, :, 0, 0], maps[0, :, 1, 2], maps[1, :, 3, 4], maps[1, :, 3, 4]])
    assert torch.equal(got, want)


def test_gathering_from_no_cells_keeps_the_channels_and_the_gradient_path():
    maps = torch.randn(2, 3, 4, 5, requires_grad=True)
    got = gather_cells(maps, torch.zeros(0, dtype=torch.int64))
    assert got.shape == (0, 3)
    got.sum().backward()
    assert torch.equal(maps.grad, torch.zeros_like(maps))


def test_l1_loss_sums_codes_and_counts_objects():
    predicted = torch.tensor([[1.0, 2.0], [0.0, 5.0]])
    values, mask = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    value, mass = l1_loss(predicted, values, mask)
    assert value.item() == pytest.approx(1 + 2 + 1)
    assert mass.item() == 2
