"""Properties of the closed form of gradient blending (P1-P5, P7-P11 and P13 of its specification)."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kd3d.compress.distill.coefs import BlendSettings, coefs
from kd3d.errors import UsageError

PLAIN = BlendSettings()
FAST = settings(deadline=None, max_examples=50)
angles = st.floats(0.0, 180.0)
lengths = st.floats(1e-6, 1e6)


def blend(task, taught, config=PLAIN, warm=1.0):
    a, b, turn = coefs(task @ task, taught @ taught, task @ taught, config, warm)
    return a * task + b * taught, a, b, turn


def pair(phi_deg, n_t=1.0, n_d=1.0):
    phi = math.radians(phi_deg)
    return np.array([n_t, 0.0]), n_d * np.array([math.cos(phi), math.sin(phi)])


@FAST
@given(angles, lengths, lengths, st.sampled_from([PLAIN, BlendSettings.strong(), BlendSettings(rho=1.0)]))
def test_the_step_is_as_long_as_the_tasks_gradient_within_the_angle_and_inside_the_cone(phi, n_t, n_d, config):
    """P3, P4 and P5."""
    task, taught = pair(phi, n_t, n_d)
    step, a, b, turn = blend(task, taught, config)
    assert np.linalg.norm(step) == pytest.approx(n_t, rel=1e-6)
    assert a >= 0
    assert b >= 0
    angle = math.degrees(math.atan2(abs(step[1]), step[0]))
    assert angle <= config.psi_max_deg + 1e-3
    assert math.degrees(turn.psi) <= config.psi_max_deg + 1e-9


@FAST
@given(angles, st.sampled_from([1e-6, 1e-3, 7.3, 1e6]))
def test_scaling_the_distillation_loss_changes_nothing(phi, c):
    """P1."""
    task, taught = pair(phi, 2.0, 0.3)
    np.testing.assert_allclose(blend(task, c * taught)[0], blend(task, taught)[0], rtol=1e-9, atol=1e-12)


@FAST
@given(angles, st.integers(-60, 60))
def test_scaling_it_by_a_power_of_two_changes_no_bit(phi, k):
    """P1."""
    assume(phi == 0 or phi > 1e-200)  # below the normal range of floats any scaling loses bits
    task, taught = pair(phi, 2.0, 0.3)
    assert np.array_equal(blend(task, 2.0**k * taught)[0], blend(task, taught)[0])


@FAST
@given(angles, st.floats(1e-4, 1e4))
def test_the_blend_is_homogeneous_in_the_tasks_gradient(phi, c):
    """P2."""
    task, taught = pair(phi, 2.0, 0.3)
    np.testing.assert_allclose(blend(c * task, taught)[0], c * blend(task, taught)[0], rtol=1e-6, atol=1e-9 * c)


@FAST
@given(st.floats(1e-5, 1e5))
def test_parallel_gradients_give_the_task_and_opposed_ones_leave_it_untouched(k):
    """P7 and P8."""
    task = np.array([0.3, -1.2, 2.0])
    np.testing.assert_allclose(blend(task, k * task)[0], task, rtol=1e-6)
    step, a, b, turn = blend(task, -k * task)
    assert np.array_equal(step, task)
    assert (a, b, turn.gated) == (1.0, 0.0, True)


def test_orthogonal_gradients_get_equal_components():
    """P9."""
    task, taught = pair(90, 3.0, 0.01)
    step, a, b, _ = blend(task, taught)
    np.testing.assert_allclose(step, [3 / math.sqrt(2)] * 2)
    assert b / a == pytest.approx(300)  # the weight that a human would have had to find


@FAST
@given(st.integers(0, 2**31), st.integers(2, 6))
def test_rotating_both_rotates_the_step(seed, size):
    """P10."""
    rng = np.random.default_rng(seed)
    task, taught = rng.normal(size=(2, size))
    turn, _ = np.linalg.qr(rng.normal(size=(size, size)))
    np.testing.assert_allclose(blend(turn @ task, turn @ taught)[0], turn @ blend(task, taught)[0], atol=1e-8)


def test_the_step_changes_continuously_with_the_angle():
    """P11."""
    steps = np.array([blend(*pair(phi))[0] for phi in np.arange(0, 180.005, 0.01)])
    assert np.linalg.norm(np.diff(steps, axis=0), axis=1).max() < 5e-4


@FAST
@given(st.integers(0, 2**31))
def test_the_task_loss_of_a_quadratic_falls(seed):
    """P13."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.01, 1.0, 4)  # the Hessian's eigenvalues; the largest is the smoothness
    x, taught = rng.normal(size=(2, 4))
    gradient = spread * x
    step, *_, turn = blend(gradient, taught)
    assume(turn.psi > 0)
    rate = 0.99 * 2 * math.cos(math.radians(PLAIN.psi_max_deg)) / spread.max()
    after = x - rate * step
    assert (spread * after**2).sum() <= (spread * x**2).sum() + 1e-12


@pytest.mark.parametrize(
    ("given", "step", "steps", "share"),
    [(None, 25, 1000, 0.5), (None, 250, 20_000, 0.5), (None, 250, 10_000, 0.5), (None, 0, 19, 1), (None, 0, 20, 0),
     (500, 25, 1000, 0.05), (0, 0, 1000, 1), (500, 900, 1000, 1)],
)  # fmt: skip
def test_warm_up_takes_a_twentieth_of_a_short_run(given, step, steps, share):
    assert BlendSettings(warmup_steps=given).warm(step, steps) == share


@FAST
@given(angles)
def test_warm_up_grows_the_turn_from_nothing(phi):
    task, taught = pair(phi)
    assert np.array_equal(blend(task, taught, warm=0.0)[0], task)
    turns = [blend(task, taught, warm=warm)[3].psi for warm in (0.0, 0.3, 0.7, 1.0)]
    assert turns == sorted(turns)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"mode": "free"}, "blend.s mode cannot be .free.. Use auto, params, cut or interval"),
        ({"terms": "some"}, "terms cannot be .some.. Use separate or joint"),
        ({"rho": 0.0}, "rho must be above 0 and at most 1, not 0"),
        ({"psi_max_deg": 90.0}, "between 0 and 90 degrees, not 90"),
        ({"phi_hi_deg": 160.0}, "not 160 and 150"),
        ({"interval": 0}, r"interval \(0\) must be at least 1"),
        ({"warmup_steps": -1}, r"warmup_steps \(-1\) at least 0"),
    ],
)
def test_nonsense_is_refused(wrong, text):
    with pytest.raises(UsageError, match=text):
        BlendSettings(**wrong)
