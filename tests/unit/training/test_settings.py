import pytest

from kd3d.errors import SpecError, UsageError
from kd3d.spec import from_json, to_json
from kd3d.training.settings import TrainSettings


def test_settings_survive_json():
    settings = TrainSettings(epochs=2.5, lr=1e-3, precision="fp32", momentum=(0.9, 0.8))
    assert from_json(TrainSettings, to_json(settings)) == settings


def test_an_unknown_setting_is_refused_with_the_known_ones():
    with pytest.raises(SpecError, match=r"unknown field\(s\) learning_rate; the known ones are steps, epochs"):
        from_json(TrainSettings, {"steps": 1, "learning_rate": 1.0})


@pytest.mark.parametrize(("changes", "message"), [
    ({}, "give steps or epochs, and only one"),
    ({"steps": 10, "epochs": 1.0}, r"only one \(steps=10, epochs=1.0\)"),
    ({"steps": 0}, "steps must be at least 1, not 0"),
    ({"steps": 1, "batch_size": 0}, "batch_size must be at least 1, not 0"),
    ({"steps": 1, "workers": -1}, "workers must be at least 0, not -1"),
    ({"steps": 1, "lr": float("nan")}, "lr must be positive and finite, not nan"),
    ({"steps": 1, "epochs": None, "clip_norm": 0.0}, "clip_norm must be positive"),
    ({"steps": 1, "pct_start": 1.0}, "pct_start must be in 0"),
    ({"steps": 1, "ema_decay": 1.0}, "ema_decay must be in 0"),
    ({"steps": 1, "weight_decay": -1.0}, "weight_decay"),
    ({"steps": 1, "norm_momentum": 0.0}, "norm_momentum must be above 0 and at most 1, not 0"),
    ({"steps": 1, "norm_momentum": 1.5}, "norm_momentum must be above 0"),
    ({"steps": 1, "precision": "int8"}, "precision must be fp32, bf16 or fp16, not 'int8'"),
])  # fmt: skip
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        TrainSettings(**changes)


@pytest.mark.parametrize(("epochs", "frames", "steps"), [(1.0, 10, 3), (2.0, 8, 4), (0.01, 8, 1), (0.3, 40, 3)])
def test_epochs_become_whole_steps_rounded_up(epochs, frames, steps):
    assert TrainSettings(epochs=epochs, batch_size=2, accumulate=2).total_steps(frames) == steps


def test_what_does_not_change_the_result_is_not_part_of_the_identity():
    one = TrainSettings(steps=5, workers=0, log_every=1, eval_every=3, checkpoint_every=1)
    assert one.identity() == TrainSettings(steps=5).identity()
    assert one.identity() != TrainSettings(steps=5, seed=1).identity()


def test_norm_momentum_decides_the_result_but_runs_from_before_it_existed_can_go_on():
    assert TrainSettings(steps=5, norm_momentum=0.1).identity()["norm_momentum"] == 0.1
    assert "norm_momentum" not in TrainSettings(steps=5).identity()
