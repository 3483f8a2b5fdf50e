"""Pseudo-labels: the teacher's boxes are the labels of frames that have none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_semi import TINY, check_cached_terms, mixed_batch
from training_frames import frame_of

from kd3d.compress.distill.frame_weights import FrameSettings
from kd3d.compress.distill.label_kd import LabelKD
from kd3d.compress.distill.objective import DistillationObjective, Semi
from kd3d.compress.distill.signals import PivotalLogits
from kd3d.compress.recipe import Recipe
from kd3d.detectors.build import build
from kd3d.errors import UsageError
from kd3d.geometry.boxes import Boxes3D
from kd3d.training.batch import make_batch

PSEUDO = LabelKD(threshold=0.3, pseudo=0.101)


def test_the_teachers_boxes_are_the_labels_of_frames_without_to_losses_and_signals_alike():
    torch.manual_seed(0)
    teacher, student = build(TINY).eval(), build(TINY).train()
    batch = mixed_batch()
    objective = DistillationObjective(teacher, TINY, (PivotalLogits(),), label_kd=PSEUDO, semi=Semi(2))
    mixed = {term.name: term for term in objective(student, batch)}
    assert objective.taught == ("kd.logits",)

    with torch.no_grad():
        found = PSEUDO.found(teacher(batch.student).heads, TINY)
    pseudo = PSEUDO.pseudo_labels(found[2:], teacher_spec=TINY, student_spec=TINY)
    assert min(map(len, pseudo)) > 3
    frames = [frame_of(0), frame_of(1), *(replace(frame_of(100 + i), boxes=pseudo[i]) for i in range(2))]
    same_labels = DistillationObjective(teacher, TINY, (PivotalLogits(),), label_kd=LabelKD(threshold=1.0))
    labels = PSEUDO.joined(make_batch(frames[:2], TINY).boxes, found[:2], teacher_spec=TINY, student_spec=TINY)
    whole = make_batch(frames, TINY)
    detection = {
        term.name: term for term in same_labels(student, replace(whole, boxes=[*labels, *pseudo], targets=None))
    }
    taught = {term.name: term for term in same_labels(student, whole)}
    for name, term in mixed.items():
        wanted = (taught if name.startswith("kd") else detection)[name]
        assert term.mass == wanted.mass
        assert term.sum.item() == pytest.approx(wanted.sum.item(), rel=1e-5)


def test_pseudo_labels_are_the_boxes_above_their_own_threshold_and_none_where_there_is_none():
    frame = frame_of(0).boxes
    found = [Boxes3D(frame.array, frame.label, np.linspace(0.2, 0.5, len(frame), dtype=np.float32))]
    given = {"teacher_spec": TINY, "student_spec": TINY}
    kept = LabelKD(threshold=0.9, per_class={"car": 0.99}, pseudo=0.35).pseudo_labels(found, **given)
    assert len(kept[0]) == (found[0].score > 0.35).sum() > 0
    assert kept[0].score is None
    assert LabelKD().pseudo_labels(found, **given) == []


def test_pseudo_labels_need_no_label_distillation():
    objective = replace(Recipe(), pseudo_labels=0.35, label_threshold=None).objective(build(TINY), TINY, semi=Semi(2))
    assert (objective.label_kd.threshold, objective.label_kd.pseudo, objective.pseudo) == (1.0, 0.35, True)


def test_pseudo_labels_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match=r"label-distillation threshold \(pseudo\) must be in 0..1, not 2"):
        LabelKD(pseudo=2.0)
    with pytest.raises(UsageError, match=r"pseudo-labels and the weighing of frames \(frames\) do not go together"):
        replace(Recipe(), pseudo_labels=0.3, frames=FrameSettings()).objective(build(TINY), TINY, semi=Semi(2))


def test_a_cached_training_with_pseudo_labels_sees_the_terms_of_an_uncached_one(tmp_path):
    for exact, near in check_cached_terms(replace(Recipe(), pseudo_labels=0.35), tmp_path):
        assert float(near.mass) == pytest.approx(float(exact.mass), rel=1e-3)
