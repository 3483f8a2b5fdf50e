"""The contract of signals between anchor heads, hand values, and slow references of SparseKD's equations at anchors."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd3d.compress.distill.anchor_pairs import AnchorGrids, differences
from kd3d.compress.distill.anchors import AnchorBoxes, AnchorDirections, AnchorLogits
from kd3d.compress.distill.coefs import BlendSettings
from kd3d.compress.distill.context import SignalContext, class_heatmap
from kd3d.compress.distill.features import cross_scale
from kd3d.compress.distill.frame_weights import FrameSettings
from kd3d.compress.distill.masks import Confident, Everywhere, Foreground, GaussianPivotal, Product, TopRank
from kd3d.compress.distill.reads import label_free
from kd3d.compress.distill.record import Layout, RecordedBatch, records_of
from kd3d.compress.distill.registry import KINDS, made
from kd3d.compress.distill.semi import NoLabels
from kd3d.compress.recipe import Recipe
from kd3d.compress.recipe_file import edition, load_recipe
from kd3d.detectors.build import build
from kd3d.detectors.model import BevTap, DetectorOutput
from kd3d.detectors.presets import preset
from kd3d.errors import UsageError
from kd3d.geometry.boxes import Boxes3D
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.anchor_targets import assign_anchors
from kd3d.runtime.anchors import anchor_centres, anchor_shapes
from kd3d.runtime.heads import AnchorMaps
from kd3d.spec import AnchorHeadSpec, AnchorSpec, BevBackboneSpec, CenterHeadSpec
from kd3d.training.loop import train
from kd3d.training.objective import total
from kd3d.training.settings import TrainSettings

ANCHORS = (AnchorSpec("car", (4.0, 2.0, 1.5), -1.0), AnchorSpec("dog", (1.5, 0.8, 1.0), -1.0))


def make_spec(cell=1.0, *, anchors=ANCHORS, align=False, size=16.0, **head):
    return replace(
        preset("kitti-pointpillars"),
        name="test",
        grid=BevGrid(0, 0, -2, size, size, 2, cell),
        backbone=BevBackboneSpec((1, 2), (0, 0), (4, 6), (1.0, 2.0), (3, 5)),
        head=AnchorHeadSpec(anchors, align_center=align, **head),
    )


def output(spec, frames=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(channels, grid, scale=1.0):
        return (torch.randn(frames, channels, grid.ny, grid.nx, generator=generator) * scale).requires_grad_()

    grid = spec.output_grid
    maps = AnchorMaps(*(random(channels, grid) for _, channels in spec.head.maps))
    taps = [
        BevTap(f"level{i}", random(c, g), g)
        for i, (c, g) in enumerate(zip(spec.backbone.channels, (spec.grid, spec.grid.coarsened(2)), strict=True))
    ]
    return DetectorOutput((maps,), (*taps, BevTap("neck", random(spec.backbone.out_channels, grid), grid)))


def changed(found, change):
    return DetectorOutput(
        tuple(AnchorMaps(*(change(part) for part in maps)) for maps in found.heads),
        tuple(BevTap(tap.name, change(tap.tensor), tap.grid) for tap in found.taps),
    )


def cut_out(found, frames):
    return changed(found, lambda part: part[frames])


def leaves(found):
    return [part for maps in found.heads for part in maps] + [tap.tensor for tap in found.taps]


def boxes(*rows):
    array = np.zeros((len(rows), 9), np.float32)
    sizes = {0: (4.2, 1.9, 1.6), 1: (1.4, 0.9, 1.1)}
    for index, (x, y, yaw, label) in enumerate(rows):
        array[index, :7] = (x, y, -0.3, *sizes[label], yaw)
    return Boxes3D(array, np.array([label for *_, label in rows], np.int64))


FRAMES = [
    boxes((3.2, 4.1, 0.2, 0), (10.4, 8.8, 1.4, 1)),
    boxes(),
    boxes((7.7, 7.7, -1.5, 0), (12.1, 2.2, 3.0, 0), (5.0, 12.3, 0.8, 1)),
]
SPEC = make_spec()
TAPS = ("fitnet", "attention", "mimic", "affinity", "gid-relation", "nine-points", "relations", "cross-scale")
MASKS = (Everywhere(), Confident(0.6), TopRank(20), GaussianPivotal(), Product((Foreground(), Confident(0.3))))
SIGNALS = [
    AnchorLogits(),
    AnchorLogits(whole_cells=False),
    AnchorBoxes(),
    AnchorDirections(),
    *(kind(mask=mask) for mask in MASKS for kind in (AnchorLogits, AnchorBoxes, AnchorDirections)),
    *(signal for kind in TAPS for signal in made({"signal": kind}, SPEC, SPEC)),
    *made({"signal": "cross-scale", "mask": "richness"}, SPEC, SPEC),
]


def value(signal, context):
    return total([signal(context)])[0]


@pytest.fixture(
    params=SIGNALS, ids=lambda signal: f"{type(signal).__name__}-{signal.name}-{getattr(signal, 'mask', None)}"
)
def signal(request):
    return request.param


def test_equal_outputs_have_no_loss_and_no_gradient(signal):
    teacher = output(SPEC)
    student = changed(teacher, lambda part: part.detach().clone().requires_grad_())
    loss = value(signal, SignalContext(student, teacher, SPEC, SPEC, FRAMES))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert all(part.grad is None or part.grad.abs().max() < 1e-7 for part in leaves(student))


def test_different_outputs_have_a_loss_whose_gradient_reaches_the_student_and_never_the_teacher(signal):
    student, teacher = output(SPEC, seed=1), output(SPEC, seed=2)
    loss = value(signal, SignalContext(student, teacher, SPEC, SPEC, FRAMES))
    loss.backward()
    assert loss.item() > 0
    assert any(part.grad is not None and part.grad.abs().max() > 0 for part in leaves(student))
    assert all(part.grad is None for part in leaves(teacher))


def test_frames_without_objects_are_finite(signal):
    student, teacher = output(SPEC, 1, seed=1), output(SPEC, 1, seed=2)
    loss = value(signal, SignalContext(student, teacher, SPEC, SPEC, [boxes()]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(part.grad is None or torch.isfinite(part.grad).all() for part in leaves(student))


def test_the_loss_does_not_depend_on_how_the_batch_is_split(signal):
    student, teacher = output(SPEC, seed=1), output(SPEC, seed=2)
    whole = signal(SignalContext(student, teacher, SPEC, SPEC, FRAMES))
    parts = [
        signal(SignalContext(cut_out(student, cut), cut_out(teacher, cut), SPEC, SPEC, FRAMES[cut]))
        for cut in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(part.sum for part in parts), whole.sum)
    torch.testing.assert_close(sum(part.mass for part in parts), whole.mass)


# Slow references, anchor by anchor in double precision


def anchors_of(spec):
    """``(x, y)`` of a cell's anchors."""
    xs, ys = anchor_centres(spec)
    return lambda row, column: (float(xs[column]), float(ys[row]))


