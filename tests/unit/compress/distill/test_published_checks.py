"""Facts that a re-implementation must show: SparseKD's (C11, C14) and those of distillation between modalities (1-15).

Where a fact is tested elsewhere, docs/distillation.md says where.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_signals import FRAMES, SIGNALS, SPEC, boxes, leaves, output, same, value
from torch.nn import functional

from kd3d.compress.distill.context import SignalContext
from kd3d.compress.distill.labelfree import ProposalRanking, SoftHeatmap
from kd3d.compress.distill.objective import DistillationObjective
from kd3d.compress.distill.points import nine_points, sample_points
from kd3d.compress.distill.responses import PillarResponses
from kd3d.compress.distill.signals import PivotalLogits
from kd3d.compress.distill.unidistill import GaussianResponses, NinePoints, PointRelations, small_gaussians
from kd3d.detectors.build import build
from kd3d.detectors.model import BevTap, DetectorOutput
from kd3d.detectors.presets import preset
from kd3d.geometry.boxes import Boxes3D
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.heads import TaskMaps
from kd3d.runtime.targets import draw_gaussian
from kd3d.training.objective import total

GRID = BevGrid(-54, -54, -5, 54, 54, 3, 0.6)
UNIDISTILL = (NinePoints(), PointRelations(), GaussianResponses())


def box(x, y, length, width, yaw):
    return Boxes3D(np.array([[x, y, 0, length, width, 1, yaw, 0, 0]], np.float32), np.zeros(1, np.int64))


def test_c11_other_corners_would_put_the_impulse_elsewhere():
    impulse = torch.zeros(1, 1, 232, 232)
    impulse[..., 100, 100] = 1
    wrong = functional.interpolate(impulse, size=(464, 464), mode="bilinear", align_corners=True)[0, 0]
    centre = (wrong.sum(1) * torch.arange(464)).sum() / wrong.sum()
    assert wrong.max().item() == pytest.approx(0.6147, abs=1e-4)  # 0.5625 is right
    assert centre.item() == pytest.approx(200.433, abs=1e-3)  # 200.5 is right


def test_2_a_corner_is_sampled_at_its_place_in_cells():
    columns = torch.arange(180.0).expand(1, 1, 180, 180) + 0.5
    maps = torch.cat([columns, columns.mT], 1)
    corner = sample_points(maps, GRID, [nine_points(box(10, 5, 4, 2, math.pi / 6))])[0, 0]
    torch.testing.assert_close(corner, torch.tensor([104.6132, 95.2233]), atol=2e-4, rtol=0)
    torch.testing.assert_close(2 * corner / 180 - 1, torch.tensor([0.1624, 0.0580]), atol=1e-4, rtol=0)


def test_3_aligned_corners_would_miss_the_place_by_centimetres():
    x = GRID.x_min_m + (torch.arange(180) + 0.5) * 0.6
    maps = torch.stack([x.expand(180, -1), x[:, None].expand(-1, 180)])[None]
    points = nine_points(box(10, 5, 4, 2, math.pi / 6))
    exact = sample_points(maps, GRID, [points])
    assert (exact - points).abs().max() < 2e-5
    aligned = functional.grid_sample(maps, (points / 54)[:, :, None], align_corners=True)[0, :, :, 0].T
    assert 0.03 < (aligned - points[0]).abs().max() < 0.1


def test_7_the_relation_of_a_point_with_itself_is_nearly_1_and_0_where_nothing_is():
    from kd3d.compress.distill.unidistill import _cosines

    rows = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    rows[1, 4] = 0
    found = _cosines(rows).diagonal(dim1=1, dim2=2)
    assert found[1, 4] == 0
    kept = torch.cat([found[0], found[1, :4], found[1, 5:]])
    assert ((1 - kept) > 0).all()
    assert ((1 - kept) < 1e-3).all()


@pytest.mark.parametrize("signal", [NinePoints(weight=1.0), PointRelations(weight=1.0)])
def test_8_a_trailer_weighs_as_much_as_a_pedestrian(signal):
    trailer, pedestrian = box(8, 8, 12, 2.9, 0.2), box(5, 12, 0.7, 0.7, 0.0)
    student, teacher = output(SPEC, 1, seed=1), output(SPEC, 1, seed=2)
    both = Boxes3D.concatenate([trailer, pedestrian])
    one, other, mean = (
        value(signal, SignalContext(student, teacher, SPEC, SPEC, [found])).item()
        for found in (trailer, pedestrian, both)
    )
    assert mean == pytest.approx((one + other) / 2, rel=1e-5)


@pytest.mark.parametrize("signal", UNIDISTILL, ids=lambda signal: signal.name)
def test_9_without_labels_nothing_is_lost_and_nothing_moves(signal):
    student, teacher = output(SPEC, seed=1), output(SPEC, seed=2)
    loss = value(signal, SignalContext(student, teacher, SPEC, SPEC, [boxes()] * 3))
    loss.backward()
    assert loss.item() == 0
    assert all(t.grad is None or t.grad.abs().max() == 0 for t in leaves(student))


@pytest.mark.parametrize(
    ("radius", "mass", "near"),
    [(0, 1.0, []), (1, 1.6146, [0.1353]), (2, 4.3505, [0.4868, 0.0561]), (3, 8.5182, [])],
)
def test_10_gaussians_have_the_published_mass(radius, mass, near):
    heatmap = np.zeros((15, 15), np.float32)
    draw_gaussian(heatmap, 7, 7, radius)
    assert heatmap.sum() == pytest.approx(mass, abs=1e-4)
    assert heatmap[7, 8 : 8 + len(near)].tolist() == pytest.approx(near, abs=1e-4)


@pytest.mark.parametrize(
    ("length", "width", "radius"), [(4.63, 1.97, 1), (11.1, 2.95, 2), (12.3, 2.9, 2), (0.7, 0.7, 0), (0.4, 0.4, 0)]
)
def test_10_radii_of_cars_buses_trailers_pedestrians_and_cones(length, width, radius):
    spec = replace(SPEC, grid=GRID)
    found = Boxes3D(np.array([[10, 5, 0, length, width, 1, 0.5, 0, 0]], np.float32), np.zeros(1, np.int64))
    mask = small_gaussians(SignalContext(output(SPEC, 1), output(SPEC, 1), spec, spec, [found]))[0]
    rows = mask.amax(1).nonzero()[:, 0]
    assert rows.max() - rows.min() == 2 * radius


def test_11_a_training_step_leaves_the_teacher_as_it_was_whatever_the_students_mode(frames):
    from kd3d.training.batch import make_batch

    tiny = preset("world-centerpoint-pillar-tiny")
    torch.manual_seed(0)
    master, student = build(tiny), build(tiny)
    objective = DistillationObjective(master, tiny, [PivotalLogits()])
    batch = make_batch([frames[0]], tiny)
    before = {name: t.clone() for name, t in objective._teacher._network.state_dict().items()}
    given = {name: t.clone() for name, t in master.state_dict().items()}
    answers = []
    for mode in (True, False):
        student.train(mode)
        optimiser = torch.optim.SGD(student.parameters(), 0.1)
        total(objective(student, batch))[0].backward()
        optimiser.step()
        answers.append(objective.answer(batch, torch.device("cpu")).heads[0].hm)
    assert torch.equal(*answers)
    assert all(torch.equal(t, before[name]) for name, t in objective._teacher._network.state_dict().items())
    assert all(torch.equal(t, given[name]) for name, t in master.state_dict().items())


def test_13_cross_entropy_costs_a_perfect_student_and_divergence_does_not():
    scores = torch.randn(25, generator=torch.Generator().manual_seed(0)) / 2
    share = (scores / 2).softmax(0)
    assert 12 < (-4 * (share * share.log()).sum()).item() < 4 * math.log(25)  # tau^2 times the entropy
    teacher = output(SPEC)
    context = SignalContext(same(teacher), teacher, SPEC, SPEC, FRAMES)
    p = context.teacher_heatmap
    assert functional.binary_cross_entropy(p, p).item() > 0.1
    for signal in (ProposalRanking(), SoftHeatmap(), PillarResponses()):
        assert value(signal, context).item() == pytest.approx(0, abs=1e-6)


def mirrored(found):
    """The scene with x turned round, as a network would answer it if it were that sure."""
    heads = []
    for maps in found.heads:
        hm, center, z, dim, rot, vel = (t.detach().flip(-1) for t in maps)
        center = torch.cat([1 - center[:, :1], center[:, 1:]], 1)
        rot = torch.cat([rot[:, :1], -rot[:, 1:]], 1)
        heads.append(TaskMaps(hm, center, z, dim, rot, torch.cat([-vel[:, :1], vel[:, 1:]], 1)))
    return DetectorOutput(
        tuple(heads), tuple(BevTap(tap.name, tap.tensor.detach().flip(-1), tap.grid) for tap in found.taps)
    )


def quarter(found):
    """The scene turned by 90 degrees about its middle, counter-clockwise: x becomes y, and y 16 m less x."""
    heads = []
    for maps in found.heads:
        hm, center, z, dim, rot, vel = (t.detach().mT.flip(-1) for t in maps)
        center = torch.cat([1 - center[:, 1:], center[:, :1]], 1)
        rot = torch.cat([rot[:, 1:], -rot[:, :1]], 1)
        heads.append(TaskMaps(hm, center, z, dim, rot, torch.cat([-vel[:, 1:], vel[:, :1]], 1)))
    return DetectorOutput(
        tuple(heads), tuple(BevTap(tap.name, tap.tensor.detach().mT.flip(-1), tap.grid) for tap in found.taps)
    )


def mirrored_box(array):
    x, y, yaw, vx, vy = (array[:, i] for i in (0, 1, 6, 7, 8))
    return np.stack([16 - x, y, *array[:, 2:6].T, np.pi - yaw, -vx, vy], 1)


def quarter_box(array):
    x, y, yaw, vx, vy = (array[:, i] for i in (0, 1, 6, 7, 8))
    return np.stack([16 - y, x, *array[:, 2:6].T, yaw + np.pi / 2, -vy, vx], 1)


@pytest.mark.parametrize(("maps", "rows"), [(mirrored, mirrored_box), (quarter, quarter_box)])
@pytest.mark.parametrize("signal", SIGNALS, ids=lambda s: f"{type(s).__name__}-{s.name}-{getattr(s, 'mask', None)}")
def test_14_turning_the_whole_scene_changes_no_loss(signal, maps, rows):
    student, teacher = output(SPEC, seed=1), output(SPEC, seed=2)
    scene = [boxes((3.2, 4.1, 0), (10.4, 8.8, 2)), boxes(), boxes((7.7, 7.6, 1), (12.1, 2.2, 0), (5.3, 11.8, 2))]
    moved = [Boxes3D(rows(frame.array).astype(np.float32).reshape(-1, 9), frame.label) for frame in scene]
    before = value(signal, SignalContext(student, teacher, SPEC, SPEC, scene))
    after = value(signal, SignalContext(maps(student), maps(teacher), SPEC, SPEC, moved))
    assert after.item() == pytest.approx(before.item(), rel=2e-4, abs=1e-6)


def test_15_sampling_with_axes_swapped_is_another_loss_on_real_frames(shared_data):
    from kd3d.datasets.open import open_dataset

    folder = shared_data / "kitti"
    if not (folder / "training" / "velodyne").is_dir():
        pytest.skip(f"the KITTI frames are not at {folder}; set KD3D_SHARED")
    grid = BevGrid(0, -32, -3, 64, 32, 1, 0.5)
    dataset = open_dataset(folder, split="train", sweeps=1)
    straight, swapped = 0.0, 0.0
    for index in range(4):
        sample = dataset[index]
        cells = [(sample.points[:, i] - low) / 0.5 for i, low in enumerate((0, -32))]
        count, _, _ = np.histogram2d(cells[1], cells[0], bins=128, range=[[0, 128]] * 2)
        student = torch.from_numpy(np.log1p(count)).float()[None, None]
        teacher = functional.avg_pool2d(student, 3, 1, 1)
        points = [nine_points(sample.boxes)]
        for swap in (False, True):
            ours, theirs = (sample_points(maps, grid, points, swap=swap) for maps in (student, teacher))
            loss = float((ours - theirs).abs().mean((1, 2)).sum())
            straight, swapped = straight + loss * (not swap), swapped + loss * swap
    assert straight > 0
    assert abs(straight - swapped) > 0.1 * straight
