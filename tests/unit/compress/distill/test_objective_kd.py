from dataclasses import replace

import numpy as np
import pytest
import torch

from kd3d.compress.distill.features import cross_scale
from kd3d.compress.distill.label_kd import LabelKD
from kd3d.compress.distill.objective import DistillationObjective, same_input
from kd3d.compress.distill.signals import CenterRegression, PivotalLogits
from kd3d.compress.distill.teacher import TeacherSettings
from kd3d.datasets.sample import Sample
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import UsageError
from kd3d.geometry.boxes import Boxes3D
from kd3d.training.batch import make_batch
from kd3d.training.objective import total

SPEC = preset("world-centerpoint-pillar-tiny")
NARROW = replace(SPEC, backbone=replace(SPEC.backbone, channels=(8, 16), up_channels=(8, 8)))
COARSE = replace(NARROW, grid=replace(SPEC.grid, cell_m=3.2))
CLASSES = SPEC.head.classes


def boxes(labels, scores=None):
    array = np.array([[6.0 * i - 12, 3, 0, 4, 2, 1.5, 0.3, 1, 0] for i in range(len(labels))], np.float32).reshape(
        -1, 9
    )
    return Boxes3D(array, np.array(labels, np.int64), None if scores is None else np.array(scores, np.float32))


def batch(spec=NARROW, teacher=None):
    rng = np.random.default_rng(0)
    features = ("x", "y", "z", "intensity", "time_lag")
    samples = [
        Sample(
            f"t{i}",
            rng.uniform(-4, 4, (300, 5)).astype(np.float32) * [10, 10, 0.5, 1, 0],
            features,
            boxes([0, 3]),
            CLASSES,
        )
        for i in range(2)
    ]
    samples = [replace(sample, points=sample.points.astype(np.float32)) for sample in samples]
    return make_batch(samples, spec, teacher)


def teacher(seed=0):
    torch.manual_seed(seed)
    return build(SPEC)


def test_terms_are_the_detection_losses_and_every_signal_and_only_student_and_adapters_learn():
    master = teacher()
    before = {name: tensor.clone() for name, tensor in master.state_dict().items()}
    objective = DistillationObjective(
        master, NARROW, [PivotalLogits(), CenterRegression(), *cross_scale(NARROW, SPEC)], label_kd=LabelKD()
    )
    student = build(NARROW).train()
    terms = objective(student, batch())
    assert [term.name for term in terms] == [
        "task0.heatmap",
        "task0.box",
        "kd.logits",
        "kd.boxes",
        "kd.features.level0",
        "kd.features.level1",
        "kd.features.neck",
    ]
    total(terms)[0].backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(
        parameter.grad.abs().max() > 0
        for name, parameter in objective.adapters.named_parameters()
        if name.endswith("weight")
    )
    assert all(parameter.grad is None for parameter in master.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in master.state_dict().items())
    assert master.training  # the given teacher stays as it was
    assert all(parameter.requires_grad for parameter in master.parameters())
    assert not any("adapter" in name for name in student.state_dict())


def test_the_students_pillars_serve_a_teacher_with_the_same_input_and_no_other():
    assert same_input(NARROW, SPEC)
    assert not same_input(COARSE, SPEC)
    assert not same_input(replace(SPEC, encoder=replace(SPEC.encoder, max_points=3)), SPEC)
    dynamic = replace(SPEC, encoder=replace(SPEC.encoder, mode="dynamic"))
    assert same_input(replace(dynamic, encoder=replace(dynamic.encoder, max_points=3)), dynamic)
    assert DistillationObjective(teacher(), NARROW).teacher_input is None
    assert DistillationObjective(teacher(), COARSE).teacher_input == SPEC


def test_a_coarser_student_learns_from_the_teachers_own_pillars():
    objective = DistillationObjective(teacher(), COARSE, [PivotalLogits(), *cross_scale(COARSE, SPEC)])
    terms = objective(build(COARSE), batch(COARSE, SPEC))
    assert torch.isfinite(total(terms)[0])


def test_a_student_that_equals_the_teacher_has_no_distillation_loss():
    master = teacher()
    objective = DistillationObjective(master, SPEC, [PivotalLogits(), CenterRegression(), *cross_scale(SPEC, SPEC)])
    terms = objective(teacher().eval(), batch(SPEC))
    assert all(term.sum.item() == pytest.approx(0, abs=1e-6) for term in terms if term.name.startswith("kd."))
    assert len(list(objective.adapters.parameters())) == 0