def clamp(value):
    return min(max(value, 1e-4), 1 - 1e-4)


def probability(maps, frame, anchor, kind, row, column, classes=2):
    logit = float(maps.cls.detach()[frame, anchor * classes + kind, row, column])
    return clamp(1 / (1 + math.exp(-logit)))


def interpolated(read, x, y, centres):
    """Bilinear between a student's anchors; ``read(row, column)``."""
    places = []
    for at, line in ((x, centres[0]), (y, centres[1])):
        place = (at - float(line[0])) / (float(line[1]) - float(line[0]))
        place = min(max(place, 0.0), len(line) - 1.0)
        low = min(math.floor(place), len(line) - 2)
        places.append((low, place - low))
    (column, right), (row, down) = places
    return sum(
        read(row + i, column + j) * (down if i else 1 - down) * (right if j else 1 - right)
        for i in (0, 1)
        for j in (0, 1)
    )


def pivots(student_spec, teacher_spec, frames):
    """Anchors of objects on the teacher's grid that lie among the student's: frame, row, column, anchor."""
    found = []
    lines = anchor_centres(student_spec)
    for frame, truth in enumerate(frames):
        label = assign_anchors(truth, teacher_spec).label
        grid, count = teacher_spec.output_grid, len(anchor_shapes(teacher_spec))
        for flat in np.flatnonzero(label > 0):
            row, column = divmod(int(flat) // count, grid.nx)
            x, y = anchors_of(teacher_spec)(row, column)
            inside = [
                line[0] - (line[1] - line[0]) / 2 <= at <= line[-1] + (line[1] - line[0]) / 2
                for at, line in ((x, lines[0]), (y, lines[1]))
            ]
            if all(inside):
                found.append((frame, row, column, int(flat) % count))
    return found


def slow_logits(student, teacher, specs, frames, *, whole_cells):
    ours, theirs = student.heads[0], teacher.heads[0]
    lines, place = anchor_centres(specs[0]), anchors_of(specs[1])
    chosen = pivots(*specs, frames)
    cells = sorted({one[:3] for one in chosen})
    pairs = [(cell, range(4)) for cell in cells] if whole_cells else [(one[:3], [one[3]]) for one in chosen]
    loss = 0.0
    for (frame, row, column), anchors in pairs:
        x, y = place(row, column)
        for anchor in anchors:
            for kind in range(2):

                def read(i, j, frame=frame, anchor=anchor, kind=kind):
                    return probability(ours, frame, anchor, kind, i, j)

                wanted = probability(theirs, frame, anchor, kind, row, column)
                loss += (interpolated(read, x, y, lines) - wanted) ** 2
    return loss, len(pairs)


def slow_boxes(student, teacher, specs, frames):
    ours, theirs = student.heads[0], teacher.heads[0]
    lines, place, shapes = anchor_centres(specs[0]), anchors_of(specs[1]), anchor_shapes(specs[1])
    boxes_apart = bins_apart = 0.0
    chosen = pivots(*specs, frames)
    for frame, row, column, anchor in chosen:
        x, y = place(row, column)
        j, i = (int(np.argmin(np.abs(line - at))) for line, at in ((lines[0], x), (lines[1], y)))
        want = theirs.box[frame, anchor * 7 : anchor * 7 + 7, row, column].detach().double().numpy()
        have = ours.box[frame, anchor * 7 : anchor * 7 + 7, i, j].detach().double().numpy()
        diagonal = math.hypot(shapes[anchor, 1], shapes[anchor, 2])
        # The teacher's box in metres, told from the student's anchor.
        want[0] = (want[0] * diagonal + x - float(lines[0][j])) / diagonal
        want[1] = (want[1] * diagonal + y - float(lines[1][i])) / diagonal
        for code, difference in enumerate(have - want):
            apart = abs(math.sin(difference)) if code == 6 else abs(difference)
            boxes_apart += 4.5 * apart**2 if apart < 1 / 9 else apart - 1 / 18
        p, q = (
            np.exp(part[frame, anchor * 2 : anchor * 2 + 2, a, b].detach().double().numpy())
            for part, a, b in ((theirs.dir, row, column), (ours.dir, i, j))
        )
        p, q = p / p.sum(), q / q.sum()
        bins_apart += float((p * np.log(p / q)).sum())
    return boxes_apart, bins_apart, len(chosen)


PAIRS = {
    "the same cells": (SPEC, SPEC),
    "larger cells": (make_spec(2.0), SPEC),
    "finer cells": (SPEC, make_spec(1.6)),
    "anchors in the centres of cells": (make_spec(align=True), SPEC),
    "a shorter range": (replace(make_spec(2.0), grid=BevGrid(0, 0, -2, 8, 16, 2, 2.0)), SPEC),
    "a range that begins elsewhere": (replace(SPEC, grid=BevGrid(-3, 2, -2, 13, 18, 2, 1.0)), SPEC),
}


@pytest.mark.parametrize("specs", PAIRS.values(), ids=PAIRS)
def test_signals_are_those_of_slow_references(specs):
    student, teacher = output(specs[0], seed=1), output(specs[1], seed=2)
    context = SignalContext(student, teacher, *specs, FRAMES)
    for whole_cells in (True, False):
        term = AnchorLogits(whole_cells=whole_cells)(context)
        loss, count = slow_logits(student, teacher, specs, FRAMES, whole_cells=whole_cells)
        assert term.mass.item() == count >= 3
        assert term.sum.item() == pytest.approx(loss, rel=1e-5)
    boxes_apart, bins_apart, count = slow_boxes(student, teacher, specs, FRAMES)
    for signal, wanted in ((AnchorBoxes(), boxes_apart), (AnchorDirections(), bins_apart)):
        term = signal(context)
        assert term.mass.item() == count
        assert term.sum.item() == pytest.approx(wanted, rel=1e-5)


# Values by hand


def flat_output(spec, probability, spike=None):
    """One frame whose probabilities are all alike, but for ``{(anchor, class, row, column): probability}``."""
    grid = spec.output_grid
    parts = {name: torch.zeros(1, channels, grid.ny, grid.nx) for name, channels in spec.head.maps}
    parts["cls"] += math.log(probability / (1 - probability))
    for (anchor, kind, row, column), other in (spike or {}).items():
        parts["cls"][0, anchor * 2 + kind, row, column] = math.log(other / (1 - other))
    return DetectorOutput((AnchorMaps(**parts),), ())


def test_one_anchor_off_by_a_tenth_costs_a_hundredth_over_the_pivotal_ones():
    spike = {(0, 0, 2, 3): 0.6}
    context = SignalContext(
        flat_output(SPEC, 0.5, spike), flat_output(SPEC, 0.5, {(0, 0, 2, 3): 0.5}), SPEC, SPEC, [boxes()]
    )
    cells = 16 * 16
    loss = value(AnchorLogits(weight=1.0, mask=Everywhere()), context)
    assert loss.item() == pytest.approx(0.01 / cells, rel=1e-5)
    loss = value(AnchorLogits(weight=1.0, mask=Everywhere(), whole_cells=False), context)
    assert loss.item() == pytest.approx(0.01 / (4 * cells), rel=1e-5)


def test_masks_see_anchors_one_by_one():
    teacher = flat_output(SPEC, 0.2, {(1, 0, 4, 5): 0.9, (3, 1, 4, 5): 0.8, (0, 1, 9, 9): 0.7})
    context = SignalContext(teacher, teacher, SPEC, SPEC, [boxes()])
    weights = AnchorLogits(mask=Confident(0.5)).pivotal(context)
    assert weights.nonzero().tolist() == [[0, 0, 9, 9], [0, 1, 4, 5], [0, 3, 4, 5]]
    assert AnchorLogits(mask=TopRank(2)).pivotal(context).nonzero().tolist() == [[0, 1, 4, 5], [0, 3, 4, 5]]
    assert AnchorLogits(mask=Confident(0.5))(context).mass.item() == 2  # cells
    assert AnchorLogits(mask=Confident(0.5), whole_cells=False)(context).mass.item() == 3
    assert AnchorLogits(mask=Confident(0.5)).cells(context)[0].nonzero().tolist() == [[4, 5], [9, 9]]


def test_the_released_mask_is_the_anchors_of_objects():
    teacher = output(SPEC)
    context = SignalContext(teacher, teacher, SPEC, SPEC, FRAMES)
    weights = AnchorLogits().pivotal(context)
    for frame, truth in enumerate(FRAMES):
        label = assign_anchors(truth, SPEC).label.reshape(16, 16, 4).transpose(2, 0, 1)
        np.testing.assert_array_equal(weights[frame].numpy(), label > 0)
    confident = AnchorLogits(mask=GaussianPivotal()).pivotal(context)
    best = teacher.heads[0].cls.view(3, 4, 2, 16, 16).amax(2).sigmoid()
    torch.testing.assert_close(confident, best * weights, atol=1e-4, rtol=0)


def test_classes_and_anchors_are_matched_by_name():
    other = make_spec(anchors=ANCHORS[::-1])
    teacher = output(SPEC)

    def turned(part, codes):
        return part.detach().view(3, 2, 2, codes, 16, 16).flip(1)

    maps = teacher.heads[0]
    cls = turned(maps.cls, 2).flip(3)
    parts = (cls, turned(maps.box, 7), turned(maps.dir, 2))
    student = DetectorOutput((AnchorMaps(*(part.reshape(3, -1, 16, 16) for part in parts)),), teacher.taps)
    truth = [Boxes3D(frame.array, 1 - frame.label) for frame in FRAMES]  # labels in the student's classes
    context = SignalContext(student, teacher, other, SPEC, truth)
    for signal in (AnchorLogits(), AnchorBoxes(), AnchorDirections(), AnchorLogits(mask=Everywhere())):
        term = signal(context)
        assert term.mass.item() > 3
        assert term.sum.item() == pytest.approx(0, abs=1e-9)


def test_a_teachers_box_is_told_from_the_students_anchor():
    # One metric box as residuals of a teacher's anchors on 16 cells and of a student's on 8, both from 0 to 16 m.
    specs = make_spec(2.0), SPEC
    truth = [boxes((8.3, 5.1, 0.1, 0))]
    maps = []
    for spec in specs:
        grid = spec.output_grid
        box = torch.zeros(1, 28, grid.ny, grid.nx)
        xs, ys = anchor_centres(spec)
        for anchor, shape in enumerate(anchor_shapes(spec)):
            diagonal = math.hypot(shape[1], shape[2])
            box[0, anchor * 7] = torch.from_numpy((8.3 - xs) / diagonal)[None]
            box[0, anchor * 7 + 1] = torch.from_numpy((5.1 - ys) / diagonal)[:, None]
        cls, bins = torch.zeros(1, 8, grid.ny, grid.nx), torch.zeros(1, 8, grid.ny, grid.nx)
        maps.append(DetectorOutput((AnchorMaps(cls, box, bins),), ()))
    term = AnchorBoxes()(SignalContext(*maps, *specs, truth))
    assert term.mass.item() > 0
    assert term.sum.item() == pytest.approx(0, abs=1e-9)


def test_resampling_meets_anchors_by_position():
    # From edge to edge both models have an anchor at either end: 8 anchors over 16 m lie 16 / 7 m apart.
    coarse, fine = make_spec(2.0), SPEC
    line = torch.from_numpy(anchor_centres(coarse)[0]).view(1, 1, 1, 8).expand(1, 1, 8, 8)
    up = AnchorGrids(coarse, fine).resampled(line)
    np.testing.assert_allclose(up[0, 0, 3].numpy(), anchor_centres(fine)[0], atol=1e-5)
    assert AnchorGrids(fine, fine).same
    assert not AnchorGrids(make_spec(align=True), fine).same
    assert AnchorGrids(coarse, fine).known("cpu").all()


def test_the_heatmap_of_an_anchor_head_is_the_best_of_a_cells_anchors():
    teacher = flat_output(SPEC, 0.1, {(1, 0, 4, 5): 0.9, (3, 0, 4, 5): 0.95, (0, 1, 4, 5): 0.2})
    heat = class_heatmap(teacher.heads, SPEC, ("dog", "car"))
    assert heat[0, :, 4, 5].tolist() == pytest.approx([0.2, 0.95])
    assert heat[0, :, 0, 0].tolist() == pytest.approx([0.1, 0.1])


# What cannot be joined


def test_different_anchors_are_refused_with_every_difference():
    wide = replace(ANCHORS[0], size_m=(4.5, 2.0, 1.5), bottom_m=-1.2)
    other = make_spec(anchors=(wide, AnchorSpec("cat", (0.5, 0.2, 0.3), -1.0)), direction_bins=4)
    found = differences(other.anchor_head, SPEC.anchor_head)
    assert found == [
        "only the student has cat",
        "only the teacher has dog",
        "car has the size (4.5, 2.0, 1.5) m, the teacher's (4.0, 2.0, 1.5) m",
        "car has the bottom -1.2 m, the teacher's -1.0 m",
        "direction_bins is 4, the teacher's 2",
    ]
    for signal in (AnchorLogits(), AnchorBoxes(), AnchorDirections()):
        with pytest.raises(
            UsageError, match=r"differ, 5 time\(s\): only the student has cat; .* is 4, the teacher's 2"
        ):
            signal.check(other, SPEC)


CENTRE = replace(SPEC, name="centre", head=CenterHeadSpec((("car", "dog"),), 4, 4))


@pytest.mark.parametrize("specs", [(CENTRE, SPEC), (SPEC, CENTRE)], ids=["anchors teach", "anchors learn"])
def test_between_anchors_and_centres_only_features_are_compared(specs):
    side = "student" if specs[0] is CENTRE else "teacher"
    with pytest.raises(UsageError, match=f"two anchor heads, but the {side} centre has a centre head"):
        AnchorLogits().check(*specs)
    with pytest.raises(UsageError, match=r"kd.logits compares maps of centre heads, but test has an anchor head"):
        Recipe().signals(*specs)[0].check(*specs)
    works = {"region"} if specs[1] is CENTRE else set()
    for kind in KINDS:
        if kind in TAPS or kind in works:
            assert made({"signal": kind}, *specs)
        else:
            with pytest.raises(UsageError, match="anchor head"):
                made({"signal": kind}, *specs)
    assert cross_scale(*specs)
    assert Recipe(logits=0).signals(*specs) == ()


def test_recipes_take_the_anchors_signals_between_anchor_heads():
    found = Recipe(mask="confidence", confidence=0.3).signals(make_spec(2.0), SPEC)
    assert found == (AnchorLogits(7.0, Confident(0.3)), AnchorBoxes(0.2, Confident(0.3)))
    released = load_recipe("sparsekd-anchor").signals(SPEC, SPEC)
    assert released == (AnchorLogits(15.0, Foreground()), AnchorBoxes(0.2, Foreground()))
    assert edition("sparsekd", SPEC, SPEC) == edition("sparsekd", SPEC) == "sparsekd-anchor"
    assert edition("sparsekd", SPEC, CENTRE) == edition("sparsekd", CENTRE) == edition("sparsekd") == "sparsekd"
    assert edition("unidistill", SPEC) == "unidistill"
    assert edition("auto", SPEC, SPEC) == "auto-anchor"


# With networks and a cache


@pytest.mark.parametrize("signal", [one for one in SIGNALS if not one.reads.maps], ids=repr)
def test_every_signal_reads_no_more_of_the_teacher_than_it_declares(signal):
    for spec in (SPEC, make_spec(2.0)):
        teacher, student = output(SPEC, seed=3), output(spec, seed=4)
        context = SignalContext(student, teacher, spec, SPEC, FRAMES)
        layout = Layout(SPEC, signal.reads)
        records = records_of(teacher, signal.cells(context), [boxes()] * 3, layout)
        known = RecordedBatch.of(records, 16 * 16).output(layout)
        found = value(signal, SignalContext(student, known, spec, SPEC, FRAMES))
        assert found.item() == pytest.approx(value(signal, context).item(), rel=3e-3, abs=1e-6)


WORLD = preset("world-pointpillars-tiny")
NARROW = replace(WORLD, name="narrow", backbone=replace(WORLD.backbone, channels=(8, 16), up_channels=(8, 8)))
CENTRES = preset("world-centerpoint-pillar-tiny")


@pytest.mark.parametrize(
    ("student", "teacher", "recipe"),
    [
        (NARROW, WORLD, Recipe(features=0.5, label_threshold=0.01)),
        (NARROW, WORLD, Recipe(blend=BlendSettings(terms="separate"))),
        (NARROW, CENTRES, Recipe(logits=0, features=0.5, label_threshold=0.1)),
        (CENTRES, WORLD, Recipe(logits=0, features=0.5, label_threshold=0.01)),
    ],
    ids=["anchors", "anchors, blended", "centres teach anchors", "anchors teach centres"],
)
def test_students_of_either_head_learn_from_teachers_of_either(student, teacher, recipe, tmp_path):
    from training_frames import memory_dataset

    torch.manual_seed(0)
    objective = recipe.objective(build(teacher), student)
    settings = TrainSettings(steps=2, batch_size=1, workers=0, log_every=1)
    result = train(build(student), memory_dataset(2), settings=settings, run=tmp_path, objective=objective)
    terms = result.history[-1]["terms"]
    both = student is NARROW and teacher is WORLD
    assert both == ("kd.anchor-logits" in terms) == ("kd.anchor-boxes" in terms)
    assert ("kd.features.neck" in terms) == (recipe.features > 0)
    assert all(math.isfinite(share) for share in terms.values())


def test_masks_that_read_no_label_join_anchors_of_frames_without_labels():
    student, teacher = output(SPEC, seed=1), output(SPEC, seed=2)
    for mask in (Confident(0.6), TopRank(20), Everywhere()):
        for kind in (AnchorLogits, AnchorBoxes, AnchorDirections):
            signal = kind(mask=mask)
            assert label_free(signal)
            known = signal(SignalContext(student, teacher, SPEC, SPEC, FRAMES))
            blind = signal(SignalContext(student, teacher, SPEC, SPEC, NoLabels()))
            assert blind.sum.item() == known.sum.item()
            assert blind.mass.item() == known.mass.item()
    assert not label_free(AnchorLogits())
    with pytest.raises(UsageError, match="asked for one of a frame without labels"):
        AnchorLogits()(SignalContext(student, teacher, SPEC, SPEC, NoLabels()))


def test_frames_are_not_weighed_between_anchor_heads():
    recipe = replace(Recipe(), frames=FrameSettings())
    for refuse in (lambda: recipe.check(SPEC, SPEC), lambda: recipe.objective(build(WORLD), WORLD)):
        with pytest.raises(UsageError, match="the weighing of frames compares maps of centre heads, but"):
            refuse()
