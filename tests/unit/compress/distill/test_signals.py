"""One contract for all signals, and the equations of SparseKD (arXiv 2205.15156)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from kd3d.compress.distill.context import SignalContext, class_heatmap
from kd3d.compress.distill.features import FeatureImitation, TapPair, TapPlace, cross_scale, match_taps
from kd3d.compress.distill.frame_weights import FrameSettings, FrameWeights
from kd3d.compress.distill.labelfree import SoftHeatmap
from kd3d.compress.distill.masks import Confident, Everywhere, Foreground, GaussianPivotal, Product, TopRank
from kd3d.compress.distill.registry import KINDS, MASKS, made, mask_named
from kd3d.compress.distill.resample import inside, pool_and_resample, resample
from kd3d.compress.distill.responses import PivotalBoxes
from kd3d.compress.distill.semi import parts_of, taught_terms
from kd3d.compress.distill.signals import CenterRegression, PivotalLogits
from kd3d.detectors.model import BevTap, DetectorOutput
from kd3d.errors import UsageError
from kd3d.geometry.boxes import Boxes3D
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.heads import TaskMaps
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec
from kd3d.training.objective import total

CLASSES = ("car", "bus", "dog")


def make_spec(cell=1.0, tasks=(CLASSES,), velocity=True, size=16.0, channels=(4, 6), ups=(3, 5)):
    return DetectorSpec(
        name="test",
        points=PointSpec(),
        grid=BevGrid(0, 0, -2, size, size, 2, cell),
        encoder=PillarEncoderSpec(),
        backbone=BevBackboneSpec((1, 2), (0, 0), channels, (1.0, 2.0), ups),
        head=CenterHeadSpec(tasks, 4, 4, velocity),
        decode=DecodeSpec(1, 50, 0.1, (-99, -99, -9, 99, 99, 9), "none", (0.2,) * len(tasks), 50, 50),
    )


def output(spec, frames=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(channels, grid):
        return torch.randn(frames, channels, grid.ny, grid.nx, generator=generator).requires_grad_()

    grid = spec.output_grid
    heads = tuple(
        TaskMaps(
            hm=random(len(names), grid), center=random(2, grid), center_z=random(1, grid), dim=random(3, grid),
            rot=random(2, grid), vel=random(2, grid) if spec.head.velocity else None,
        )
        for names in spec.head.tasks
    )  # fmt: skip
    taps = [
        BevTap(f"level{i}", random(c, g), g)
        for i, (c, g) in enumerate(zip(spec.backbone.channels, (spec.grid, spec.grid.coarsened(2)), strict=True))
    ]
    return DetectorOutput(heads, (*taps, BevTap("neck", random(spec.backbone.out_channels, grid), grid)))


def leaves(found):
    return [t for maps in found.heads for t in maps if t is not None] + [tap.tensor for tap in found.taps]


def same(found):
    """Another output with equal values."""
    return DetectorOutput(
        tuple(
            TaskMaps(*(None if t is None else t.detach().clone().requires_grad_() for t in maps))
            for maps in found.heads
        ),
        tuple(BevTap(tap.name, tap.tensor.detach().clone().requires_grad_(), tap.grid) for tap in found.taps),
    )


def boxes(*rows):
    array = np.array([[x, y, 0, 4, 2, 1.5, 0.3, 1, 0] for x, y, _ in rows], np.float32).reshape(-1, 9)
    return Boxes3D(array, np.array([label for *_, label in rows], np.int64))


FRAMES = [boxes((3.2, 4.1, 0), (10.4, 8.8, 2)), boxes(), boxes((7.7, 7.7, 1), (12.1, 2.2, 0), (5, 12, 2))]


def cut(found, frames):
    return DetectorOutput(
        tuple(TaskMaps(*(None if t is None else t[frames] for t in maps)) for maps in found.heads),
        tuple(BevTap(tap.name, tap.tensor[frames], tap.grid) for tap in found.taps),
    )


SPEC = make_spec()
SIGNALS = [
    PivotalLogits(),
    PivotalLogits(mask=Everywhere(), name="vanilla"),
    PivotalLogits(mask=Confident(0.3), name="confident"),
    PivotalLogits(mask=TopRank(20), name="rank"),
    PivotalLogits(mask=Foreground(), name="foreground"),
    PivotalLogits(mask=Product((Foreground(), Confident(0.2))), name="both"),
    CenterRegression(),
    *cross_scale(SPEC, SPEC),
    *(replace(signal, mask=GaussianPivotal()) for signal in cross_scale(SPEC, SPEC)),
    *(signal for kind in KINDS if not kind.startswith("anchor") for signal in made({"signal": kind}, SPEC, SPEC)),
    *made({"signal": "cross-scale", "mask": "richness"}, SPEC, SPEC),
    *(PivotalBoxes(mask=mask_named(name), name=name) for name in MASKS),
    *(SoftHeatmap(weighting=name, background=0.3) for name in ("dense", "confidence")),
    SoftHeatmap(detach=False, mu=0.0, beta=1.0),
]


def value(signal, context):
    return total([signal(context)])[0]


@pytest.fixture(
    params=SIGNALS, ids=lambda signal: f"{type(signal).__name__}-{signal.name}-{getattr(signal, 'mask', None)}"
)
def signal(request):
    return request.param


def test_weighing_the_frames_takes_no_signal_its_gradient(signal):
    even = FrameSettings(low=1.0, high=1.0)
    found = []
    for weights in (None, FrameWeights(even, unlabelled=0, passes=0)):
        student, teacher = output(SPEC, seed=1), output(SPEC, seed=2)
        context = SignalContext(student, teacher, SPEC, SPEC, FRAMES)
        terms = taught_terms((signal,), context, parts_of(3, 3, 1.0), weights=weights, unlabelled=())
        total(terms)[0].backward()
        leaves = [maps for task in student.heads for maps in task if maps is not None]
        leaves += [tap.tensor for tap in student.taps]
        found.append([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])
    assert any(float(gradient.abs().max()) > 0 for gradient in found[0])
    for whole, weighed in zip(*found, strict=True):
        torch.testing.assert_close(weighed, whole, rtol=1e-4, atol=1e-6)


def test_equal_outputs_have_no_loss_and_no_gradient(signal):
    teacher = output(SPEC)
    student = same(teacher)
    loss = value(signal, SignalContext(student, teacher, SPEC, SPEC, FRAMES))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert all(t.grad is None or t.grad.abs().max() < 1e-7 for t in leaves(student))


def test_different_outputs_have_a_loss_whose_gradient_reaches_the_student_and_never_the_teacher(signal):
    student, teacher = output(SPEC, seed=1), output(SPEC, seed=2)
    loss = value(signal, SignalContext(student, teacher, SPEC, SPEC, FRAMES))
    loss.backward()
    assert loss.item() > 0
    assert any(t.grad is not None and t.grad.abs().max() > 0 for t in leaves(student))
    assert all(t.grad is None for t in leaves(teacher))


def test_frames_without_objects_are_finite(signal):
    student, teacher = output(SPEC, 1, seed=1), output(SPEC, 1, seed=2)
    loss = value(signal, SignalContext(student, teacher, SPEC, SPEC, [boxes()]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(t.grad is None or torch.isfinite(t.grad).all() for t in leaves(student))


def test_the_loss_does_not_depend_on_how_the_batch_is_split(signal):
    student, teacher = output(SPEC, seed=1), output(SPEC, seed=2)
    whole = signal(SignalContext(student, teacher, SPEC, SPEC, FRAMES))
    parts = [
        signal(SignalContext(cut(student, frames), cut(teacher, frames), SPEC, SPEC, FRAMES[frames]))
        for frames in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(part.sum for part in parts), whole.sum)
    torch.testing.assert_close(sum(part.mass for part in parts), whole.mass)


def spike(value_at, spec=SPEC, frames=1):
    """Heads whose probabilities are 0.5 but for cell (2, 3)."""
    heads = []
    for names in spec.head.tasks:
        hm = torch.zeros(frames, len(names), spec.output_grid.ny, spec.output_grid.nx)
        for channel, probability in enumerate(value_at):
            hm[:, channel, 2, 3] = torch.logit(torch.tensor(probability))
        heads.append(TaskMaps(hm, hm[:, :2], hm[:, :1], hm, hm[:, :2], hm[:, :2]))
    return DetectorOutput(tuple(heads), ())


class OneCell:
    """Mass ``scale`` at cell (2, 3)."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, teacher, gaussian):
        mask = torch.zeros_like(teacher[:, 0])
        mask[:, 2, 3] = self.scale
        return mask


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_one_cell_off_by_a_tenth_costs_a_hundredth_not_divided_by_the_classes(scale):
    context = SignalContext(spike([0.6, 0.5, 0.5]), spike([0.5, 0.5, 0.5]), SPEC, SPEC, [boxes()])
    loss = value(PivotalLogits(weight=7.0, mask=OneCell(scale)), context)
    assert loss.item() == pytest.approx(7.0 * 0.01, rel=1e-5)


