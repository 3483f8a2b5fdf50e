"""Every signal equals a slow reference that was written from its equation and shares no code with it.

Three pairs of models: equal ones; a student of other cells, another range, fewer channels, other task groups and no
velocity; and frames without objects.
"""

from dataclasses import fields, replace

import pytest
import references_features as features
import references_heads as heads
import torch
from test_signals import FRAMES, SIGNALS, SPEC, boxes, make_spec, output, value

from kd3d.compress.distill.baselines import Affinity, AttentionTransfer, FeatureMse, InstanceRelation, Mimic
from kd3d.compress.distill.context import SignalContext
from kd3d.compress.distill.features import cross_scale
from kd3d.compress.distill.instances import InstanceLogits, RegionFeatures
from kd3d.compress.distill.labelfree import ProposalRanking, SoftBoxes, SoftHeatmap
from kd3d.compress.distill.masks import Foreground, Richness
from kd3d.compress.distill.registry import MASKS, mask_named
from kd3d.compress.distill.responses import PillarResponses, PivotalBoxes
from kd3d.compress.distill.signals import CenterRegression, PivotalLogits
from kd3d.compress.distill.unidistill import GaussianResponses, NinePoints, PointRelations
from kd3d.errors import UsageError
from kd3d.geometry.grid import BevGrid

OTHER = replace(
    make_spec(tasks=(("dog",), ("car", "bus")), velocity=False, channels=(3, 4), ups=(2, 2)),
    grid=BevGrid(-1, 1, -2, 15, 17, 2, 1.6),
)
TURNED = [replace(frame, label=(frame.label + 1) % 3) for frame in FRAMES]  # the other student counts dog, car, bus
PAIRS = {
    "equal models": (SPEC, FRAMES),
    "other cells, range, channels and tasks": (OTHER, TURNED),
    "no objects": (SPEC, [boxes()] * 3),
}


def plain(signal):
    """Without parts that have a reference of their own."""
    return replace(signal, **{field.name: 0.0 for field in fields(signal) if field.name == "localisation"})


def cases():
    found = [(PivotalLogits(mask=mask_named(name)), heads.logits, (name,)) for name in MASKS]
    found += [(PivotalBoxes(mask=mask_named(name)), heads.pivotal_boxes, (name,)) for name in MASKS]
    found += [(SoftHeatmap(weighting=w, background=0.2), heads.soft_heatmap, (w, 0.2)) for w in
              ("adaptive", "dense", "confidence")]  # fmt: skip
    found += [
        (CenterRegression(), heads.center_boxes, ()),
        (InstanceLogits(), heads.gid_logits, ()),
        (GaussianResponses(), heads.responses, ()),
        (GaussianResponses(teacher_temperature=2.0), heads.responses, (2.0,)),
        (PillarResponses(), heads.pillars, ()),
        (plain(SoftBoxes()), heads.soft_boxes, ()),
        (ProposalRanking(), heads.ranking, ()),
    ]
    return found


ADAPTED = [
    (FeatureMse(), features.fitnet, ()),
    (FeatureMse(mask=Foreground(), tap="level0"), features.fitnet, ("foreground", "level0")),
    (Mimic(), features.mimic, ()),
    (NinePoints(), features.nine_points, ()),
    (plain(RegionFeatures()), features.region, ()),
]
FREE = [
    (AttentionTransfer(), features.attention, ()),
    (Affinity(), features.affinity, ()),
    (InstanceRelation(), features.gid_relation, ()),
    (PointRelations(), features.relations, ()),
]


def named(case):
    signal = case[0]
    return f"{type(signal).__name__}-{getattr(signal, 'mask', None) or getattr(signal, 'weighting', '')}"


def met(signal, pair):
    """The pair's context, with the signal's adapter."""
    spec, frames = PAIRS[pair]
    try:
        signal.check(spec, SPEC)
    except UsageError:
        pytest.skip("the signal refuses unequal grids")
    torch.manual_seed(3)
    adapter = signal.adapter(spec, SPEC)
    adapters = {} if adapter is None else {signal.name: adapter}
    return SignalContext(output(spec, seed=1), output(SPEC, seed=2), spec, SPEC, frames, adapters), adapter


def agree(signal, context, expected):
    assert expected > 0 or not any(map(len, context.boxes))
    found = value(signal, context).item() / signal.weight
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("signal", "reference", "options"), cases(), ids=map(named, cases()))
def test_a_signal_on_heads_equals_its_equation(signal, reference, options, pair):
    context, _ = met(signal, pair)
    agree(signal, context, reference(context, *options))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("signal", "reference", "options"), ADAPTED, ids=map(named, ADAPTED))
def test_a_signal_on_features_equals_its_equation_also_through_an_adapter(signal, reference, options, pair):
    context, adapter = met(signal, pair)
    assert (adapter is None) == (PAIRS[pair][0] is SPEC)
    agree(signal, context, reference(context, adapter, *options))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("signal", "reference", "options"), FREE, ids=map(named, FREE))
def test_a_signal_that_joins_any_channels_equals_its_equation(signal, reference, options, pair):
    context, adapter = met(signal, pair)
    assert adapter is None
    agree(signal, context, reference(context, *options))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("given", "kind"), [(None, "label"), (Richness(), "richness")])
def test_cross_scale_features_equal_their_equation_at_every_level(given, kind, pair):
    for signal in cross_scale(PAIRS[pair][0], SPEC, mask=given):
        context, adapter = met(signal, pair)
        places = signal.pair.student.name, signal.pair.teacher.name
        agree(signal, context, features.imitation(context, places, adapter, kind))


def test_no_signal_is_without_a_reference():
    checked = {type(signal) for signal, *_ in (*cases(), *ADAPTED, *FREE)}
    assert {type(signal) for signal in SIGNALS} - checked == {type(cross_scale(SPEC, SPEC)[0])}  # of the test above
