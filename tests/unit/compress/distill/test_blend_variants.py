"""Variants and special cases of gradient blending: blocks, learning rates, smoothing, opposed and failing teachers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from blend_toy import EXACT, Toy, batch, flat, gradients, net, stepper
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.compress.distill.blend_state import BlendState
from kd3d.compress.distill.coefs import BlendSettings, Geometry, coefs, smoothed_coefs
from kd3d.compress.distill.combining import block_of
from kd3d.compress.distill.gradients import gram
from kd3d.errors import NonFiniteError, UsageError
from kd3d.training.guard import MAX_FAILED
from kd3d.training.objective import Term
from kd3d.training.schedule import grouped
from kd3d.training.settings import TrainSettings

BLOCKS = {
    "backbone": [f"backbone.{layer}.{kind}" for layer in ("first", "second") for kind in ("weight", "bias")],
    "head": ["head.weight", "head.bias"],
}
SHARED = [name for names in BLOCKS.values() for name in names]


def task_alone():
    return gradients(Toy(scales=(0.0, 0.0)), [batch()])[0]


def turned(found, task, names):
    step, alone = flat(found, names), flat(task, names)
    cosine = float(step @ alone / step.norm() / alone.norm())
    return float(step.norm() / alone.norm()), math.degrees(math.acos(min(1.0, cosine)))


class Mirror(Toy):
    """The teacher's loss is the task's on the shared weights, times ``factor``; the adapter learns beside it."""

    def __init__(self, blend, factor):
        super().__init__(blend, signals=("kd.head",))
        self.factor = factor

    def __call__(self, module, frames):
        terms = super().__call__(module, frames)
        _, _, head, alone = module(frames.x)
        beside = (self.adapter(module(frames.x)[1].detach()) - frames.t).square().sum()
        mirrored = self.factor * (head - frames.y[:, :3]).square().sum() + beside
        task = (torch.cat([head, alone.detach()], 1) - frames.y).square().sum()
        task = task + (alone - frames.y[:, 3:]).square().sum() * 0
        return [Term("task0.box", task, terms[0].mass, 1.0), Term("kd.head", mirrored, terms[0].mass, 1.0)]


def test_a_teacher_that_opposes_the_task_changes_no_bit_of_the_step_but_teaches_its_adapters():
    """P8; and P20: adapters get the teacher's gradient at the task's length, whatever the angle."""
    task, _, _ = gradients(Mirror(None, 0.0), [batch()])
    found, report, _ = gradients(Mirror(EXACT, -2.0), [batch()])
    assert report.blend["gated"] == 1
    assert all(torch.equal(found[name], task[name]) for name in SHARED)
    assert float(found["adapters.0.weight"].norm()) > 0
    again, _, _ = gradients(Mirror(EXACT, -2.0 * 64), [batch()])
    assert all(torch.equal(again[name], task[name]) for name in SHARED)


def test_a_teacher_that_agrees_with_the_task_gives_the_tasks_step():
    """P7."""
    task, _, _ = gradients(Mirror(None, 0.0), [batch()])
    found, report, _ = gradients(Mirror(EXACT, 3.0), [batch()])
    assert report.blend["phi_deg"] == pytest.approx(0, abs=1e-3)
    torch.testing.assert_close(flat(found, SHARED), flat(task, SHARED), rtol=1e-5, atol=1e-7)


def test_each_block_keeps_its_length_and_angle_and_so_does_the_whole():
    task = task_alone()
    found, report, _ = gradients(Toy(replace(EXACT, granularity="block")), [batch()])
    angles = {}
    for block, names in BLOCKS.items():
        length, angles[block] = turned(found, task, names)
        assert length == pytest.approx(1, abs=1e-6)
        assert angles[block] == pytest.approx(report.blend[f"{block}.psi_deg"], abs=1e-2)
        assert 0 < angles[block] <= 45.001
    assert angles["head"] != pytest.approx(angles["backbone"], abs=1)
    length, angle = turned(found, task, SHARED)
    assert length == pytest.approx(1, abs=1e-6)
    assert angle <= 45.001
    assert torch.equal(found["alone.weight"], task["alone.weight"])
    whole, _, _ = gradients(Toy(EXACT), [batch()])
    assert not torch.allclose(flat(found, SHARED), flat(whole, SHARED), rtol=1e-3)
    torch.testing.assert_close(found["adapters.0.weight"], whole["adapters.0.weight"])
    scaled, _, _ = gradients(Toy(replace(EXACT, granularity="block"), scales=(2.0**9, 2.0**-7)), [batch()])
    assert torch.equal(flat(scaled), flat(found))


def test_blocks_of_a_detector_are_its_parts():
    from kd3d.detectors.build import build
    from kd3d.detectors.presets import preset

    names = [name for name, _ in build(preset("world-centerpoint-pillar-tiny")).named_parameters()]
    assert list(dict.fromkeys(map(block_of, names))) == ["encoder", "backbone", "neck", "head"]
    assert block_of("module.backbone.ups.0.conv.weight") == "neck"
    assert block_of("adapters.0.weight") == "other"


def test_without_a_task_or_with_a_task_that_is_not_finite_blocks_do_as_one():
    blocks = replace(EXACT, granularity="block")
    one, _, _ = gradients(Toy(EXACT, task=False), [batch()])
    other, _, _ = gradients(Toy(blocks, task=False), [batch()])
    for name, gradient in one.items():
        assert (gradient is None) == (other[name] is None)
        assert gradient is None or torch.equal(gradient, other[name])
    with pytest.raises(NonFiniteError, match=r"loss task0.box=nan"):
        gradients(Toy(blocks, spoil="task0.box"), [batch()])


RATES = (("head", 0.01), ("adapters", 10.0))


def test_with_rates_the_blend_is_that_of_the_gradients_as_the_step_feels_them():
    task, config = task_alone(), replace(EXACT, metric="lr")
    found, report, _ = gradients(Toy(config), [batch()], lr_scales=RATES)

    def felt(gradients_by_name):
        return {n: g * math.sqrt(dict(RATES).get(n.split(".")[0], 1.0)) for n, g in gradients_by_name.items()}

    length, angle = turned(felt(found), felt(task), SHARED)
    assert length == pytest.approx(1, abs=1e-6)
    assert angle == pytest.approx(report.blend["psi_deg"], abs=1e-2)
    plain, _, _ = gradients(Toy(EXACT), [batch()], lr_scales=RATES)
    assert not torch.allclose(flat(found, SHARED), flat(plain, SHARED), rtol=1e-3)


def test_equal_rates_change_no_bit():
    for mode in ("params", "interval"):
        config = replace(EXACT, mode=mode)
        one, _, _ = gradients(Toy(config), [batch()])
        other, _, _ = gradients(Toy(replace(config, metric="lr")), [batch()])
        assert torch.equal(flat(one), flat(other))


def test_between_refreshes_the_length_is_that_with_rates():
    made, state = stepper(Toy(replace(EXACT, mode="interval", metric="lr")), net(), lr_scales=RATES)
    made.step([batch()])
    state.adapters[1].reference.fill_(1e-3)
    made.step([batch()])
    square = sum(
        float(p.grad.square().sum()) * (0.01 if name.startswith("head") else 1.0)
        for name, p in state.module.named_parameters()
    )
    assert math.sqrt(square) == pytest.approx(1.5e-3, rel=1e-4)


def test_products_count_each_slot_by_its_rate():
    task, taught = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    found = gram({"a": list(task), "b": list(taught)}, [0, 2], rates=(2.0, 99.0, 0.5))
    expected = 2 * (task[0] @ taught[0]) + 0.5 * (task[2] @ taught[2])
    assert found[0, 1].item() == pytest.approx(expected.item(), rel=1e-12)


def test_groups_have_the_rates_of_their_parts_and_a_part_that_is_not_there_is_refused():
    named = list(net().named_parameters())
    settings = TrainSettings(steps=1, lr_scales=(("head", 0.5),))
    groups = grouped(named, settings)
    assert {group["lr_scale"]: len(group["params"]) for group in groups} == {1.0: 6, 0.5: 2}
    with pytest.raises(UsageError, match=r"lr_scales names neck; what learns is backbone, head, alone"):
        grouped(named, replace(settings, lr_scales=(("neck", 0.5),)))
    with pytest.raises(UsageError, match=r"lr_scales must be positive and finite, not \{'head': 0"):
        TrainSettings(steps=1, lr_scales=(("head", 0.0),))
    assert "lr_scales" not in TrainSettings(steps=1).identity()
    made, state = stepper(Toy(), net(), lr_scales=(("head", 0.5),))
    rate = made.step([batch()]).lr
    assert sorted(group["lr"] for group in state.optimiser.param_groups) == pytest.approx([rate / 2, rate])


@pytest.mark.parametrize("more", [{}, {"granularity": "block"}, {"smooth": 0.9}, {"mode": "cut"}])
def test_under_mixed_precision_the_step_is_as_long_as_the_task_alone_would_make_it(more):
    lengths = []
    for scales in ((0.0, 0.0), (3.0, 0.1)):
        made, state = stepper(Toy(replace(EXACT, **more), scales=scales), net(), precision="bf16")
        report = made.step([batch()])
        lengths.append(float(flat({n: p.grad for n, p in state.module.named_parameters()}, SHARED).norm()))
        assert report.blend["taught"] == 2 * (scales[0] > 0)
    # at a cut lengths are those of maps, and of weights only nearly
    assert lengths[1] == pytest.approx(lengths[0], rel=0.3 if more.get("mode") == "cut" else 1e-5)


class Half(torch.autograd.Function):
    """Holds the gradient that passes in half precision, as the maps of an fp16 training are."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.half().to(gradient.dtype)


