import pytest
import torch
from torch import nn

from kd3d.training.norms import recalibrate


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, momentum=0.01), nn.ReLU(), nn.BatchNorm2d(3))


def test_recalibrated_norms_hold_the_mean_over_the_batches():
    module, batches = network(), [torch.randn(4, 2, 5, 5) * 3 + 1 for _ in range(3)]
    recalibrate(module, batches)
    maps = [module[0](batch) for batch in batches]
    mean = torch.stack([found.mean((0, 2, 3)) for found in maps]).mean(0)
    variance = torch.stack([found.var((0, 2, 3)) for found in maps]).mean(0)
    torch.testing.assert_close(module[1].running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module[1].running_var, variance, rtol=1e-4, atol=1e-5)


def test_recalibration_leaves_weights_and_momenta_and_ends_in_evaluation_mode():
    module = network().train()
    before = [parameter.clone() for parameter in module.parameters()]
    recalibrate(module, [torch.randn(4, 2, 5, 5)])
    assert not module.training
    assert [module[1].momentum, module[3].momentum] == [0.01, 0.1]
    assert all(torch.equal(one, other) for one, other in zip(before, module.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in module.parameters())


def test_recalibration_forgets_what_was_before():
    module, batch = network(), torch.randn(8, 2, 5, 5)
    module[1].running_mean.fill_(100.0)
    recalibrate(module, [batch])
    once = module[1].running_mean.clone()
    recalibrate(module, [batch])
    assert torch.equal(once, module[1].running_mean)
    assert once.abs().max() < 10


def test_without_a_batch_nothing_can_be_recalibrated():
    with pytest.raises(ValueError, match="cannot be recalibrated without a batch"):
        recalibrate(network(), [])