def test_the_released_mask_is_teacher_confidence_times_gaussian():
    teacher = torch.tensor([0.2, 0.6]).view(1, 2, 1, 1)
    gaussian = torch.tensor([0.5, 0.1]).view(1, 2, 1, 1)
    assert GaussianPivotal()(teacher, gaussian).item() == pytest.approx(0.6 * 0.5)
    assert Confident(0.6)(teacher, gaussian).item() == 0  # strictly above
    assert Foreground()(teacher, gaussian).item() == 1
    assert Foreground()(teacher, gaussian * 0).item() == 0


def test_top_rank_marks_the_cells_of_the_best_class_and_cell_pairs():
    teacher = torch.tensor([[[[0.9, 0.1], [0.2, 0.3]], [[0.8, 0.0], [0.7, 0.1]]]])
    assert TopRank(2)(teacher, teacher).tolist() == [[[1, 0], [0, 0]]]  # both best pairs lie in one cell
    assert TopRank(3)(teacher, teacher).tolist() == [[[1, 0], [1, 0]]]
    assert TopRank(99)(teacher, teacher).sum() == 4


@pytest.mark.parametrize(
    ("make", "text"), [(lambda: Confident(1.5), "must be in 0..1, not 1.5"), (lambda: TopRank(0), "at least 1, not 0")]
)
def test_masks_refuse_nonsense(make, text):
    with pytest.raises(UsageError, match=text):
        make()


