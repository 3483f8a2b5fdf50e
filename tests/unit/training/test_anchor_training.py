"""Losses of anchor heads: hand values, a slow reference in double precision, and a detector that learns with them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_frames import boxes_of, memory_dataset

from kd3d.detectors.batch import prepare
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import weights_hash
from kd3d.detectors.decode import decode_batch
from kd3d.detectors.presets import preset
from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.anchor_targets import assign_anchors
from kd3d.runtime.heads import AnchorMaps
from kd3d.training.anchor_losses import (
    AnchorWeights,
    anchor_losses,
    code_differences,
    gather_anchors,
    sigmoid_focal_loss,
    smooth_l1,
)
from kd3d.training.anchor_targets import assign_anchors_batch
from kd3d.training.labels import map_labels
from kd3d.training.loop import train
from kd3d.training.objective import DetectionObjective, default_weights, detection_terms, total
from kd3d.training.settings import TrainSettings

SPEC = preset("world-pointpillars-tiny")
THREE = replace(  # the classes that the frames have: six anchors instead of twenty
    SPEC,
    head=replace(
        SPEC.anchor_head,
        anchors=tuple(one for one in SPEC.anchor_head.anchors if one.name in ("car", "truck", "pedestrian")),
    ),
)


def frames(count=3):
    found = [boxes_of(np.random.default_rng(seed), count=12) for seed in range(count - 1)]
    return [*found, Boxes3D.empty()]


def random_maps(spec=SPEC, count=3, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    grid = spec.output_grid
    return AnchorMaps(
        *(
            (torch.randn(count, channels, grid.ny, grid.nx, generator=generator) * scale).requires_grad_()
            for _, channels in spec.head.maps
        )
    )


def test_a_batch_is_the_reference_of_each_frame():
    given = frames()
    got = assign_anchors_batch(given, SPEC)
    area, taken = got.label.shape[1], 0
    assert area == 64 * 64 * 20
    for index, frame in enumerate(given):
        want = assign_anchors(frame, SPEC)
        rows = slice(taken, taken + len(want.place))
        np.testing.assert_array_equal(got.label[index].numpy(), want.label)
        np.testing.assert_array_equal(got.place[rows].numpy(), want.place + index * area)
        np.testing.assert_array_equal(got.codes[rows].numpy(), want.codes)
        np.testing.assert_array_equal(got.direction[rows].numpy(), want.direction)
        taken += len(want.place)
    assert len(got.place) == taken > 10


def slow_losses(maps, given, spec):
    """The three losses of SECOND, anchor by anchor in double precision, from OpenPCDet's flattened layout."""
    classes, bins, sums, count = len(spec.head.classes), spec.anchor_head.direction_bins, [0.0, 0.0, 0.0], 0

    def flat(part, codes):  # (row, column, anchor), codes last
        return part.detach().double().permute(1, 2, 0).reshape(-1, codes).numpy()

    for frame, boxes in enumerate(given):
        target = assign_anchors(boxes, spec)
        logits = flat(maps.cls[frame], classes)
        p = 1 / (1 + np.exp(-logits))
        for anchor in np.flatnonzero(target.label >= 0):
            for kind in range(classes):
                one = p[anchor, kind]
                if target.label[anchor] == kind + 1:
                    sums[0] -= 0.25 * (1 - one) ** 2 * math.log(one)
                else:
                    sums[0] -= 0.75 * one**2 * math.log(1 - one)
        box, turn = flat(maps.box[frame], 7), flat(maps.dir[frame], bins)
        for row, anchor in enumerate(target.place):
            count += 1
            for code in range(7):
                apart = abs(box[anchor, code] - float(target.codes[row, code]))
                if code == 6:
                    apart = abs(math.sin(apart))
                sums[1] += 4.5 * apart**2 if apart < 1 / 9 else apart - 1 / 18
            sums[2] += math.log(np.exp(turn[anchor]).sum()) - turn[anchor][target.direction[row]]
    return sums, count


def test_the_losses_are_those_of_a_slow_reference():
    spec = replace(SPEC, grid=replace(SPEC.grid, cell_m=6.4))  # 16 x 16 cells
    given, maps = frames(), random_maps(spec)
    want, count = slow_losses(maps, given, spec)
    found = anchor_losses(maps, assign_anchors_batch(given, spec), AnchorWeights())
    assert [part.item() for part, _ in found] == pytest.approx(want, rel=1e-5)
    assert {mass.item() for _, mass in found} == {count}


def test_focal_loss_of_three_anchors_by_hand():
    logits = torch.zeros(1, 3, 2, 1, 1)
    label = torch.tensor([2, 0, -1]).view(1, 3, 1, 1)
    # p = 1/2 everywhere. An object of class 2: 0.25 / 4 log 2 for its class, 0.75 / 4 log 2 for the other one.
    # Background: 0.75 / 4 log 2 twice. The third anchor does not count.
    found = sigmoid_focal_loss(logits, label)
    assert found.item() == pytest.approx((0.25 + 3 * 0.75) / 4 * math.log(2), rel=1e-6)


def test_focal_loss_and_its_gradient_are_finite_for_extreme_logits():
    logits = torch.tensor([-1e4, 1e4, -80.0, 80.0]).reshape(1, 2, 2, 1, 1).requires_grad_()
    value = sigmoid_focal_loss(logits, torch.tensor([1, 0]).view(1, 2, 1, 1))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


