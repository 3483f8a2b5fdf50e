"""Gradients that are compared at a cut through a real student (P17)."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from blend_toy import EXACT
from training_frames import memory_dataset

from kd3d.compress.distill.objective import DistillationObjective
from kd3d.compress.distill.registry import made
from kd3d.compress.distill.signals import CenterRegression, PivotalLogits
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.training.batch import make_batch
from kd3d.training.loader import FrameSource
from kd3d.training.objective import DetectionObjective
from kd3d.training.session import Session
from kd3d.training.settings import TrainSettings

SPEC = preset("world-centerpoint-pillar-tiny")
HEADS = (PivotalLogits(), CenterRegression())
PLACES = {
    "heads": HEADS,
    "neck": (*HEADS, *made({"signal": "fitnet"}, SPEC, SPEC)),
    "levels": (
        *HEADS,
        *made({"signal": "fitnet", "tap": "level1"}, SPEC, SPEC),
        *made({"signal": "mimic"}, SPEC, SPEC),
    ),
}


def gradients(signals, blend):
    """Of a student's first step, and the objective; without signals of the labels alone."""
    frames = memory_dataset(2)
    torch.manual_seed(0)
    teacher, student = build(SPEC), build(SPEC)
    objective = DistillationObjective(teacher, SPEC, signals, blend=blend) if signals else DetectionObjective(SPEC)
    source = FrameSource(frames, SPEC, None, None, None, 0)
    settings = TrainSettings(steps=9, precision="fp32", clip_norm=1e9)
    session = Session(student, source, objective=objective, settings=settings, run=Path("unused"))
    session.stepper.step([make_batch([frames[0], frames[1]], SPEC)])
    return {name: parameter.grad.clone() for name, parameter in student.named_parameters()}, objective


def joined(found):
    return torch.cat([row.flatten() for row in found.values()])


@pytest.mark.parametrize("place", PLACES)
def test_a_network_is_cut_as_late_as_its_signals_allow(place):
    near, objective = gradients(PLACES[place], replace(EXACT, mode="cut"))
    assert objective.blend.place == place
    assert (objective.blend.state.weights > 0).all()
    exact, objective = gradients(PLACES[place], EXACT)
    assert objective.blend.place is None
    assert torch.nn.functional.cosine_similarity(joined(exact), joined(near), dim=0) > 0.9


@pytest.mark.parametrize("place", PLACES)
def test_a_cut_that_may_not_turn_gives_the_gradient_of_the_labels_alone(place):
    """What is upstream of the cut gets all of it: each level directly, and through the levels after it."""
    alone, _ = gradients((), None)
    found, objective = gradients(PLACES[place], replace(EXACT, mode="cut", psi_max_deg=1e-4))
    assert objective.blend.place == place
    for name, gradient in alone.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