def test_classes_are_matched_by_name_across_task_groupings():
    grouped = make_spec(tasks=(("dog",), ("bus", "car")))
    one = output(SPEC)
    order = [CLASSES.index(name) for name in ("dog", "bus", "car")]
    maps = one.heads[0]
    hm = maps.hm[:, order]
    two = DetectorOutput((maps._replace(hm=hm[:, :1]), maps._replace(hm=hm[:, 1:])), one.taps)
    context = SignalContext(two, one, grouped, SPEC, [boxes((3, 4, 0)), boxes(), boxes((9, 9, 2))])
    torch.testing.assert_close(context.student_heatmap, context.teacher_heatmap)
    assert context.gaussian[0].amax((1, 2)).tolist() == [1, 0, 0]  # label 0 of the student is dog
    assert context.gaussian[2].amax((1, 2)).tolist() == [0, 0, 1]
    assert value(PivotalLogits(mask=Everywhere()), context).item() == pytest.approx(0, abs=1e-12)
    assert value(CenterRegression(), context).item() == 0


def test_models_without_a_common_class_are_refused():
    context = SignalContext(output(SPEC), output(SPEC), make_spec(tasks=(("ship",),)), SPEC, FRAMES)
    with pytest.raises(UsageError, match="no class in common: car, bus, dog and ship"):
        _ = context.classes