class HalfToy(Toy):
    def __call__(self, module, frames):
        hook = module.backbone.second.register_forward_hook(lambda _, __, output: Half.apply(output))
        try:
            return super().__call__(module, frames)
        finally:
            hook.remove()


@pytest.mark.parametrize("terms", ["separate", "joint"])
def test_losses_of_any_size_are_heard_in_half_precision(terms):
    """P1 where gradients far from the task's would overflow or vanish: their losses are scaled by powers of two."""
    ends = {}
    for c in (1.0, 1e8, 1e-10, 1e-14):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        config = replace(EXACT, terms=terms, smooth=0.5)
        made, _ = stepper(HalfToy(config, scales=(c, c)), net(), scaler=scaler)
        reports = [made.step([batch()]) for _ in range(12)]
        ends[c] = reports[-1].blend
        assert ends[c]["taught"] == (2 if terms == "separate" else 1)
        assert scaler.get_scale() >= 2.0**8
    for c in (1e8, 1e-10, 1e-14):
        assert ends[c]["phi_deg"] == pytest.approx(ends[1.0]["phi_deg"], abs=1.5)
        assert ends[c]["psi_deg"] == pytest.approx(ends[1.0]["psi_deg"], abs=1.5)
        for name in (name for name in ends[c] if name.startswith("weight.")):  # of the loss as it was given
            assert ends[c][name] * c == pytest.approx(ends[1.0][name], rel=0.1)


