import pytest
import torch

from kd3d.training.schedule import adamw, one_cycle, set_step
from kd3d.training.settings import TrainSettings


def cycle(steps=1001, **changes):
    settings = TrainSettings(steps=steps, **changes)
    return one_cycle(settings, steps)


def test_the_schedule_is_the_published_one():
    # Check C12 of the SparseKD recipe: 3e-4, 3e-3 at 40 %, 3e-8; momentum .95, .85, .95.
    schedule = cycle()
    for step, lr, momentum in [(0, 3e-4, 0.95), (400, 3e-3, 0.85), (1000, 3e-8, 0.95)]:
        assert schedule.at(step) == (pytest.approx(lr, rel=0.01), pytest.approx(momentum, rel=0.01))


def test_the_rate_rises_then_falls_and_momentum_mirrors_it():
    rates, momenta = zip(*[cycle().at(step) for step in range(1001)], strict=True)
    assert list(rates[:401]) == sorted(rates[:401])
    assert list(rates[400:]) == sorted(rates[400:], reverse=True)
    assert list(momenta[:401]) == sorted(momenta[:401], reverse=True)
    assert list(momenta[400:]) == sorted(momenta[400:])


def test_halfway_up_is_the_cosine_midpoint():
    assert cycle().at(200)[0] == pytest.approx((3e-4 + 3e-3) / 2, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("pct_start", [0.0, 0.4])
def test_very_short_runs_have_a_finite_schedule(steps, pct_start):
    for step in range(steps):
        lr, momentum = cycle(steps, pct_start=pct_start).at(step)
        assert 0 < lr <= 3e-3
        assert 0.84 < momentum < 0.96


def test_the_optimiser_gets_the_rate_and_momentum_of_its_step():
    settings = TrainSettings(steps=1001)
    optimiser = adamw([torch.nn.Parameter(torch.zeros(2))], settings)
    set_step(optimiser, one_cycle(settings, 1001), 400)
    group = optimiser.param_groups[0]
    assert group["lr"] == pytest.approx(3e-3, rel=1e-3)
    assert group["betas"] == (pytest.approx(0.85, rel=1e-3), 0.99)
    assert group["weight_decay"] == 0.01
