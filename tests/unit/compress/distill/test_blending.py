"""Gradient blending in the training step; properties P1 ... of its specification are named where they are tested."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kd3d.errors import NonFiniteError, UsageError

sys.path.insert(0, str(Path(__file__).parent))

from blend_toy import EXACT, Toy, batch, flat, gradients, net, part, stepper

from kd3d.compress.distill.blend_state import MAX_DROPPED
from kd3d.compress.distill.blending import GradientBlend
from kd3d.compress.distill.gradients import gram

SHARED = ("backbone.first.weight", "backbone.first.bias", "backbone.second.weight", "backbone.second.bias",
          "head.weight", "head.bias")  # fmt: skip
ALONE = ("alone.weight", "alone.bias")
MODES = ("params", "cut", "interval", "auto")


def of_the_task(frames=None):
    found, _, _ = gradients(Toy(scales=(0.0, 0.0)), [frames or batch()])
    return found


@pytest.mark.parametrize("terms", ["separate", "joint"])
@pytest.mark.parametrize("c", [1e-6, 1e-3, 7.3, 1e6])
def test_scaling_all_distillation_losses_changes_nothing(c, terms):
    """P1."""
    config = replace(EXACT, terms=terms)
    one, _, _ = gradients(Toy(config), [batch()])
    other, _, _ = gradients(Toy(config, scales=(c, c)), [batch()])
    torch.testing.assert_close(flat(other), flat(one), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", ["params", "cut"])
def test_separate_terms_do_not_depend_on_the_weights_between_them_to_the_last_bit(mode):
    """P1."""
    config = replace(EXACT, mode=mode)
    one, _, _ = gradients(Toy(config), [batch()])
    other, _, _ = gradients(Toy(config, scales=(2.0**-9, 2.0**7)), [batch()])
    assert torch.equal(flat(one), flat(other))
    joint, _, _ = gradients(Toy(replace(config, terms="joint"), scales=(2.0**-9, 2.0**7)), [batch()])
    assert not torch.allclose(flat(joint), flat(one))


def test_the_step_keeps_the_tasks_length_and_its_direction_within_45_degrees():
    """P3 and P4."""
    task = of_the_task()
    found, report, _ = gradients(Toy(EXACT), [batch()])
    step, alone = flat(found, SHARED), flat(task, SHARED)
    assert float(step.norm() / alone.norm()) == pytest.approx(1, abs=1e-6)
    angle = math.degrees(math.acos(float(step @ alone / step.norm() / alone.norm())))
    assert angle == pytest.approx(report.blend["psi_deg"], abs=1e-3)
    assert 0 < angle <= 45.001
    assert report.blend["task_norm"] == pytest.approx(float(alone.norm()), rel=1e-6)


@pytest.mark.parametrize("mode", ["params", "cut"])
def test_parameters_of_the_task_alone_get_its_gradient_and_adapters_the_teachers_at_the_tasks_length(mode):
    """P19."""
    task = of_the_task()
    found, _, _ = gradients(Toy(replace(EXACT, mode=mode)), [batch()])
    if mode == "params":  # below a cut the head's own gradient is of the same loss, too
        assert all(torch.equal(found[name], task[name]) for name in ALONE)
    assert float(flat(found, ["adapters.0.weight"]).norm()) > 0
    other, _, _ = gradients(Toy(replace(EXACT, mode=mode), scales=(1.0, 64.0)), [batch()])
    assert torch.equal(other["adapters.0.weight"], found["adapters.0.weight"])


def test_a_student_that_has_nothing_to_learn_steps_as_without_a_teacher():
    """P6."""
    task = of_the_task()
    for mode in MODES:
        found, report, _ = gradients(Toy(replace(EXACT, mode=mode), scales=(0.0, 0.0)), [batch()])
        assert report.blend["taught"] == 0
        assert all(torch.equal(found[name], task[name]) for name in (*SHARED, *ALONE)), mode


def test_without_a_blend_the_step_is_the_plain_sum():
    found, report, _ = gradients(Toy(), [batch()])
    again = net()
    terms = Toy()(again, batch())
    torch.stack([term.weight * term.sum / term.mass for term in terms]).sum().backward()
    assert report.blend == {}
    assert all(torch.equal(found[name], p.grad) for name, p in again.named_parameters())


def test_how_parameters_are_split_into_tensors_does_not_matter():
    """P12."""
    generator = torch.Generator().manual_seed(0)
    task, taught = torch.randn(2, 1000, generator=generator)
    whole = gram({"task": [task], "kd": [taught]}, [0])
    cut = {"task": list(task.split(77)), "kd": list(taught.split(77))}
    turned = {name: rows[::-1] for name, rows in cut.items()}
    for other in (cut, turned):
        torch.testing.assert_close(gram(other, range(len(cut["task"]))), whole, rtol=1e-12, atol=0)
    expected = torch.stack([task, taught]).double()
    torch.testing.assert_close(whole, expected @ expected.T)


@pytest.mark.parametrize("mode", ["params", "cut"])
def test_the_loss_scale_of_mixed_precision_does_not_matter(mode):
    """P15."""
    plain, _, plain_state = gradients(Toy(replace(EXACT, mode=mode)), [batch()])
    for scale in (1.0, 2.0**10, 2.0**16):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        found, _, state = gradients(Toy(replace(EXACT, mode=mode)), [batch()], scaler=scaler)
        assert torch.equal(flat(found), flat(plain))
        assert state.adapters[1].reference == plain_state.adapters[1].reference


def test_four_micro_batches_step_like_one_batch():
    """P16."""
    whole = batch(count=8)
    parts = [part(whole, slice(0, 1)), part(whole, slice(1, 4)), part(whole, slice(4, 6)), part(whole, slice(6, 8))]
    one, report, _ = gradients(Toy(EXACT), [whole])
    four, split, _ = gradients(Toy(EXACT), parts)
    torch.testing.assert_close(flat(four), flat(one), rtol=1e-5, atol=1e-7)
    assert split.terms == pytest.approx(report.terms, rel=1e-5)


def test_a_single_linear_trunk_and_one_frame_have_the_same_weights_at_the_cut():
    """P17."""
    made = {}
    for mode in ("params", "cut"):
        objective = Toy(replace(EXACT, mode=mode), tap="wide neck", signals=("kd.features",))
        found, report, _ = gradients(objective, [batch(count=1)], net(levels=0))
        made[mode] = report.blend["phi_deg"], report.blend["weight.kd.features"], found["backbone.first.weight"]
    assert made["cut"][:2] == pytest.approx(made["params"][:2], rel=1e-5)
    torch.testing.assert_close(made["cut"][2], made["params"][2], rtol=1e-5, atol=1e-7)


def test_the_cut_agrees_with_the_exact_mode_in_direction():
    """P17."""
    exact, _, _ = gradients(Toy(EXACT), [batch()])
    near, report, _ = gradients(Toy(replace(EXACT, mode="cut")), [batch()])
    step, other = flat(exact), flat(near)
    assert float(step @ other / step.norm() / other.norm()) > 0.8
    assert 0 < report.blend["psi_deg"] <= 45


def test_auto_cuts_where_it_can_and_the_mode_cut_says_why_it_cannot():
    for objective, frames, cuts in (
        (Toy(replace(EXACT, mode="auto")), [batch()], True),
        (Toy(replace(EXACT, mode="auto"), tap="level"), [batch()], False),
        (Toy(replace(EXACT, mode="auto")), [batch(), batch(1)], False),
    ):
        gradients(objective, frames)
        assert objective.blend.cuts is cuts
    with pytest.raises(UsageError, match=r"kd.features reads maps upstream of the neck; the .* Use .* params"):
        gradients(Toy(replace(EXACT, mode="cut"), tap="level"), [batch()])
    with pytest.raises(UsageError, match="a step has several micro-batches"):
        gradients(Toy(replace(EXACT, mode="cut")), [batch(), batch(1)])
    with pytest.raises(UsageError, match=r"whose neck could be cut; .* whose levels could be cut"):
        module = net()
        module.backbone, module.trunk = None, module.backbone
        gradients(Toy(replace(EXACT, mode="cut")), [batch()], module)
    with pytest.raises(UsageError, match="nothing upstream of the neck learns"):
        module = net()
        module.backbone.requires_grad_(False)
        gradients(Toy(replace(EXACT, mode="cut")), [batch()], module)


@pytest.mark.parametrize("mode", MODES)
def test_an_objective_that_is_used_for_a_second_network_steps_as_a_new_one_does(mode):
    """Or the cut would stay in the first network, and the second one's trunk would learn nothing."""
    used, fresh = (Toy(replace(EXACT, mode=mode)) for _ in range(2))
    gradients(used, [batch()])
    used.adapter.load_state_dict(fresh.adapter.state_dict())  # its first step moved it
    again, report, _ = gradients(used, [batch()])
    expected, _, _ = gradients(fresh, [batch()])
    assert report.blend["taught"] == 2.0
    for name, gradient in expected.items():
        torch.testing.assert_close(again[name], gradient)