def test_a_box_and_its_reverse_cost_the_same_and_the_smooth_part_is_quadratic():
    wanted = torch.zeros(1, 7)
    apart = code_differences(torch.tensor([[0.05, 0.5, 0, 0, 0, 0, math.pi]]), wanted)
    costs = smooth_l1(apart)[0]
    assert costs.tolist() == pytest.approx([4.5 * 0.05**2, 0.5 - 1 / 18, 0, 0, 0, 0, 0], abs=1e-6)


def test_single_anchors_are_gathered_from_their_channels():
    maps = torch.arange(2 * 6 * 2 * 3.0).view(2, 6, 2, 3)  # 2 anchors of 3 codes
    place = torch.tensor([(1 * 6 + 1 * 3 + 2) * 2 + 1])  # frame 1, row 1, column 2, anchor 1
    assert gather_anchors(maps, place, 2).tolist() == [maps[1, 3:, 1, 2].tolist()]


def test_codes_are_weighted_one_by_one():
    given, maps = frames(), random_maps()
    targets = assign_anchors_batch(given, SPEC)
    whole = anchor_losses(maps, targets, AnchorWeights())[1][0]
    parts = [
        anchor_losses(maps, targets, AnchorWeights(codes=tuple(float(code == one) for code in range(7))))[1][0]
        for one in range(7)
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-5)


def test_the_terms_have_seconds_weights_and_do_not_depend_on_how_a_batch_is_split():
    given, maps = frames(), random_maps()
    terms = detection_terms([maps], [assign_anchors_batch(given, SPEC)], default_weights(SPEC))
    assert [(term.name, term.weight) for term in terms] == [("anchor.cls", 1), ("anchor.box", 2), ("anchor.dir", 0.2)]
    parts = [
        detection_terms(
            [AnchorMaps(*(part[cut] for part in maps))], [assign_anchors_batch(given[cut], SPEC)], AnchorWeights()
        )
        for cut in (slice(0, 1), slice(1, 3))
    ]
    for index, term in enumerate(terms):
        torch.testing.assert_close(sum(part[index].sum for part in parts), term.sum)
        torch.testing.assert_close(sum(part[index].mass for part in parts), term.mass)


def test_a_batch_without_objects_has_a_finite_loss_and_gradient_everywhere():
    maps = random_maps(count=1)
    loss, _ = total(detection_terms([maps], [assign_anchors_batch([Boxes3D.empty()], SPEC)], AnchorWeights()))
    loss.backward()
    assert loss.item() > 0
    assert all(torch.isfinite(part.grad).all() for part in maps)
    assert maps.box.grad.abs().max() == 0


def test_mixed_precision_gives_the_losses_of_fp32():
    given, maps = frames(), random_maps()
    targets = assign_anchors_batch(given, SPEC)
    with torch.autocast("cpu", torch.bfloat16):
        inside = anchor_losses(maps, targets, AnchorWeights())
    for (one, _), (other, _) in zip(inside, anchor_losses(maps, targets, AnchorWeights()), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


# The loop


def module(spec=SPEC):
    torch.manual_seed(0)
    return build(spec)


def test_training_learns_two_frames_by_heart(tmp_path):
    dataset = memory_dataset(2)
    settings = TrainSettings(steps=50, batch_size=2, workers=0, log_every=1, ema_decay=0.9, lr=1e-2, norm_momentum=0.1)
    result = train(module(THREE), dataset, settings=settings, run=tmp_path)
    assert set(result.history[0]["terms"]) == {"anchor.cls", "anchor.box", "anchor.dir"}
    losses = [line["loss"] for line in result.history]
    assert np.mean(losses[-5:]) < np.mean(losses[:3]) / 5
    with torch.no_grad():
        heads = result.module(prepare(dataset.frames, THREE)).heads
    for frame, boxes in zip(dataset.frames, decode_batch(heads, THREE), strict=True):
        truth = map_labels(frame.boxes, frame.classes, THREE.head.classes)
        for centre, label in zip(truth.center_m, truth.label, strict=True):
            near = np.linalg.norm(boxes.center_m[:, :2] - centre[:2], axis=1) < 1.0
            assert (near & (boxes.label == label) & (boxes.score > 0.3)).any()


def test_a_run_that_left_off_ends_bit_for_bit_like_one_that_did_not(tmp_path):
    settings = TrainSettings(steps=4, batch_size=1, accumulate=2, workers=0, log_every=1)
    whole = train(module(THREE), memory_dataset(2), settings=settings, run=tmp_path / "whole")
    train(module(THREE), memory_dataset(2), settings=settings, run=tmp_path / "parts", stop_at=2)
    parts = train(module(THREE), memory_dataset(2), settings=settings, run=tmp_path / "parts")
    assert weights_hash(parts.model) == weights_hash(whole.model)
    assert [line["loss"] for line in parts.history] == [line["loss"] for line in whole.history]


def test_targets_made_by_the_worker_are_those_made_on_the_spot():
    from kd3d.training.batch import make_batch

    samples = memory_dataset(2).frames
    objective, net = DetectionObjective(SPEC), module().eval()
    ready = objective(net, make_batch(samples, SPEC))
    late = objective(net, make_batch(samples, SPEC, targets=False))
    assert [term.sum.item() for term in ready] == [term.sum.item() for term in late]
    assert "AnchorWeights" in objective.identity()["weights"]
