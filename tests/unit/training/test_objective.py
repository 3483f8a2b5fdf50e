import math
from dataclasses import replace

import pytest
import torch
from training_frames import frame_of, memory_dataset

from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.heads import TaskMaps
from kd3d.training.batch import make_batch
from kd3d.training.objective import DetectionObjective, DetectionWeights, Term, detection_terms, total

TINY = preset("world-centerpoint-pillar-tiny")


def term(name, value, mass, weight=1.0, floor=1.0):
    return Term(name, torch.tensor(value, requires_grad=True), torch.tensor(mass), weight, floor)


def test_the_total_is_the_weighted_sum_of_divided_terms():
    loss, parts = total([term("a", 6.0, 3.0), term("b", 8.0, 4.0, weight=0.5)])
    assert loss.item() == 3.0
    assert {name: part.item() for name, part in parts.items()} == {"a": 2.0, "b": 1.0}


def test_a_mass_below_the_floor_divides_by_the_floor():
    assert total([term("a", 6.0, 0.0)])[0].item() == 6.0
    assert total([term("a", 0.5, 0.25, floor=1e-6)])[0].item() == pytest.approx(2.0)


def test_masses_of_all_micro_batches_replace_the_terms_own():
    loss, _ = total([term("a", 6.0, 3.0)], {"a": torch.tensor(12.0)})
    assert loss.item() == 0.5


def module():
    torch.manual_seed(0)
    return build(TINY)


def test_detection_terms_are_one_focal_and_one_box_term_per_task():
    spec = preset("world-centerpoint-pillar-six-tasks")
    torch.manual_seed(0)
    terms = DetectionObjective(spec, DetectionWeights(box=0.25))(build(spec), make_batch([frame_of(0)], spec))
    assert [(t.name, t.weight) for t in terms[:2]] == [("task0.heatmap", 1.0), ("task0.box", 0.25)]
    assert len(terms) == 12
    assert sum(t.mass.item() for t in terms if t.name.endswith("box")) == 8  # every box belongs to one task


def test_losses_do_not_depend_on_how_the_batch_is_split():
    frames, net = [frame_of(seed) for seed in range(4)], module().eval()  # batch statistics would differ
    objective = DetectionObjective(TINY)
    whole, _ = total(objective(net, make_batch(frames, TINY)))
    halves = [objective(net, make_batch(part, TINY)) for part in (frames[:1], frames[1:])]
    masses = {a.name: a.mass + b.mass for a, b in zip(*halves, strict=True)}
    assert sum(total(half, masses)[0].item() for half in halves) == pytest.approx(whole.item(), rel=1e-5)


def test_a_batch_without_boxes_is_finite_and_trains():
    net = module().train()
    loss, _ = total(DetectionObjective(TINY)(net, make_batch([frame_of(0, boxes=Boxes3D.empty())] * 2, TINY)))
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)
    assert net.encoder.layers[0].linear.weight.grad.abs().sum() > 0


def test_targets_are_assigned_here_when_the_batch_brings_none():
    net = module().eval()
    frames = [memory_dataset(1)[0]]
    with_targets, without = make_batch(frames, TINY), make_batch(frames, TINY, targets=False)
    assert without.targets is None
    objective = DetectionObjective(TINY)
    assert torch.equal(total(objective(net, with_targets))[0], total(objective(net, without))[0])


def test_a_batch_has_the_teachers_view_of_the_same_points():
    teacher = preset("world-centerpoint-pillar")
    batch = make_batch([frame_of(0)], TINY, teacher)
    assert batch.teacher is not None
    assert int(batch.teacher.counts.sum()) >= int(batch.student.counts.sum())  # finer cells drop fewer points
    assert len(batch.teacher.cells) > len(batch.student.cells)


def test_maps_that_hold_the_targets_have_no_box_loss():
    batch = make_batch([frame_of(1), frame_of(2)], TINY)
    (target,) = batch.targets
    sizes = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}
    flat = torch.zeros(2 * 64 * 64, 10)
    flat[target.cell] = target.values
    parts = flat.reshape(2, 64, 64, 10).permute(0, 3, 1, 2).split(list(sizes.values()), 1)
    maps = TaskMaps(hm=torch.zeros(2, 10, 64, 64), **dict(zip(sizes, parts, strict=True)))
    box = detection_terms([maps], batch.targets, DetectionWeights())[1]
    assert box.name == "task0.box"
    assert box.sum.item() == 0
    assert box.mass.item() == 16


def test_velocity_counts_a_fifth_where_a_detector_predicts_it():
    assert DetectionWeights.of(TINY) == DetectionWeights(box=0.25, velocity=0.2)
    still = replace(TINY, head=replace(TINY.head, velocity=False))
    assert DetectionWeights.of(still) == DetectionWeights(box=2.0)
    batch = make_batch([frame_of(1)], TINY)
    module = build(TINY)
    heads = module(batch.student).heads
    full = detection_terms(heads, batch.targets, DetectionWeights())[1].sum
    none = detection_terms(heads, batch.targets, DetectionWeights(velocity=0.0))[1].sum
    fifth = detection_terms(heads, batch.targets, DetectionWeights(velocity=0.2))[1].sum
    assert fifth.item() == pytest.approx((none + 0.2 * (full - none)).item(), rel=1e-5)