def test_a_forward_pass_that_avoids_the_cut_is_refused():
    class Around(Toy):
        def __call__(self, module, frames):
            first = self.blend.place is None  # while the place is looked for
            return super().__call__(module if first else module.forward_without_hooks, frames)

    module = net()

    def without_hooks(x):
        levels, neck = module.backbone.forward(x)
        return levels[0], neck, module.head(neck), module.alone(neck)

    module.forward_without_hooks = without_hooks
    with pytest.raises(UsageError, match=r"avoids the neck, where gradients are to be compared: .* mode params"):
        gradients(Around(replace(EXACT, mode="cut")), [batch()], module)


def test_between_refreshes_the_last_weights_are_kept_and_the_length_is_bounded():
    made, state = stepper(Toy(replace(EXACT, mode="interval", interval=3)), net())
    reports = [made.step([batch(i)]) for i in range(7)]
    assert ["phi_deg" in report.blend for report in reports] == [True, False, False, True, False, False, True]
    assert all(report.blend["shortened"] in (0.0, 1.0) for report in reports if "phi_deg" not in report.blend)
    state.adapters[1].reference.fill_(1e-3)
    state.step = 1
    made.step([batch()])
    inner = torch.cat([p.grad.flatten() for p in state.module.parameters()])
    assert float(inner.norm()) == pytest.approx(1.5e-3, rel=1e-4)