def test_a_checkpoint_without_the_scales_of_losses_loads():
    old = BlendState(2).state_dict()
    del old["balance"]
    state = BlendState(2)
    state.load_state_dict(old)
    assert state.balance.tolist() == [1, 1]


def test_a_refresh_says_how_far_the_weights_of_the_last_one_would_have_turned():
    made, _ = stepper(Toy(replace(EXACT, mode="interval", interval=2)), net())
    first, _, third = (made.step([batch(seed)]).blend for seed in range(3))
    assert "stale_psi_deg" not in first
    assert 0 < third["stale_psi_deg"] < 180
    assert third["stale_psi_deg"] != pytest.approx(third["psi_deg"], abs=1e-3)
    assert third["stale_too_far"] == float(third["stale_psi_deg"] > 45)


# Smoothing

angles, ratios = st.floats(0.5, 175), st.floats(1e-5, 1e5)


@settings(deadline=None, max_examples=60)
@given(angles, ratios, angles, ratios)
def test_a_smoothed_step_is_as_long_as_the_task_within_the_angle_and_inside_the_cone(phi, ratio, before, old):
    task = np.array([2.0, 0.0])
    taught = ratio * np.array([math.cos(math.radians(phi)), math.sin(math.radians(phi))])
    average = Geometry(math.log(2.0 / old), math.radians(before))
    products = float(task @ task), float(taught @ taught), float(task @ taught)
    a, b, turn = smoothed_coefs(products, BlendSettings(), 1.0, average)
    step = a * task + b * taught
    assert a >= 0
    assert b >= 0
    assert np.linalg.norm(step) == pytest.approx(2.0, rel=1e-6)
    angle = math.degrees(math.atan2(abs(step[1]), step[0]))
    assert angle <= 45.001
    assert math.degrees(turn.psi) == pytest.approx(angle, abs=1e-3)
    if phi >= 150:
        assert (a, b) == (1.0, 0.0)  # opposed now, whatever was usual


