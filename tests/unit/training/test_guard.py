import pytest
import torch
from torch import nn

from kd3d.errors import NonFiniteError
from kd3d.training.guard import MAX_SKIPPED, SkipCounter, check_gradient, check_terms


def test_finite_terms_come_back_as_numbers():
    assert check_terms({"a": torch.tensor(1.5), "b": torch.tensor(0.0)}, step=1, tokens=["t"]) == {"a": 1.5, "b": 0.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_term_is_named_with_step_and_frames(value):
    with pytest.raises(
        NonFiniteError, match=r"step 12: loss box=-?(nan|inf) on frames frame-a, frame-b\. .*checkpoint"
    ):
        check_terms({"hm": torch.tensor(1.0), "box": torch.tensor(value)}, step=12, tokens=["frame-a", "frame-b"])


def test_a_bad_gradient_names_its_parameter():
    module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    module[1].bias.grad = torch.tensor([float("nan")])
    module[0].bias.grad = torch.tensor([1.0])
    check_gradient(1.0, module.named_parameters(), step=3, tokens=["t"])
    with pytest.raises(NonFiniteError, match=r"step 3: gradient not finite in 1\.bias, on frames t"):
        check_gradient(float("nan"), module.named_parameters(), step=3, tokens=["t"])


def test_a_few_skipped_fp16_steps_are_fine_and_many_in_a_row_are_not():
    counter = SkipCounter()
    for step in range(MAX_SKIPPED):
        counter.saw(skipped=True, step=step, tokens=["t"])
    counter.saw(skipped=False, step=99, tokens=["t"])
    for step in range(MAX_SKIPPED):
        counter.saw(skipped=True, step=step, tokens=["t"])
    with pytest.raises(NonFiniteError, match=r"fp16 steps in a row overflowed, last on frames t. Use precision bf16"):
        counter.saw(skipped=True, step=100, tokens=["t"])