def test_a_signal_that_is_not_finite_is_left_out_named_and_stops_the_run_in_the_end():
    made, state = stepper(Toy(EXACT, spoil="kd.head"), net())
    with pytest.warns(UserWarning, match=r"step 0: the gradient of kd.head is not finite on frames f0, .* after 50"):
        report = made.step([batch()])
    assert report.blend["taught"] == 1
    assert math.isnan(report.terms["kd.head"])
    assert all(torch.isfinite(p).all() for p in state.module.parameters())
    for _ in range(MAX_DROPPED - 2):
        made.step([batch()])
    with pytest.raises(NonFiniteError, match=r"the gradient of kd.head was not finite in 50 steps in a row"):
        made.step([batch()])


def test_in_half_precision_an_overflowing_signal_first_lowers_the_loss_scale():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    made, state = stepper(Toy(EXACT, spoil="kd.head"), net(), scaler=scaler)
    before = flat(dict(state.module.named_parameters())).detach()
    for _ in range(10):
        made.step([batch()])
    assert scaler.get_scale() == 2.0**6
    assert torch.equal(flat(dict(state.module.named_parameters())).detach(), before)
    with pytest.warns(UserWarning, match="the gradient of kd.head is not finite"):
        made.step([batch()])
    assert not torch.equal(flat(dict(state.module.named_parameters())).detach(), before)


def test_a_task_loss_that_is_not_finite_stops_the_run_as_ever():
    made, state = stepper(Toy(EXACT, spoil="task0.box"), net())
    with pytest.raises(NonFiniteError, match=r"loss task0.box=nan on frames f0"):
        made.step([batch()])
    assert state.step == 0