def test_box_regression_counts_every_code_at_the_objects_and_divides_by_objects():
    student, teacher = same(output(SPEC)), output(SPEC)
    with torch.no_grad():
        for tensor in student.heads[0][1:]:
            tensor.add_(0.5)
    term = CenterRegression()(SignalContext(student, teacher, SPEC, SPEC, FRAMES))
    assert term.mass.item() == 5
    assert total([term])[0].item() == pytest.approx(0.2 * 10 * 0.5, rel=1e-5)


def test_box_regression_between_different_cells_is_refused():
    with pytest.raises(UsageError, match="equal output grids; the student's cells are 2 m, the teacher's 1 m"):
        CenterRegression().check(make_spec(2.0), SPEC)


# Resampling


def grid(cell, size, low=0.0):
    return BevGrid(low, low, 0, low + size, low + size, 1, cell)


def test_resampling_an_impulse_232_to_464_peaks_at_nine_sixteenths_and_keeps_its_centre():
    have, want = grid(0.64, 148.48, -74.24), grid(0.32, 148.48, -74.24)
    impulse = torch.zeros(1, 1, 232, 232)
    impulse[..., 100, 100] = 1
    up = resample(impulse, have, want)[0, 0]
    assert up[200, 200].item() == up.max().item() == pytest.approx(0.5625, abs=1e-4)
    centre = (up.sum(1) * torch.arange(464)).sum() / up.sum()
    assert centre.item() == pytest.approx(200.5, abs=1e-4)


@pytest.mark.parametrize("cell", [0.5, 0.8, 1.0, 1.6, 2.0])
def test_sampling_by_metres_equals_interpolation_where_the_ranges_agree(cell):
    have, want = grid(1.0, 8.0), grid(cell, 8.0)
    maps = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = BevGrid(0, 0, 0, 8, 8 + cell, 1, cell)  # one row more: no longer the same range
    expected = functional.interpolate(maps, size=(want.ny, want.nx), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resample(maps, have, want), expected)
    torch.testing.assert_close(resample(maps, have, moved)[:, :, :-1], expected, atol=1e-5, rtol=1e-5)
    assert inside(have, moved)[:-1].all()
    assert not inside(have, moved)[-1].any()


def test_a_shifted_range_is_met_by_position_not_by_index():
    have, want = grid(1.0, 8.0), BevGrid(2, 0, 0, 8, 8, 1, 1.0)
    maps = torch.arange(64.0).view(1, 1, 8, 8)
    torch.testing.assert_close(resample(maps, have, want), maps[..., 2:])


def test_pooling_before_coarsening_keeps_means_and_peaks():
    maps = torch.zeros(1, 1, 8, 8)
    maps[..., 3, 5] = 1
    mean = pool_and_resample(maps, grid(1.0, 8.0), grid(2.0, 8.0))
    peak = pool_and_resample(maps, grid(1.0, 8.0), grid(2.0, 8.0), pool="max")
    assert mean[0, 0, 1, 2] == 0.25
    assert peak[0, 0, 1, 2] == 1
    odd = pool_and_resample(torch.ones(1, 1, 9, 9), grid(1.0, 9.0), grid(2.25, 9.0))
    assert odd.shape[-2:] == (4, 4)
    torch.testing.assert_close(odd, torch.ones_like(odd))


def test_maps_of_other_frames_or_sizes_are_refused():
    with pytest.raises(UsageError, match="lidar frame cannot be resampled to the ego frame"):
        resample(torch.zeros(1, 1, 8, 8), grid(1.0, 8.0), replace(grid(1.0, 8.0), frame="ego"))
    with pytest.raises(UsageError, match=r"a map of \(4, 8\) cells is not on a grid of 8 x 8"):
        resample(torch.zeros(1, 1, 4, 8), grid(1.0, 8.0), grid(2.0, 8.0))


