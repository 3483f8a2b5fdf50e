"""Hand values and behaviour of the signals beyond SparseKD's; their equations are in ``test_references``."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_signals import FRAMES, SPEC, boxes, leaves, make_spec, output, same, value

from kd3d.compress.distill.baselines import FeatureMse, Mimic
from kd3d.compress.distill.context import SignalContext
from kd3d.compress.distill.features import cross_scale
from kd3d.compress.distill.instances import InstanceLogits, RegionFeatures
from kd3d.compress.distill.labelfree import ProposalRanking, SoftBoxes, SoftHeatmap, adaptive_weight
from kd3d.compress.distill.masks import Richness
from kd3d.compress.distill.proposals import peaks
from kd3d.compress.distill.registry import made
from kd3d.compress.distill.responses import PillarResponses, PivotalBoxes
from kd3d.compress.distill.signals import CenterRegression, divergence
from kd3d.compress.distill.unidistill import GaussianResponses, NinePoints, PointRelations, small_gaussians
from kd3d.errors import UsageError
from kd3d.geometry.grid import BevGrid

COARSE = make_spec(2.0)


@pytest.fixture
def context():
    return SignalContext(output(SPEC, seed=1), output(SPEC, seed=2), SPEC, SPEC, FRAMES)


def test_relations_do_not_change_with_the_length_or_rotation_of_features_and_join_any_channels(context):
    teacher = context.teacher
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
    student = same(teacher)
    tap = student.taps[-1]
    turned = torch.einsum("dc,bcyx->bdyx", turn, tap.tensor) * 3
    student = student._replace(taps=(*student.taps[:-1], tap._replace(tensor=turned)))
    moved = replace(context, student=student)
    assert value(PointRelations(), moved).item() < 1e-3
    assert value(NinePoints(tap="neck"), moved).item() > 1
    narrow = make_spec(ups=(2, 2))
    other = SignalContext(output(narrow), teacher, narrow, SPEC, FRAMES)
    assert PointRelations().adapter(narrow, SPEC) is None
    assert value(PointRelations(), other).item() > 0


def test_empty_cells_have_no_relation_with_anything_even_in_half_precision():
    found = output(SPEC)
    dark = found._replace(
        taps=tuple(tap._replace(tensor=torch.zeros_like(tap.tensor).half().requires_grad_()) for tap in found.taps)
    )
    loss = value(PointRelations(weight=1.0), SignalContext(dark, dark, SPEC, SPEC, FRAMES))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(dark.taps[-1].tensor.grad).all()


def test_the_same_boxes_twice_change_no_loss_of_unidistill(context):
    twice = [boxes(*rows, *rows) for rows in ([(3.2, 4.1, 0)], [], [(7.7, 7.7, 1)])]
    once = [boxes(*rows) for rows in ([(3.2, 4.1, 0)], [], [(7.7, 7.7, 1)])]
    for signal in (NinePoints(), PointRelations(), GaussianResponses()):
        one, two = (value(signal, replace(context, boxes=frames)) for frames in (once, twice))
        assert two.item() == pytest.approx(one.item(), rel=1e-5)


def test_the_swapped_axes_of_the_release_are_another_loss(context):
    assert value(NinePoints(swapped=True), context).item() != pytest.approx(
        value(NinePoints(), context).item(), rel=1e-3
    )


def test_the_temperature_of_the_release_costs_even_a_perfect_student():
    found = output(SPEC)
    for logit, gap in ((-2.19, 0.1500), (0.0, 0.0), (2.0, 0.1497)):
        hm = torch.full_like(found.heads[0].hm, logit)
        flat = found._replace(heads=(found.heads[0]._replace(hm=hm),))
        context = SignalContext(flat, flat, SPEC, SPEC, FRAMES)
        loss = value(GaussianResponses(weight=1.0, teacher_temperature=2.0), context)
        assert loss.item() == pytest.approx(gap, abs=1e-4)
        assert value(GaussianResponses(), context).item() == 0
    with pytest.raises(UsageError, match="teacher_temperature must be above 0, not 0"):
        GaussianResponses(teacher_temperature=0.0).check(SPEC, SPEC)


@pytest.mark.parametrize(("length", "width", "mass"), [(0.7, 0.7, 1.0), (4.63, 1.97, 1.6146), (11.1, 2.95, 4.3505)])
def test_gaussians_of_unidistill_are_small(length, width, mass):
    grid = BevGrid(-54, -54, -5, 54, 54, 3, 0.6)
    spec = replace(SPEC, grid=grid)
    found = boxes((10.0, 5.0, 0))
    found.array[:, 3:5] = length, width
    context = SignalContext(output(SPEC, 1), output(SPEC, 1), spec, spec, [found])
    assert small_gaussians(context).sum().item() == pytest.approx(mass, abs=1e-3)


BETWEEN_GRIDS = (
    *("logits", "fitnet", "attention", "mimic", "affinity", "gid-relation", "nine-points", "relations"),
    *("responses", "pillars", "soft-heatmap", "soft-boxes"),
)


@pytest.mark.parametrize("kind", BETWEEN_GRIDS)
def test_grids_may_differ(kind):
    student, teacher = output(COARSE, seed=1), output(SPEC, seed=2)
    (signal,) = made({"signal": kind}, COARSE, SPEC)
    loss = value(signal, SignalContext(student, teacher, COARSE, SPEC, FRAMES))
    loss.backward()
    assert 0 < loss.item() < math.inf
    assert all(t.grad is None for t in leaves(teacher))


@pytest.mark.parametrize("signal", [FeatureMse(), Mimic(), NinePoints(tap="neck", kernel=3)])
def test_adapters_learn_along_where_channels_differ(signal):
    narrow = make_spec(ups=(2, 2))
    adapter = signal.adapter(narrow, SPEC)
    assert adapter.weight.shape[:2] == (8, 4)
    assert signal.adapter(SPEC, SPEC) is None
    context = SignalContext(output(narrow), output(SPEC, seed=2), narrow, SPEC, FRAMES, {signal.name: adapter})
    value(signal, context).backward()
    assert adapter.weight.grad.abs().max() > 0


# Without labels


class Untouchable:
    def __getattribute__(self, name):
        raise AssertionError("a label was looked at")

    def __iter__(self):
        raise AssertionError("a label was looked at")


def test_confidence_distillation_never_looks_at_a_label():
    context = SignalContext(output(SPEC, seed=1), output(SPEC, seed=2), SPEC, SPEC, Untouchable())
    signals = [
        SoftHeatmap(),
        SoftBoxes(),
        ProposalRanking(),
        PillarResponses(),
        *cross_scale(SPEC, SPEC, mask=Richness()),
    ]
    assert all(value(signal, context).item() > 0 for signal in signals)
    assert value(PivotalBoxes(mask=Richness()), context).item() > 0


def test_adaptive_weights_grow_with_either_hardness_and_vanish_for_easy_cells():
    kl, entropy = torch.meshgrid(torch.linspace(0, 3, 9), torch.linspace(0, 0.69, 9), indexing="ij")
    weight = adaptive_weight(kl, entropy, 2.0, 1.5)
    assert (weight.diff(dim=0) > 0).all()
    assert (weight.diff(dim=1) > 0).all()
    assert weight[0, 0] == 0
    assert torch.equal(adaptive_weight(kl, entropy, 2.0, 0.0)[:, 0], adaptive_weight(kl, entropy, 2.0, 0.0)[:, -1])
    adl = (1 - torch.exp(-(kl + entropy))) ** 2
    torch.testing.assert_close(adaptive_weight(kl, entropy, 2.0, 1.0), adl, rtol=1e-6, atol=1e-6)


def test_the_peak_of_a_soft_heatmap_survives_coarser_cells():
    teacher = output(SPEC, 1)
    hm = torch.full_like(teacher.heads[0].hm, -9.0)
    hm[0, 0, 5, 7] = 9.0
    teacher = teacher._replace(heads=(teacher.heads[0]._replace(hm=hm),))
    student = output(COARSE, 1)
    coarse = torch.full_like(student.heads[0].hm, -9.0)
    coarse[0, 0, 2, 3] = 9.0
    student = student._replace(heads=(student.heads[0]._replace(hm=coarse.requires_grad_()),))
    assert value(SoftHeatmap(weighting="dense"), SignalContext(student, teacher, COARSE, SPEC, [boxes()])).item() < 1e-3


def test_a_box_at_the_same_place_in_metres_costs_nothing_whatever_the_cell():
    teacher, student = output(SPEC, 1), output(COARSE, 1)
    hm = torch.full_like(teacher.heads[0].hm, -9.0)
    hm[0, 1, 5, 7] = 9.0
    ours, theirs = student.heads[0], teacher.heads[0]
    with torch.no_grad():
        theirs.center[0, :, 5, 7] = torch.tensor([0.5, 0.25])  # x = 7.5 m, y = 5.25 m
        ours.center[0, :, 2, 3] = torch.tensor([0.75, 0.625])
        for a, b in zip(ours[2:], theirs[2:], strict=True):
            a[0, :, 2, 3] = b[0, :, 5, 7]
    teacher = teacher._replace(heads=(theirs._replace(hm=hm),))
    context = SignalContext(student, teacher, COARSE, SPEC, [boxes()])
    assert value(SoftBoxes(), context).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        ours.dim[0, :, 2, 3] += 0.5
    assert value(SoftBoxes(), context).item() == pytest.approx(1.5, rel=1e-4)
    assert value(SoftBoxes(threshold=1.0), context).item() == 0


def test_a_false_proposal_of_the_student_is_pushed_down_and_a_swap_of_scores_costs_more():
    teacher = output(SPEC, 1)
    hm = torch.full_like(teacher.heads[0].hm, -6.0)
    hm[0, 0, 3, 3], hm[0, 0, 10, 10] = 3.0, 0.5
    teacher = teacher._replace(heads=(teacher.heads[0]._replace(hm=hm),))

    def loss(first, second, false=-6.0):
        mine = hm.clone()
        mine[0, 0, 3, 3], mine[0, 0, 10, 10], mine[0, 1, 6, 12] = first, second, false
        mine.requires_grad_()
        student = teacher._replace(heads=(teacher.heads[0]._replace(hm=mine),))
        found = value(ProposalRanking(), SignalContext(student, teacher, SPEC, SPEC, [boxes()]))
        return found, mine

    assert loss(3.0, 0.5)[0].item() == pytest.approx(0, abs=1e-7)
    assert loss(0.5, 3.0)[0].item() > loss(2.0, 1.5)[0].item() > 0
    wrong, mine = loss(3.0, 0.5, false=2.0)
    wrong.backward()
    assert mine.grad[0, 1, 6, 12] > 0  # descent lowers it


def test_peaks_are_local_maxima_of_each_class():
    heatmap = torch.zeros(2, 2, 4, 5)
    heatmap[1, 1, 2, 3], heatmap[1, 1, 2, 4], heatmap[0, 0, 0, 0] = 0.9, 0.8, 0.05
    confidence, kind, cell = peaks(heatmap)
    assert (confidence.tolist(), kind.tolist(), cell.tolist()) == (pytest.approx([0.9]), [1], [20 + 13])


def test_divergence_is_zero_with_zero_gradient_when_equal():
    p = torch.linspace(1e-4, 1 - 1e-4, 50).requires_grad_()
    found = divergence(p.detach(), p)
    found.sum().backward()
    assert found.abs().max() == 0
    assert p.grad.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (lambda: made({"signal": "magic"}, SPEC, SPEC), "no signal 'magic'. Use logits, "),
        (lambda: made({"signal": "mimic", "sise": 3}, SPEC, SPEC), "mimic has no option sise; it has weight, tap"),
        (lambda: made({"signal": "mimic", "weight": -1}, SPEC, SPEC), "weight of mimic must be a number of 0 or more"),
        (lambda: made({"signal": "fitnet", "mask": "some"}, SPEC, SPEC), "no mask 'some'. Use gaussian"),
        (
            lambda: made({"signal": "fitnet", "tap": "level9"}, SPEC, SPEC),
            "student has no feature map 'level9'; it has",
        ),
        (lambda: made({"signal": "ranking"}, COARSE, SPEC), r"ranked only between equal output grids; .* 2 m, .* 1 m"),
        (lambda: made({"signal": "pivotal-boxes"}, COARSE, SPEC), "box regression can be distilled only between equal"),
        (lambda: SoftHeatmap(weighting="any"), "no weighting 'any'. Use adaptive"),
        (lambda: SoftHeatmap(background=2.0), "background weight must be in 0..1, not 2"),
        (
            lambda: made({"signal": "fitnet"}, SPEC, replace(SPEC, grid=replace(SPEC.grid, frame="ego"))),
            "student is in the lidar frame, the teacher in ego",
        ),
        (
            lambda: SoftBoxes().check(SPEC, replace(SPEC, grid=replace(SPEC.grid, frame="ego"))),
            "student is in the lidar frame, the teacher in ego",
        ),
    ],
)
def test_what_cannot_be_made_is_refused(work, text):
    with pytest.raises(UsageError, match=text):
        work()


def test_an_optional_signal_is_left_out_where_it_cannot_join_the_models():
    assert made({"signal": "ranking", "optional": True}, COARSE, SPEC) == ()
    assert made({"signal": "center-boxes", "optional": True}, SPEC, SPEC) == (CenterRegression(),)


def test_general_instances_are_the_places_of_most_disagreement_whoever_is_right():
    teacher, student = torch.full((1, 2, 9, 9), 0.1), torch.full((1, 2, 9, 9), 0.1)
    teacher[0, 0, 2, 2], student[0, 1, 6, 6], teacher[0, 1, 2, 3] = 0.9, 0.8, 0.4
    everywhere = torch.ones(9, 9, dtype=torch.bool)
    mask = InstanceLogits(count=10).instances(student, teacher, everywhere)
    wanted = torch.zeros(1, 9, 9)
    wanted[0, 1:4, 1:4] = wanted[0, 5:8, 5:8] = 1  # the lower maximum beside the first is no instance of its own
    assert torch.equal(mask, wanted)
    assert InstanceLogits(count=1).instances(student, teacher, everywhere).sum() == 9
    assert InstanceLogits(threshold=0.75).instances(student, teacher, everywhere).sum() == 9
    for wrong in ({"count": 0}, {"window": 4}):
        with pytest.raises(UsageError, match=r"at least 1 instance .* odd number of cells"):
            InstanceLogits(**wrong)


def test_every_object_has_the_mass_of_its_confidence_whatever_its_area():
    teacher = output(SPEC, frames=1)
    hm, dim = teacher.heads[0].hm.data, teacher.heads[0].dim.data
    hm.fill_(-20), dim.zero_(), teacher.heads[0].center.data.fill_(0.5)
    hm[0, 0, 4, 4], hm[0, 1, 11, 11] = 0.0, 0.0  # confidence 0.5 each: one short and narrow, one long
    dim[0, :, 11, 11] = torch.tensor([math.log(6.0), math.log(3.0), 0.0])
    context = SignalContext(same(teacher), teacher, SPEC, SPEC, FRAMES[:1])
    signal = RegionFeatures(eta=0.0, zeta=0.0, tap="neck")
    mask, frames = signal.region(context, teacher.taps[-1].tensor.detach(), SPEC.output_grid)
    assert frames == 1
    assert mask.sum().item() == pytest.approx(1, abs=1e-5)
    assert mask[0, :8, :8].sum().item() == pytest.approx(0.5, abs=0.01)
    assert mask[0, 4, 4] > 3 * mask[0, 11, 11]  # the same mass on fewer cells
    hm.fill_(-20)
    empty = SignalContext(same(teacher), teacher, SPEC, SPEC, FRAMES[:1])
    assert signal.region(empty, teacher.taps[-1].tensor.detach(), SPEC.output_grid)[1] == 0
    assert value(signal, empty).item() == 0