def test_without_a_task_all_signals_count_alike_and_the_usual_length_is_kept():
    objective = Toy(EXACT)
    made, state = stepper(objective, net())
    made.step([batch()])
    usual = float(state.adapters[1].reference)
    objective.task = False
    made.step([batch()])
    found = dict(state.module.named_parameters()) | dict(objective.adapters.named_parameters())
    reached = [p.grad.flatten() for p in found.values() if p.grad is not None]
    assert float(torch.cat(reached).norm()) == pytest.approx(usual, rel=1e-5)
    assert found["alone.weight"].grad is None
    fresh, _, _ = gradients(Toy(EXACT, task=False), [batch()])
    assert float(flat({n: g for n, g in fresh.items() if g is not None}).norm()) == pytest.approx(1, rel=1e-5)


def test_what_it_remembers_is_part_of_the_training_checkpoint():
    made, state = stepper(Toy(replace(EXACT, mode="interval")), net())
    made.step([batch()])
    kept = state.adapters.state_dict()
    assert kept["1.reference"] > 0
    assert len(kept["1.weights"]) == 2
    assert bool(kept["1.known"])


def test_an_opposing_teacher_is_reported():
    objective = Toy(EXACT)
    made, _ = stepper(objective, net())
    made.step([batch()])
    objective.blend.state.seen.fill_(499)
    objective.blend.state.gated.fill_(150)
    with pytest.warns(UserWarning, match="opposed the task's in 30% of the last steps"):
        made.step([batch()])
    assert int(objective.blend.state.seen) == 0


def test_nothing_to_blend_is_refused():
    with pytest.raises(UsageError, match="at least one distillation signal"):
        GradientBlend(EXACT, ())

    class Apart(Toy):
        def __call__(self, module, frames):
            terms = super().__call__(module, frames)
            for term in terms[1:]:
                term.sum = term.sum.detach()
            return terms

    with pytest.raises(UsageError, match=r"no parameter of the student learns from kd.head, kd.features"):
        gradients(Apart(EXACT), [batch()])


@pytest.mark.slow
def test_two_processes_step_like_one_with_the_joined_batch_and_agree_on_what_is_not_finite(tmp_path):
    """P14 and P18, with forward passes through ``DistributedDataParallel`` outside of ``no_sync`` and inside."""
    script = Path(__file__).with_name("blend_ranks.py")
    workers = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for mode in MODES:
        alone, report, _ = gradients(Toy(replace(EXACT, mode=mode)), [batch(count=8)])
        for name, gradient in alone.items():
            torch.testing.assert_close(first[mode][name], gradient, rtol=1e-5, atol=1e-6)
            assert torch.equal(first[mode][name], second[mode][name])
        assert first[f"{mode}.terms"] == pytest.approx(report.terms, rel=1e-5)
        assert all(torch.equal(first[f"{mode}.quiet"][name], found) for name, found in first[mode].items()), mode
    for bad in ("nan", "inf"):
        for mode in ("params", "cut"):
            assert first[f"{bad}.{mode}.taught"] == second[f"{bad}.{mode}.taught"] == 1.0
            assert torch.equal(first[f"{bad}.{mode}"], second[f"{bad}.{mode}"])
            assert torch.isfinite(first[f"{bad}.{mode}"]).all()
        assert f"loss task0.box={bad}" in first[f"{bad}.error"]
        assert first[f"{bad}.error"] == second[f"{bad}.error"]
        assert first[f"{bad}.between"] == second[f"{bad}.between"] == (("kd.head",), 1)
    exact, _, _ = gradients(Toy(EXACT), [batch(count=8)])
    for wrong in ("blended before they are added", "two passes through the hooks"):  # what the above would not let pass
        other = torch.cat([first[wrong][name].flatten() for name in SHARED])
        assert float((other - flat(exact, SHARED).float()).norm() / flat(exact, SHARED).norm()) > 0.01, wrong