def test_smoothing_a_geometry_that_stays_changes_nothing_and_the_average_follows_one_that_moves():
    products = 4.0, 9.0, 3.0
    same = smoothed_coefs(products, BlendSettings(), 1.0, Geometry.of(*products))
    assert same[:2] == pytest.approx(coefs(*products, BlendSettings())[:2])
    moved = Geometry(0.0, 1.0).followed_by(Geometry(1.0, 2.0), 0.9)
    assert (moved.log_ratio, moved.phi) == pytest.approx((0.1, 1.1))
    far = smoothed_coefs((1.0, 1.0, 0.0), BlendSettings(), 1.0, Geometry(math.log(1e4), math.radians(80)))
    assert far == coefs(1.0, 1.0, 0.0, BlendSettings())  # it would have turned by nearly 90 degrees


@pytest.mark.parametrize("terms", ["separate", "joint"])
def test_smoothed_steps_depend_on_those_before_keep_the_length_and_no_scale_matters(terms):
    config = replace(EXACT, smooth=0.9, terms=terms)
    ends = {}
    for scale, config_of_run in ((1.0, config), (2.0**12, config), (None, replace(config, smooth=0.0))):
        made, state = stepper(Toy(config_of_run, scales=(scale or 1.0,) * 2), net())
        for seed in range(3):
            report = made.step([batch(seed)])
        ends[scale] = flat({n: p.grad for n, p in state.module.named_parameters()}, SHARED), report.blend
    torch.testing.assert_close(ends[1.0][0], ends[2.0**12][0], rtol=1e-6, atol=1e-9)
    assert not torch.allclose(ends[1.0][0], ends[None][0], rtol=1e-3)
    assert float(ends[1.0][0].norm()) == pytest.approx(ends[1.0][1]["task_norm"], rel=1e-5)
    assert ends[1.0][1]["psi_deg"] <= 45.001


def test_what_is_smoothed_is_kept_per_block_and_in_the_checkpoint():
    made, state = stepper(Toy(replace(EXACT, smooth=0.9, granularity="block")), net())
    made.step([batch()])
    averages = state.adapters.state_dict()["1.averages"]
    assert torch.isfinite(averages).all(1).tolist() == [True, False, True, False, True, False]
    assert "averages" not in BlendState(1).state_dict()  # as in checkpoints from before


# What fails


def test_losses_that_meet_on_no_weight_are_refused():
    class Apart(Toy):
        def __call__(self, module, frames):
            task, *rest = super().__call__(module, frames)
            task.sum = (module(frames.x)[3] - frames.y[:, 3:]).square().sum()
            return [task, *rest]

    module = net()
    module.backbone.requires_grad_(False)
    with pytest.raises(UsageError, match=r"no parameter learns both from the labels and from kd.head, kd.features"):
        gradients(Apart(EXACT), [batch()], module)