def test_logits_of_a_coarser_student_are_compared_only_where_it_sees():
    small = replace(make_spec(2.0), grid=BevGrid(0, 0, -2, 8, 16, 2, 2.0))
    student, teacher = output(small, 1), output(SPEC, 1)
    term = PivotalLogits(mask=Everywhere())(SignalContext(student, teacher, small, SPEC, [boxes()]))
    assert term.mass.item() == 8 * 16


# Cross-scale features


def names(pairs):
    return [(pair.student.name, pair.teacher.name) for pair in pairs]


def test_a_teacher_of_half_the_cell_meets_the_next_finer_student_level():
    teacher, student = make_spec(1.0, size=32.0), make_spec(2.0, size=32.0)
    assert names(match_taps(student, teacher)) == [("level0", "level1"), ("neck", "neck")]
    assert names(match_taps(teacher, teacher)) == [("level0", "level0"), ("level1", "level1"), ("neck", "neck")]
    assert names(match_taps(make_spec(1.25, size=20), make_spec(1.0, size=20), ("levels",))) == [
        ("level0", "level0"),
        ("level1", "level1"),
    ]


def test_maps_of_far_scales_are_refused():
    with pytest.raises(UsageError, match=r"no feature maps of student .* are of similar scale"):
        match_taps(make_spec(8.0, size=32.0), make_spec(1.0, size=32.0))


def test_weights_of_all_pairs_sum_to_the_weight():
    assert sum(signal.weight for signal in cross_scale(SPEC, SPEC, weight=2.0)) == pytest.approx(2.0)


def test_an_adapter_is_made_only_where_channels_differ():
    narrow = make_spec(channels=(2, 6))
    first, second, neck = cross_scale(narrow, SPEC)
    adapter = first.adapter(narrow, SPEC)
    assert adapter.weight.shape == (4, 2, 1, 1)
    assert second.adapter(narrow, SPEC) is None
    assert neck.adapter(narrow, SPEC) is None
    student, teacher = output(narrow, seed=1), output(SPEC, seed=2)
    term = first(SignalContext(student, teacher, narrow, SPEC, FRAMES, {first.name: adapter}))
    (term.sum / term.mass).backward()
    assert adapter.weight.grad.abs().max() > 0


def test_a_pair_of_other_models_is_refused():
    pair = TapPair(TapPlace("neck", 99, 1.0), TapPlace("neck", 8, 1.0))
    with pytest.raises(UsageError, match=r"the student has no map TapPlace.*99"):
        FeatureImitation(pair).check(SPEC, SPEC)


def test_the_same_field_seen_at_two_scales_is_nearly_no_loss_and_a_shifted_one_is():
    teacher_spec, student_spec = make_spec(0.5, size=32.0), make_spec(1.0, size=32.0)

    def field(g, shift=0.0):
        centre = (torch.arange(g.nx) + 0.5) * g.cell_m + shift
        wave = torch.sin(centre / 3)[None, :] * torch.cos(centre / 4)[:, None]
        return (wave * torch.arange(1, 9)[:, None, None])[None].float()

    def out(spec, shift=0.0):
        base = output(spec, 1)
        return base._replace(taps=(BevTap("neck", field(spec.output_grid, shift), spec.output_grid),))

    signal = cross_scale(student_spec, teacher_spec, kinds=("neck",))[0]
    truth = [boxes((8, 8, 0), (20, 12, 1))]
    near = value(signal, SignalContext(out(student_spec), out(teacher_spec), student_spec, teacher_spec, truth))
    far = value(signal, SignalContext(out(student_spec, 1.0), out(teacher_spec), student_spec, teacher_spec, truth))
    assert near.item() < 1e-3
    assert far.item() > 10 * near.item()


def test_probabilities_are_clamped_once():
    maps = output(SPEC).heads[0]._replace(hm=torch.tensor([-50.0, 0.0, 50.0]).view(1, 3, 1, 1))
    assert class_heatmap([maps], SPEC, CLASSES).flatten().tolist() == pytest.approx([1e-4, 0.5, 1 - 1e-4])