def test_batch_statistics_are_an_option_that_works_on_a_copy():
    master = teacher().eval()
    kept = master.encoder.layers[0].norm.running_mean.clone()
    objective = DistillationObjective(master, NARROW, [PivotalLogits()], running=TeacherSettings(norm="train"))
    objective(build(NARROW), batch())
    assert torch.equal(master.encoder.layers[0].norm.running_mean, kept)
    plain = DistillationObjective(master, NARROW, [PivotalLogits()])
    student = build(NARROW).eval()
    assert plain(student, batch())[2].sum.item() != pytest.approx(objective(student, batch())[2].sum.item(), rel=1e-4)
    assert plain.identity() != objective.identity()


def test_pairs_that_cannot_be_joined_are_refused():
    other = replace(SPEC, head=replace(SPEC.head, tasks=(("ship",),)))
    with pytest.raises(UsageError, match="no class in common"):
        DistillationObjective(teacher(), other)
    with pytest.raises(UsageError, match="equal output grids"):
        DistillationObjective(teacher(), COARSE, [CenterRegression()])
    with pytest.raises(UsageError, match="two signals have the same name"):
        DistillationObjective(teacher(), NARROW, [PivotalLogits(), PivotalLogits()])
    with pytest.raises(UsageError, match="thresholds are given for tram, but the student's classes"):
        DistillationObjective(teacher(), NARROW, label_kd=LabelKD(per_class={"tram": 0.5}))


# Label distillation


def test_confident_teacher_boxes_follow_the_ground_truth_strictly_above_their_class_threshold():
    kd = LabelKD(0.6, {"truck": 0.3})
    merged = kd.merge(boxes([0, 1]), boxes([0, 0, 1, 1, 2], [0.6, 0.61, 0.31, 0.3, 0.9]), CLASSES)
    assert merged.label.tolist() == [0, 1, 0, 1, 2]
    assert merged.score is None
    assert np.array_equal(merged.array[:2], boxes([0, 1]).array)


def test_the_released_order_puts_teacher_boxes_first():
    merged = LabelKD.as_released({"car": 0.5}).merge(boxes([4]), boxes([0, 0], [0.55, 0.4]), CLASSES)
    assert merged.label.tolist() == [0, 4]


def test_ground_truth_is_never_dropped_by_a_crowd_of_teacher_boxes():
    from kd3d.training.targets import assign_targets_batch

    crowd = boxes([0] * 900, [0.9] * 900)
    crowd = Boxes3D(
        np.concatenate([np.random.default_rng(0).uniform(-50, 50, (900, 2)), crowd.array[:, 2:]], 1),
        crowd.label,
        crowd.score,
    )
    truth = boxes([3, 5])
    for order, kept in (("gt_first", True), ("teacher_first", False)):
        merged = LabelKD(order=order).merge(truth, crowd, CLASSES)
        target = assign_targets_batch([merged], SPEC)[0]
        assert bool(target.heatmap[0, 3].max() == 1) is kept


def test_without_confident_boxes_only_the_truth_remains_even_in_an_empty_frame():
    assert len(LabelKD().merge(boxes([]), boxes([0], [0.2]), CLASSES)) == 0
    assert len(LabelKD().merge(boxes([1]), Boxes3D.empty(scored=True), CLASSES)) == 1


def test_a_threshold_outside_0_to_1_is_refused():
    with pytest.raises(UsageError, match=r"threshold \(car\) must be in 0..1, not 60"):
        LabelKD(per_class={"car": 60})


def test_the_teachers_classes_become_the_students():
    small = replace(SPEC, head=replace(SPEC.head, tasks=(("truck", "car"),)))
    master = teacher().eval()
    with torch.no_grad():
        heads = master(batch(SPEC).student).heads
    hm = torch.full_like(heads[0].hm, -9.0)
    hm[0, 0, 10, 10] = hm[0, 1, 20, 20] = hm[0, 2, 30, 30] = 3.0
    heads = (heads[0]._replace(hm=hm),)
    found = LabelKD().labels([boxes([]), boxes([])], heads, teacher_spec=SPEC, student_spec=small)
    assert sorted(found[0].label.tolist()) == [0, 1]  # truck and car; the third class is none of the student's
    assert len(found[1]) == 0
