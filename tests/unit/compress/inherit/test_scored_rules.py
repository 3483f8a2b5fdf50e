"""Rules that look at norms and gradients, and the two arms that a rule is compared with."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kd3d.compress.inherit.apply import apply_plan
from kd3d.compress.inherit.dataflow import plan
from kd3d.compress.inherit.scored import Dice, taylor
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import DataError, NonFiniteError
from kd3d.training.batch import make_batch
from kd3d.training.objective import DetectionObjective, total

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))

SPEC = preset("world-centerpoint-pillar-tiny")
NARROW = replace(SPEC, backbone=replace(SPEC.backbone, channels=(8, 16), up_channels=(8, 8)))
FIRST = "backbone.levels.0.0"


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(3)
    module = build(SPEC)
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(part.weight)
            torch.nn.init.normal_(part.bias)
    return module.eval()


@pytest.fixture(scope="module")
def frames():
    from training_frames import memory_dataset

    return memory_dataset(3)


def test_norm_scale_keeps_the_channels_of_largest_gamma_whatever_its_sign(teacher):
    made = plan(SPEC, NARROW, "bn", teacher.state_dict())
    assert made.rule == "bn"
    gamma = teacher.state_dict()[f"{FIRST}.norm.weight"].abs()
    assert set(made.entries[f"{FIRST}.conv.weight"].indices[0]) == set(gamma.topk(8).indices.tolist())


def test_taylor_is_the_change_of_the_task_loss_when_a_channel_is_taken_away(teacher, frames):
    norm = teacher.get_submodule(f"{FIRST}.norm")
    batch = make_batch([frames[0]], SPEC)
    found = taylor(teacher, type(frames)([frames[0]])).importance[f"{FIRST}.norm"].sqrt()
    weight, bias, step = norm.weight.data.clone(), norm.bias.data.clone(), 1e-2  # smaller ones drown in float32
    objective = DetectionObjective(SPEC)
    changes = []
    for channel in range(len(weight)):
        losses = []
        for share in (1 - step, 1 + step):
            norm.weight.data[channel], norm.bias.data[channel] = weight[channel] * share, bias[channel] * share
            with torch.no_grad():
                losses.append(total(objective(teacher, batch))[0].double())
            norm.weight.data[channel], norm.bias.data[channel] = weight[channel], bias[channel]
        changes.append(abs(losses[1] - losses[0]) / (2 * step))
    torch.testing.assert_close(found, torch.stack(changes), rtol=0.1, atol=float(0.02 * found.max()))


def test_taylor_leaves_the_teacher_as_it_was_and_keeps_the_most_important(teacher, frames):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    rule = taylor(teacher, frames, batch=2)
    assert not teacher.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    made = plan(SPEC, NARROW, rule, teacher.state_dict())
    assert made.rule == "taylor"
    assert made.fresh == {}
    with pytest.raises(DataError, match="the taylor rule needs training frames"):
        taylor(teacher, type(frames)([]))


def test_a_teacher_with_a_weight_that_is_no_number_has_no_importance(teacher, frames):
    broken = copy.deepcopy(teacher)
    with torch.no_grad():
        broken.get_parameter(f"{FIRST}.norm.bias").fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"gradients are not finite .* or use the rule l1"):
        taylor(broken, frames)


def test_dice_are_seeded_and_independent_of_the_weights(teacher):
    one, again, other = (plan(SPEC, NARROW, Dice(seed), teacher.state_dict()) for seed in (1, 1, 2))
    assert one.entries == again.entries
    assert one.entries != other.entries
    chosen = one.entries[f"{FIRST}.conv.weight"].indices[0]
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == 8


def test_a_full_copy_takes_tensors_of_equal_name_and_shape_and_says_why_the_others_are_fresh(teacher):
    same = plan(SPEC, replace(SPEC, grid=replace(SPEC.grid, cell_m=3.2)), "copy", teacher.state_dict())
    assert same.fresh == {}
    made = plan(SPEC, NARROW, "copy", teacher.state_dict())
    assert made.rule == "copy"
    assert made.fresh[f"{FIRST}.conv.weight"] == "its shape is not that of the teacher's tensor of this name"
    student = build(NARROW)
    weights = apply_plan(made, student.state_dict(), teacher.state_dict())
    kept = [name for name in made if name not in made.fresh]
    assert "head.tasks.0.hm.out.weight" in kept
    assert all(torch.equal(weights[name], teacher.state_dict()[name]) for name in kept)
    deeper = replace(SPEC, backbone=replace(SPEC.backbone, layers=(3, 3)))
    extra = plan(SPEC, deeper, "copy", teacher.state_dict()).fresh
    assert "the teacher has no tensor of this name" in extra.values()
