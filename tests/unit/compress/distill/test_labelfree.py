"""Distillation by the teacher's confidence: in its objects, in their boxes, and what becomes of both."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_signals import FRAMES, SPEC, boxes, make_spec, output, same, value

from kd3d.compress.distill.context import SignalContext
from kd3d.compress.distill.instances import RegionFeatures
from kd3d.compress.distill.labelfree import ProposalRanking, SoftBoxes, SoftHeatmap, rendered
from kd3d.compress.distill.proposals import MOST, peaks, teacher_boxes
from kd3d.compress.distill.semi import NoLabels
from kd3d.errors import UsageError
from kd3d.geometry.iou import bev_iou
from kd3d.training.targets import assign_targets_batch

COARSE = make_spec(2.0)
SIGNALS = (SoftHeatmap(), SoftHeatmap(soft="render"), SoftBoxes(), ProposalRanking(), RegionFeatures())


def context_of(student, teacher, spec=SPEC):
    return SignalContext(student, teacher, spec, SPEC, NoLabels())


def sparse(*spots, frames=1):
    """A teacher with objects at (class, row, column, logit) alone: 4 m x 2 m, in the middle of their cells."""
    found = output(SPEC, frames=frames)
    (task,) = found.heads
    with torch.no_grad():
        task.hm.fill_(-12.0)
        task.center.fill_(0.5)
        task.dim.copy_(torch.log(torch.tensor([4.0, 2.0, 1.5]))[None, :, None, None].expand_as(task.dim))
        task.rot.copy_(torch.tensor([0.0, 1.0])[None, :, None, None].expand_as(task.rot))
        for kind, row, column, logit in spots:
            task.hm[:, kind, row, column] = logit
    return found


def outputs_of(frames, spec=SPEC):
    """What a perfect head puts out for boxes."""
    found = output(SPEC, frames=len(frames))
    (target,) = assign_targets_batch(frames, spec)
    (task,) = found.heads
    with torch.no_grad():
        task.hm.copy_(torch.logit(target.heatmap.clamp(1e-6, 1 - 1e-6)))
        maps = (task.center, task.center_z, task.dim, task.rot, task.vel)
        for part, values in zip(maps, target.values.split([2, 1, 3, 2, 2], 1), strict=True):
            flat = part.movedim(1, -1).reshape(-1, part.shape[1])
            flat[target.cell] = values
            part.copy_(flat.view(*part.shape[:1], *part.shape[2:], -1).movedim(-1, 1))
    return found


@pytest.mark.parametrize("spec", [SPEC, COARSE], ids=["same cells", "coarser cells"])
def test_rendered_soft_labels_of_sure_objects_are_the_targets_of_their_boxes_bit_for_bit(spec):
    context = context_of(output(spec), outputs_of(FRAMES), spec)
    found = context.proposals
    context.__dict__["proposals"] = replace(found, score=torch.ones_like(found.score))
    soft, confidence = rendered(context, 0.0)
    (target,) = assign_targets_batch(FRAMES, spec)
    assert torch.equal(soft, target.heatmap)
    assert confidence.tolist() == [1.0] * 5


def test_rendered_soft_labels_grow_with_confidence_and_stay_between_0_and_1():
    low, high = (
        rendered(context_of(output(SPEC, 1), sparse((0, 4, 4, logit), (0, 5, 6, 1.0), (1, 9, 9, 2.0))), 0.0)[0]
        for logit in (0.0, 3.0)
    )
    assert (high >= low).all()
    assert (high > low).any()
    assert 0 <= low.min() <= high.max() <= 1
    assert low[0, 0, 4, 4] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.name)
def test_the_order_of_classes_does_not_matter(signal):
    student, teacher, turn = output(SPEC, seed=1), output(SPEC, seed=2), [2, 0, 1]
    ours = value(signal, context_of(student, teacher))
    turned = [
        found._replace(heads=(found.heads[0]._replace(hm=found.heads[0].hm[:, turn]),)) for found in (student, teacher)
    ]
    assert value(signal, context_of(*turned)).item() == pytest.approx(ours.item(), rel=1e-5)


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.name)
@pytest.mark.parametrize(
    "spots",
    [[], [(0, 4, 4, 60.0)], [(0, 4, 4, 60.0), (1, 4, 4, 60.0)]],
    ids=["nothing", "one object", "two classes in one cell"],
)
def test_losses_and_gradients_are_finite_where_the_teacher_is_as_sure_as_can_be(signal, spots):
    teacher = sparse(*spots)
    with torch.no_grad():
        teacher.heads[0].hm[teacher.heads[0].hm < 0] = -60.0
        teacher.heads[0].dim[:, :, 4, 4] = 200.0  # a size that no number holds
    student = output(SPEC, frames=1, seed=3)
    loss = value(signal, context_of(student, teacher))
    loss.backward()
    planes = [t for maps in student.heads for t in maps] + [tap.tensor for tap in student.taps]
    assert torch.isfinite(loss)
    assert all(t.grad is None or torch.isfinite(t.grad).all() for t in planes)


def test_no_more_than_200_objects_of_a_frame_count_and_the_best_of_them():
    heatmap = torch.zeros(2, 1, 60, 60)
    heatmap[0, 0, ::2, ::2] = torch.linspace(0.2, 0.9, 900).view(30, 30)
    heatmap[1, 0, 3, 3] = 0.5
    score, _, cell = peaks(heatmap)
    assert (cell < 3600).sum() == MOST
    assert (cell >= 3600).sum() == 1
    assert score[:MOST].min() == pytest.approx(float(heatmap[0].flatten().sort().values[-MOST]))


def test_a_box_that_its_neighbours_see_elsewhere_is_worth_less_and_a_lonely_peak_its_score():
    teacher = sparse((0, 4, 4, 2.0), (0, 4, 5, 1.9), (0, 10, 10, 2.0), (0, 10, 11, 1.9), (0, 14, 3, 2.0))
    with torch.no_grad():
        teacher.heads[0].center[0, 0, 4, 5] = -0.5  # the same place as that of its neighbour
        teacher.heads[0].center[0, 0, 10, 11] = 2.5  # two metres off
    found = context_of(same(teacher), teacher).proposals
    assert found.cell.tolist() == [4 * 16 + 4, 10 * 16 + 10, 14 * 16 + 3]
    assert found.quality.tolist() == [pytest.approx(1, abs=1e-5), pytest.approx(1 / 7, abs=1e-5), -1]
    score = torch.sigmoid(torch.tensor(2.0)).item()
    assert found.confidence().tolist() == [
        pytest.approx(math.sqrt(score), rel=1e-5), pytest.approx(math.sqrt(score / 7), rel=1e-4), pytest.approx(score)
    ]  # fmt: skip
    assert found.confidence(0.0).tolist() == [pytest.approx(score)] * 3


def test_agreement_is_the_weighted_mean_overlap_with_the_neighbours_by_a_slow_loop():
    teacher = output(SPEC, seed=5)
    context = context_of(same(teacher), teacher)
    found, heat = context.proposals, context.teacher_heatmap
    assert len(found.cell) > 20
    for quality, kind, cell in zip(found.quality.tolist(), found.kind.tolist(), found.cell.tolist(), strict=True):
        frame, row, column = cell // 256, cell % 256 // 16, cell % 16
        near = [
            (y, x)
            for y in range(max(0, row - 1), min(16, row + 2))
            for x in range(max(0, column - 1), min(16, column + 2))
            if (y, x) != (row, column) and heat[frame, kind, y, x] >= heat[frame, kind, row, column] / 2
        ]
        cells = torch.tensor([cell, *(frame * 256 + y * 16 + x for y, x in near)])
        rows = teacher_boxes(context, "car", cells).double().numpy()
        weights = np.array([heat[frame, kind, y, x].item() for y, x in near])
        wanted = (bev_iou(rows[:1], rows[1:])[0] * weights).sum() / weights.sum() if near else -1
        assert quality == pytest.approx(wanted, abs=1e-4)


def test_a_student_box_nearer_to_the_teachers_costs_less_and_an_unsure_one_nothing():
    teacher = sparse((0, 4, 4, 2.0))

    def loss(offset, **options):
        student = same(teacher)
        with torch.no_grad():
            student.heads[0].center[0, 0, 4, 4] += offset
        return value(SoftBoxes(**options), context_of(student, teacher)).item()

    assert [loss(offset) for offset in (0.0, 0.2, 1.0)] == pytest.approx([0, 0.2, 1.0], abs=1e-5)
    assert loss(1.0, threshold=0.95) == 0
    with torch.no_grad():
        teacher.heads[0].hm[0, 0, 4, 5] = 1.9
        teacher.heads[0].center[0, 0, 4, 5] = 9.5  # the neighbour has another box: score 0.88, confidence 0
    assert loss(1.0) == 0
    assert loss(1.0, localisation=0.0) == pytest.approx(1.0, rel=1e-4)


def test_a_region_turns_with_the_scene():
    teacher = output(SPEC, frames=2, seed=8)
    with torch.no_grad():
        teacher.heads[0].hm.sub_(2.0)

    def mirrored(found):
        """The scene with x negated: columns from the other side, offsets from the other edge, headings mirrored."""
        (task,) = found.heads
        flip = {name: maps.detach().flip(-1) for name, maps in task._asdict().items()}
        flip["center"] = torch.stack([1 - flip["center"][:, 0], flip["center"][:, 1]], 1)
        flip["rot"] = flip["rot"] * torch.tensor([1.0, -1.0])[None, :, None, None]
        taps = tuple(tap._replace(tensor=tap.tensor.detach().flip(-1)) for tap in found.taps)
        return found._replace(heads=(type(task)(**flip),), taps=taps)

    def transposed(found):
        """The scene with x and y exchanged: a quarter turn, mirrored."""
        (task,) = found.heads
        turn = {name: maps.detach().transpose(-1, -2) for name, maps in task._asdict().items()}
        turn["center"], turn["rot"] = turn["center"].flip(1), turn["rot"].flip(1)
        taps = tuple(tap._replace(tensor=tap.tensor.detach().transpose(-1, -2)) for tap in found.taps)
        return found._replace(heads=(type(task)(**turn),), taps=taps)

    signal, grid = RegionFeatures(), SPEC.output_grid

    def region(found):
        return signal.region(context_of(same(found), found), found.taps[-1].tensor.detach(), grid)[0]

    torch.testing.assert_close(region(mirrored(teacher)), region(teacher).flip(-1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(region(transposed(teacher)), region(teacher).mT, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (lambda: SoftHeatmap(soft="draw"), "no soft labels 'draw'. Use copy or render"),
        (lambda: SoftHeatmap(localisation=1.5), r"exponent of localisation must be in 0..1, not 1.5"),
        (lambda: SoftBoxes(localisation=-1), r"exponent of localisation must be in 0..1, not -1"),
        (lambda: RegionFeatures(localisation=2), r"exponent of localisation must be in 0..1, not 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(work, text):
    with pytest.raises(UsageError, match=text):
        work()


def test_ranking_takes_no_more_than_200_of_the_teachers_objects():
    wide = make_spec(size=64.0)
    teacher = output(wide, frames=1)
    with torch.no_grad():
        teacher.heads[0].hm.fill_(-9.0)
        teacher.heads[0].hm[0, 0, ::2, ::2] = torch.linspace(0.0, 3.0, 1024).view(32, 32)
    student = same(teacher)
    with torch.no_grad():
        student.heads[0].hm[0, 0, 0, 0] = -3.0  # the least sure of 1024
    found = SignalContext(student, teacher, wide, wide, [boxes()])
    assert value(ProposalRanking(), found).item() == pytest.approx(0, abs=1e-7)
    with torch.no_grad():
        student.heads[0].hm[0, 0, 62, 62] = -3.0
    assert value(ProposalRanking(), SignalContext(student, teacher, wide, wide, [boxes()])).item() > 1e-3
