"""A pair of models that cannot be joined is refused once, with everything that differs."""

from dataclasses import replace

import pytest
import torch
from test_signals import SPEC, make_spec

from kd3d.compress.distill.label_kd import LabelKD
from kd3d.compress.distill.objective import DistillationObjective
from kd3d.compress.distill.pairing import bridged, check_pair, obstacles
from kd3d.compress.distill.signals import CenterRegression
from kd3d.compress.recipe import Recipe
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import UsageError
from kd3d.geometry.grid import BevGrid

FAR = BevGrid(40, -8, -2, 56, 8, 2, 2.0)


def test_equal_models_differ_in_nothing():
    check_pair(SPEC, SPEC)
    assert bridged(SPEC, SPEC) == obstacles(SPEC, SPEC) == []


def test_all_reasons_and_all_differences_are_told_at_once():
    other = replace(make_spec(tasks=(("ship",), ("tram",)), velocity=False, channels=(3, 4)), name="other", grid=FAR)
    with pytest.raises(UsageError) as caught:
        check_pair(other, SPEC, ["proposals cannot be ranked.", "proposals cannot be ranked."])
    text = str(caught.value)
    assert text.startswith(
        "other cannot learn from test: (1) teacher and student have no class in common: car, bus, dog"
    )
    for part in (
        "(2) their ranges do not meet: x 40..56, y -8..8 m and x 0..16, y 0..16 m.",
        "(3) proposals cannot be ranked.",
        "These differences are no obstacle: classes that only the student knows (ship, tram) are not taught",
        "classes that only the teacher knows (bus, car, dog) are not taught",
        "task groups are met by class name",
        "output cells of 2 and 1 m are met by metric position",
        "are compared where both see",
        "velocity, which one of them does not predict, is left out",
        "feature maps of other channels are met through adapters.",
    ):
        assert part in text
    assert "(4)" not in text
    ego = replace(SPEC, grid=replace(SPEC.grid, frame="ego"), points=replace(SPEC.points, sweeps=7))
    with pytest.raises(UsageError, match=r"\(1\) the student is in the ego frame.*points or sweeps differ, and each"):
        check_pair(ego, SPEC)


def test_heads_of_other_kinds_are_named():
    centre, anchors = preset("world-centerpoint-pillar-tiny"), preset("world-pointpillars-tiny")
    assert "a centre head and an anchor head meet in labels and feature maps only" in bridged(centre, anchors)
    with pytest.raises(UsageError, match=r"\(1\).*anchor head.*a centre head and an anchor head meet in labels"):
        Recipe(logits=0, boxes=0, more=({"signal": "ranking"},)).signals(centre, anchors)


def test_an_objective_collects_what_its_signals_and_its_labels_object_to():
    tiny = preset("world-centerpoint-pillar-tiny")
    coarse = replace(tiny, grid=replace(tiny.grid, cell_m=3.2))
    torch.manual_seed(0)
    with pytest.raises(
        UsageError, match=r"\(1\) box regression can be distilled only .* \(2\) .*thresholds are given for"
    ):
        DistillationObjective(build(tiny), coarse, [CenterRegression()], label_kd=LabelKD(per_class={"tram": 0.5}))


def test_a_recipe_collects_what_its_signals_object_to():
    tiny = preset("world-centerpoint-pillar-tiny")
    coarse = replace(tiny, grid=replace(tiny.grid, cell_m=6.4))
    recipe = Recipe(
        features=1.0, more=({"signal": "ranking"}, {"signal": "fitnet", "tap": "level9"}, {"signal": "mimic"})
    )
    with pytest.raises(UsageError) as caught:
        recipe.signals(coarse, tiny)
    for part in ("proposals can be ranked only", "no feature map 'level9'", "output cells of"):
        assert part in str(caught.value)