@pytest.mark.parametrize("blend", [None, replace(EXACT, mode="interval", interval=1000)])
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_where_losses_are_added_up_a_failing_signal_costs_its_step_and_in_the_end_the_run(blend, bad):
    objective = Toy(blend)
    made, state = stepper(objective, net())
    made.step([batch()])
    objective.spoil, objective.by = "kd.head", float(bad)
    before = flat(dict(state.module.named_parameters())).detach()
    moments = {name: value.clone() for name, value in next(iter(state.optimiser.state.values())).items()}
    with pytest.warns(UserWarning, match=rf"step 1: loss kd.head={bad} on frames f0, .*; the step was skipped.* 50 "):
        report = made.step([batch()])
    assert report.skipped == ("kd.head",)
    assert not math.isfinite(report.terms["kd.head"])
    assert math.isfinite(report.terms["task0.box"])
    assert state.step == 2
    assert torch.equal(flat(dict(state.module.named_parameters())).detach(), before)
    after = next(iter(state.optimiser.state.values()))
    assert all(torch.equal(value, after[name]) for name, value in moments.items())
    objective.spoil = None
    assert made.step([batch()]).skipped == ()
    assert not torch.equal(flat(dict(state.module.named_parameters())).detach(), before)
    objective.spoil = "kd.head"
    with pytest.warns(UserWarning, match="the step was skipped"):
        for _ in range(MAX_FAILED - 1):
            made.step([batch()])
    with pytest.raises(
        NonFiniteError, match=rf"loss kd.head={bad} on frames f0.*, the 50th step in a row .*Leave this"
    ):
        made.step([batch()])


def test_one_micro_batch_that_fails_costs_the_whole_step():
    objective = Toy()

    class Second(Toy):
        calls = 0

        def __call__(self, module, frames):
            terms = super().__call__(module, frames)
            self.calls += 1
            if self.calls == 4:  # after both passes that count the masses
                terms[1].sum = terms[1].sum * float("nan")
            return terms

    objective = Second()
    made, state = stepper(objective, net(), accumulate=2)
    before = flat(dict(state.module.named_parameters())).detach()
    with pytest.warns(UserWarning, match="loss kd.head=nan"):
        assert made.step([batch(0), batch(1)]).skipped == ("kd.head",)
    assert torch.equal(flat(dict(state.module.named_parameters())).detach(), before)
    assert all(p.grad is None for p in state.module.parameters())


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"granularity": "tensor"}, "granularity cannot be 'tensor'. Use global or block"),
        ({"metric": "adam"}, "metric cannot be 'adam'. Use euclid or lr"),
        ({"direction": "held"}, "direction cannot be 'held'. Use fixed or search"),
        ({"smooth": 1.0}, "smooth must be at least 0 and below 1, not 1"),
        ({"mode": "cut", "granularity": "block"}, "the mode cut does not have. Use the mode params"),
        ({"mode": "interval", "granularity": "block"}, "the mode interval does not have"),
        ({"mode": "cut", "metric": "lr"}, "maps have no learning rate"),
    ],
)
def test_variants_that_cannot_be_are_refused(wrong, text):
    with pytest.raises(UsageError, match=text):
        BlendSettings(**wrong)


def test_auto_looks_at_the_weights_where_a_variant_needs_them():
    for more in ({"granularity": "block"}, {"metric": "lr"}):
        objective = Toy(BlendSettings(warmup_steps=0, **more))
        gradients(objective, [batch()])
        assert not objective.blend.cuts


def test_settings_of_runs_from_before_the_variants_stay_the_same():
    assert set(BlendSettings().identity()) == {
        "mode", "terms", "rho", "psi_max_deg", "phi_hi_deg", "phi_cut_deg", "interval", "warmup_steps",
    }  # fmt: skip
    assert BlendSettings(smooth=0.5).identity()["smooth"] == 0.5
