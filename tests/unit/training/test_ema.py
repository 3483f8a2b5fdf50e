import pytest
import torch
from torch import nn

from kd3d.training.ema import Ema


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def test_average_follows_weights_and_normalisation_statistics_with_warm_up():
    module = network()
    ema = Ema(module, 0.999)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        for value in module.state_dict().values():
            value.add_(1)
    ema.update(0)
    for name, value in ema.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, before[name] + 0.9)  # decay of the first step: 1/10
        else:
            assert value == before[name] + 1


def test_decay_reaches_its_setting():
    module = network()
    ema = Ema(module, 0.5)
    with torch.no_grad():
        module[0].weight.fill_(1.0)
    ema.module[0].weight.fill_(0.0)
    ema.update(1000)
    assert ema.module[0].weight.flatten().tolist() == pytest.approx([0.5, 0.5])


def test_decay_zero_is_a_copy():
    module = network()
    ema = Ema(module, 0.0)
    with torch.no_grad():
        module[0].weight.fill_(3.0)
    ema.update(7)
    assert torch.equal(ema.module[0].weight, module[0].weight)


def test_average_still_follows_after_loading_a_state():
    module = network()
    ema = Ema(module, 0.0)
    module.load_state_dict({name: torch.ones_like(value) for name, value in module.state_dict().items()})
    ema.update(0)
    assert all(bool((value == 1).all()) for value in ema.module.state_dict().values())


def test_average_is_in_evaluation_mode_and_takes_no_gradient():
    ema = Ema(network().train(), 0.9)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
