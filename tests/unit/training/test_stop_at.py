"""A run that leaves off at a rung, and goes on later, is the run that went through."""

import json

import pytest
import torch
from killed_run import STEPS, validate
from training_frames import memory_dataset

from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import weights_hash
from kd3d.detectors.presets import preset
from kd3d.training.loop import train
from kd3d.training.settings import TrainSettings

assert STEPS > 12
TOTAL = 12


def fit(run, *, stop_at=None, progress=None, workers=0, validate=None):
    torch.manual_seed(5)
    settings = TrainSettings(
        steps=TOTAL, batch_size=2, precision="fp32", workers=workers, seed=11, checkpoint_every=100, log_every=1,
        eval_every=5, ema_decay=0.9,
    )  # fmt: skip
    module = build(preset("world-centerpoint-pillar-tiny"))
    return train(
        module, memory_dataset(5), settings=settings, run=run, stop_at=stop_at, progress=progress, validate=validate
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("stop") / "whole"
    averages = {}
    result = fit(run, validate=lambda module, step: averages.update({step: copied(module)}) or validate(module, step))
    return run, result, averages


def copied(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], tensor) for name, tensor in other.items())


def saved(run):
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)


def lines(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("_s")} for line in found]


@pytest.mark.parametrize("rungs", [(5,), (1, 4, 9), (3, 3, 11)])
def test_stopping_at_rungs_and_going_on_gives_the_same_weights_bit_for_bit(tmp_path, whole, rungs):
    run = tmp_path / "run"
    for rung in rungs:
        assert fit(run, stop_at=rung, validate=validate).steps == rung
        assert saved(run)["step"] == rung  # though no checkpoint is due
        assert not (run / "model").exists()
    end = fit(run, validate=validate)
    before, result, _ = whole
    assert end.steps == TOTAL
    assert weights_hash(run / "model") == weights_hash(before / "model")
    assert equal(end.module.state_dict(), result.module.state_dict())
    one, other = saved(run), saved(before)
    assert equal(one["module"], other["module"])
    for index, moments in other["optimiser"]["state"].items():
        assert equal(one["optimiser"]["state"][index], moments)
    assert lines(run) == lines(before)


def test_what_a_rung_is_scored_with_is_the_moving_average_at_that_step(tmp_path, whole):
    _, _, averages = whole
    result = fit(tmp_path / "run", stop_at=5, validate=validate)
    assert not result.module.training
    assert equal(result.module.state_dict(), averages[5])
    again = fit(tmp_path / "run", stop_at=5, progress=lambda update: pytest.fail("took a step"), validate=validate)
    assert equal(again.module.state_dict(), averages[5])


def test_the_schedule_is_that_of_the_whole_run_and_the_steps_are_told_as_of_it(tmp_path, whole):
    told = []
    fit(tmp_path / "run", stop_at=4, progress=told.append)
    assert [update.step for update in told] == [1, 2, 3, 4]
    assert {update.steps for update in told} == {TOTAL}
    rates = [line["lr"] for line in lines(whole[0]) if "lr" in line]
    assert [update.lr for update in told] == rates[:4]
    assert told[-1].eta_s == 0  # nothing is left before the rung


def test_a_rung_behind_the_end_is_the_end(tmp_path, whole):
    result = fit(tmp_path / "run", stop_at=TOTAL + 7, validate=validate)
    assert result.steps == TOTAL
    assert weights_hash(tmp_path / "run" / "model") == weights_hash(whole[0] / "model")
