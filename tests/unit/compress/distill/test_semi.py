"""Semi-supervised adaptive distillation: parts of a batch, weights of frames, and runs that stop and go on."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_signals import FRAMES, SIGNALS, SPEC, output, same, value
from training_frames import MemoryDataset, frame_of, memory_dataset

from kd3d.compress.data import CompressData
from kd3d.compress.distill import frame_weights as frame_weights_module
from kd3d.compress.distill.cache import CacheSettings
from kd3d.compress.distill.coefs import BlendSettings
from kd3d.compress.distill.context import SignalContext
from kd3d.compress.distill.frame_weights import FrameSettings, FrameWeights, Hardness, frame_weights, hardness
from kd3d.compress.distill.label_kd import LabelKD
from kd3d.compress.distill.labelfree import SoftBoxes, SoftHeatmap
from kd3d.compress.distill.objective import DistillationObjective, Semi
from kd3d.compress.distill.reads import label_free
from kd3d.compress.distill.semi import UNLABELLED, NoLabels, part_of, parts_of, taught_terms
from kd3d.compress.distill.signals import CenterRegression, PivotalLogits
from kd3d.compress.distilling import DistillSettings, distill
from kd3d.compress.recipe_file import load_recipe
from kd3d.compress.recorded import CachedTeacher
from kd3d.datasets.augment import Augmentation
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model, weights_hash
from kd3d.detectors.presets import preset
from kd3d.errors import DataError, UsageError
from kd3d.training.batch import make_batch
from kd3d.training.loader import Draws, FrameSource, batches
from kd3d.training.objective import total
from kd3d.training.settings import TrainSettings

TINY = preset("world-centerpoint-pillar-tiny")
SMALL = replace(TINY, grid=replace(TINY.grid, cell_m=3.2))
TURN = Augmentation(flip_x=True, flip_y=True, rotation_rad=0.7, scale=(0.95, 1.05))


class Untouchable:
    def __getattribute__(self, name):
        raise AssertionError("a label was looked at")


def bare(count, first=100):
    """Frames whose labels fail whoever looks at them."""
    frames = [frame_of(first + seed) for seed in range(count)]
    for frame in frames:
        object.__setattr__(frame, "boxes", Untouchable())
    return MemoryDataset(frames)


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: f"{type(signal).__name__}-{signal.name}")
def test_a_signal_says_rightly_whether_it_reads_labels(signal):
    context = SignalContext(output(SPEC, seed=1), output(SPEC, seed=2), SPEC, SPEC, NoLabels())
    if label_free(signal):
        assert value(signal, context).item() > 0
    else:
        with pytest.raises(UsageError, match="claims to read no label asked for one of a frame without labels"):
            value(signal, context)
        with pytest.raises(UsageError, match="claims to read no label"):
            context.boxes[0]


def terms_of(context, labelled, weights=None):
    signals = (SoftHeatmap(), SoftBoxes(), PivotalLogits())
    unlabelled = range(len(context.teacher_heatmap) - labelled)
    parts = parts_of(len(context.teacher_heatmap), labelled, 1.0)
    found = taught_terms(signals, context, parts, weights=weights, unlabelled=unlabelled)
    return {term.name: term for term in found}


def share(term):
    return total([term])[0].item()


def test_each_part_has_its_own_mass_and_half_of_the_weight():
    context = SignalContext(output(SPEC, seed=1), output(SPEC, seed=2), SPEC, SPEC, FRAMES[:1])
    found = terms_of(context, 1)
    assert set(found) == {"kd.soft-heatmap", "kd.soft-boxes", "kd.logits", *(
        name + UNLABELLED for name in ("kd.soft-heatmap", "kd.soft-boxes")
    )}  # fmt: skip
    alone = value(SoftHeatmap(), part_of(context, slice(1, 3), NoLabels()))
    assert share(found["kd.soft-heatmap" + UNLABELLED]) == pytest.approx(alone.item() / 2, rel=1e-5)
    first = value(SoftHeatmap(), part_of(context, slice(0, 1), FRAMES[:1]))
    assert share(found["kd.soft-heatmap"]) == pytest.approx(first.item() / 2, rel=1e-5)


def test_the_same_frames_twice_in_one_part_change_no_part():
    student, teacher = output(SPEC, frames=2, seed=1), output(SPEC, frames=2, seed=2)

    def doubled(found):
        return found._replace(
            heads=tuple(task._make(torch.cat([maps, maps[1:]]) for maps in task) for task in found.heads),
            taps=tuple(tap._replace(tensor=torch.cat([tap.tensor, tap.tensor[1:]])) for tap in found.taps),
        )

    once = terms_of(SignalContext(student, teacher, SPEC, SPEC, FRAMES[:1]), 1)
    twice = terms_of(SignalContext(doubled(student), doubled(teacher), SPEC, SPEC, FRAMES[:1]), 1)
    for name, term in once.items():
        assert share(twice[name]) == pytest.approx(share(term), rel=1e-5)


def test_frame_weights_have_mean_one_before_they_are_clipped_and_stay_in_their_limits():
    loose = FrameSettings(low=1e-9, high=1e9)
    rng = np.random.default_rng(0)
    found = [Hardness(*rng.uniform(0.01, 2, 2), 3) for _ in range(8)]
    weights = frame_weights(found, (0.5, 0.5), loose, beta=1.5)
    assert np.mean(weights) == pytest.approx(1)
    harder = [replace(found[0], student=found[0].student * 3), *found[1:]]
    doubtful = [replace(found[0], teacher=found[0].teacher * 3), *found[1:]]
    for changed in (harder, doubtful):
        assert frame_weights(changed, (0.5, 0.5), loose, beta=1.5)[0] > weights[0]
    assert frame_weights(doubtful, (0.5, 0.5), loose, beta=0.0)[0] == pytest.approx(
        frame_weights(found, (0.5, 0.5), loose, beta=0.0)[0]
    )
    extreme = [Hardness(0.0, 1e-6, 1), *(Hardness(1.0, 9.0, 1) for _ in range(9)), Hardness(1.0, 9.0, 0)]
    clipped = frame_weights(extreme, (0.5, 0.5), FrameSettings(), beta=1.5)
    assert clipped[0] == clipped[-1] == 0.25  # easy; and one in which the teacher sees nothing
    assert max(frame_weights([*extreme[:1] * 60, extreme[1]], (0.5, 0.5), FrameSettings(), beta=1.5)) == 4.0
    assert frame_weights([Hardness(0.0, 0.0, 1)] * 2, (0.0, 0.0), FrameSettings(), beta=1.5) == [1.0, 1.0]
    assert frame_weights([Hardness(0.0, float("nan"), 1)] * 2, (0.5, 0.5), FrameSettings(), beta=1.5) == [1.0, 1.0]


def test_a_frame_is_hard_for_the_teacher_by_its_doubt_and_for_the_student_by_its_distance():
    teacher = output(SPEC, frames=1)
    with torch.no_grad():
        teacher.heads[0].hm.fill_(-9.0)
        teacher.heads[0].hm[0, 0, 4, 5] = 6.0
    sure = hardness(SignalContext(same(teacher), teacher, SPEC, SPEC, NoLabels()), 0.5)
    assert (sure.student, sure.objects) == (pytest.approx(0, abs=1e-6), 1)
    far = same(teacher)
    with torch.no_grad():
        far.heads[0].hm[0, 0, 4, 5] = -3.0
        far.heads[0].dim[0, :, 4, 5] += 1.0
    wrong = hardness(SignalContext(far, teacher, SPEC, SPEC, NoLabels()), 0.5)
    assert wrong.student > 0.5 * 3  # sizes alone are off by 3 in all
    assert wrong.teacher == sure.teacher < 0.02
    with torch.no_grad():
        teacher.heads[0].hm[0, 0, 4, 5] = 0.0
    assert hardness(SignalContext(far, teacher, SPEC, SPEC, NoLabels()), 0.5).teacher == pytest.approx(np.log(2))
    with torch.no_grad():
        teacher.heads[0].hm.fill_(-9.0)
    empty = hardness(SignalContext(far, teacher, SPEC, SPEC, NoLabels()), 0.5)
    assert (empty.teacher, empty.objects) == (0.0, 0)
    assert np.isfinite(empty.student)


def test_a_frames_loss_is_multiplied_by_its_weight_and_its_mass_is_not(monkeypatch):
    context = SignalContext(output(SPEC, seed=1), output(SPEC, seed=2), SPEC, SPEC, FRAMES)
    plain = terms_of(context, 3)
    weights = FrameWeights(FrameSettings(), unlabelled=0, passes=0)
    monkeypatch.setattr(weights, "weigh", lambda parts, unlabelled: [[1.0, 1.0, 1.0]])
    for name, term in terms_of(context, 3, weights=weights).items():
        torch.testing.assert_close((term.sum, term.mass, term.weight), (plain[name].sum, plain[name].mass, term.weight))
    monkeypatch.setattr(weights, "weigh", lambda parts, unlabelled: [[2.0, 0.0, 0.0]])
    doubled = terms_of(context, 3, weights=weights)["kd.soft-heatmap"]
    first = SoftHeatmap()(SignalContext(*(cut_first(o) for o in (context.student, context.teacher)), SPEC, SPEC, []))
    assert doubled.sum.item() == pytest.approx(2 * first.sum.item(), rel=1e-5)
    torch.testing.assert_close(doubled.mass, plain["kd.soft-heatmap"].mass)


def cut_first(found):
    return found._replace(
        heads=tuple(task._make(maps[:1] for maps in task) for task in found.heads),
        taps=tuple(tap._replace(tensor=tap.tensor[:1]) for tap in found.taps),
    )


def test_the_table_remembers_frames_without_labels_and_draws_follow_its_root():
    weights = FrameWeights(FrameSettings(), unlabelled=3, passes=100)
    assert np.allclose(weights.probabilities(), 1 / 3)
    assert weights.beta == 0
    rows = [[Hardness(0.1, 0.5, 1)], [Hardness(0.1, 9.0, 1), Hardness(0.1, 0.1, 1)]]
    for _ in range(30):
        found = weights.weigh(rows, [2, 0])
    assert weights.beta == 1.5
    assert found[0] == [1.0]  # a part of one frame
    assert weights.table[1] == 1  # not seen
    assert weights.table[2] > 1 > weights.table[0]
    weights.renew()
    root = weights.table.sqrt().numpy()
    np.testing.assert_allclose(weights.probabilities(), 0.8 * root / root.sum() + 0.2 / 3)
    before = weights.table.clone()
    weights.renew()
    assert torch.equal(weights.table, before)


def test_processes_draw_alike_from_what_all_of_them_saw(monkeypatch):
    ranks = [FrameWeights(FrameSettings(), unlabelled=3, passes=0) for _ in range(2)]
    for rank, (student, frame) in zip(ranks, [(9.0, 0), (0.1, 2)], strict=True):
        rank.weigh([[Hardness(0.1, 1.0, 1), Hardness(0.1, student, 1)]], [0, frame][:0])
        rank.weigh([[Hardness(0.1, 1.0, 1), Hardness(0.1, student, 1)]], [1, frame])
    both = [[rank.table * rank.seen for rank in ranks], [rank.seen.clone() for rank in ranks]]
    monkeypatch.setattr(frame_weights_module, "sum_over_ranks", lambda parts: [sum(pair) for pair in both])
    for rank in ranks:
        rank.renew()
    assert np.array_equal(ranks[0].probabilities(), ranks[1].probabilities())
    assert ranks[0].table[0] > ranks[0].table[2]


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (lambda: FrameSettings(low=2.0), "limits around 1, not 2 and 4"),
        (lambda: FrameSettings(mix=1.5), r"mix of the frame weights must be in 0..1, not 1.5"),
        (lambda: FrameSettings(gamma=0.0), r"gamma \(0\) must be above 0, beta \(1.5\) and eta \(0.5\) not below"),
        (lambda: Semi(3, balance=0.0), "weight of frames without labels must be above 0, not 0"),
        (
            lambda: DistillationObjective(build(TINY), TINY, (PivotalLogits(), CenterRegression()), semi=Semi(3)),
            "no signal can learn from frames without labels: kd.logits, kd.boxes read labels. Use --pseudo-labels,",
        ),
        (
            lambda: DistillationObjective(build(TINY), TINY, (), label_kd=LabelKD(), semi=Semi(3)),
            r"no signal can learn from frames without labels: there is none. Use --pseudo-labels, --recipe auto, ssad",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(work, text):
    with pytest.raises(UsageError, match=text):
        work()


# A whole objective


def mixed_batch():
    frames = [frame_of(0), frame_of(1), *bare(2).frames]
    return make_batch(frames, TINY, unlabelled=(0, 1))


@pytest.mark.parametrize("name", ["ssad", "labelfree"])
def test_the_recipes_learn_from_frames_without_labels_and_the_task_from_the_others_alone(name):
    torch.manual_seed(0)
    teacher, student = build(TINY), build(TINY).train()
    objective = load_recipe(name).objective(teacher, TINY, semi=Semi(2, passes=10))
    assert objective.drawing is objective.frames
    found = {term.name: term for term in objective(student, mixed_batch())}
    taught = [signal.name for signal in objective.signals]
    assert [key for key in found if key.startswith("kd")] == [*taught, *(one + UNLABELLED for one in taught)]
    assert set(objective.blend.taught) == {key for key in found if key.startswith("kd")}
    assert objective.frames.seen.tolist() == [1, 1]
    if name == "labelfree":
        assert not [key for key in found if key.startswith("task")]
        return
    labelled = make_batch([frame_of(0), frame_of(1)], TINY)
    assert found["task0.box"].mass == sum(len(t.cell) for t in labelled.targets)


def test_a_class_without_any_label_still_has_a_gradient_from_the_teacher():
    torch.manual_seed(0)
    teacher, student = build(TINY), build(TINY).train()
    objective = DistillationObjective(teacher, TINY, (SoftHeatmap(),), semi=Semi(2))
    terms = {term.name: term for term in objective(student, mixed_batch())}
    terms["kd.soft-heatmap" + UNLABELLED].sum.backward()
    bus = TINY.head.classes.index("bus")  # the frames in memory have none
    assert student.head.tasks[0].hm.out.bias.grad[bus].abs() > 0


def test_label_distillation_adds_to_the_labelled_frames_alone(tmp_path):
    torch.manual_seed(0)
    teacher, student = build(TINY), build(TINY).train()
    signals, kd = (SoftHeatmap(),), LabelKD(threshold=0.101)
    objective = DistillationObjective(teacher, TINY, signals, label_kd=kd, semi=Semi(2))
    alone = DistillationObjective(teacher, TINY, signals, label_kd=kd)
    mixed = {term.name: term for term in objective(student, mixed_batch())}
    pure = {term.name: term for term in alone(student, make_batch([frame_of(0), frame_of(1)], TINY))}
    assert mixed["task0.box"].mass == pure["task0.box"].mass


# Whole runs

SETTINGS = TrainSettings(steps=7, batch_size=2, precision="fp32", workers=0, checkpoint_every=3, log_every=1, seed=4)


def small_data(**changes):
    return CompressData(memory_dataset(3), None, TURN, unlabelled=bare(3), **changes)


def confident():
    """A random teacher that sees objects everywhere: none of them near the threshold, where halves would decide."""
    torch.manual_seed(9)
    module = build(SMALL).eval()
    with torch.no_grad():
        module.head.tasks[0].hm.out.bias += 1.0
    return Model(SMALL, module, {})


def run_of(folder, *, stop=None, settings=SETTINGS, cache=None, data=None):
    teacher = confident()
    recipe = replace(load_recipe("ssad"), blend=BlendSettings(terms="separate", warmup_steps=0))

    def watch(update):
        if update.stage == "distil" and update.done == stop:
            raise KeyboardInterrupt

    distilling = DistillSettings(settings, recipe, None, cache=cache)
    return distill(teacher, SMALL, data or small_data(), settings=distilling, run=folder, progress=watch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("semi") / "run"
    run_of(folder)
    return folder


def state_of(folder):
    saved = torch.load(folder / "distil" / "checkpoints" / "last.pt", weights_only=True)
    return {name: value for name, value in saved["adapters"].items() if "table" in name or "drawn" in name}


def test_a_run_with_frames_without_labels_logs_both_parts_and_moves_the_table(whole):
    line = json.loads((whole / "distil" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"kd.soft-heatmap", "kd.soft-heatmap.unlabelled"} <= set(line["terms"])
    assert line["epoch"] == pytest.approx(7 / 3)
    table, drawn = (value for _, value in sorted(state_of(whole).items(), reverse=True))
    assert (table != 1).any()
    assert drawn.sum() == pytest.approx(1)


@pytest.mark.parametrize(("stop", "killed"), [(4, True), (5, False)])
def test_a_run_that_stopped_ends_with_the_same_weights_and_draws_bit_for_bit(
    stop, killed, whole, tmp_path, monkeypatch
):
    if killed:  # the last regular checkpoint, of step 3, is what is left
        monkeypatch.setattr("kd3d.training.interrupt.Interrupts.held", True)
    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path / "run", stop=stop)
    monkeypatch.undo()
    run_of(tmp_path / "run")
    assert weights_hash(tmp_path / "run" / "student") == weights_hash(whole / "student")
    ours, theirs = state_of(tmp_path / "run"), state_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_teachers_answers_to_frames_without_labels_are_cached_too(tmp_path):
    result = run_of(tmp_path / "run", cache=CacheSettings(None, 2))
    assert (result.cache["records"], result.cache["hit_rate"]) == (12, 1.0)
    with pytest.raises(UsageError, match=r"begun differently: .*unlabelled"):
        run_of(tmp_path / "run", cache=CacheSettings(None, 2), data=replace(small_data(), unlabelled=None))


def check_cached_terms(recipe, tmp_path):
    """A training whose teacher's answers are recorded has the terms of one that asks it; returns the pairs."""
    found = []
    teacher, student, data = confident(), build(SMALL).train(), small_data()
    objectives = [recipe.objective(teacher.module, SMALL, semi=Semi(3)) for _ in range(2)]
    cached = CachedTeacher(teacher, objectives[0], data, SETTINGS, CacheSettings(None, 2))
    cache, _ = cached.fill(tmp_path, torch.device("cpu"))
    source = FrameSource(data.train, SMALL, None, TURN, None, 4, Draws(2), data.beside(2))
    answered = replace(source, draws=Draws(2, cache))
    streams = (list(batches(one, batch_size=2, start=0, count=3, workers=0)) for one in (source, answered))
    for plain, recorded in zip(*streams, strict=True):
        assert recorded.recorded is not None
        assert plain.unlabelled == recorded.unlabelled
        for exact, near in zip(objectives[0](student, plain), objectives[1](student, recorded), strict=True):
            assert exact.name == near.name
            assert near.sum.item() == pytest.approx(exact.sum.item(), rel=3e-2, abs=1e-4)
            found.append((exact, near))
    assert found
    return found


def test_a_cached_training_sees_the_terms_of_an_uncached_one(tmp_path):
    check_cached_terms(load_recipe("ssad"), tmp_path)


def test_a_batch_of_one_frame_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="batch of 1 frame cannot hold frames with and without labels"):
        run_of(tmp_path / "run", settings=replace(SETTINGS, batch_size=1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            lambda points: {"points": np.where(np.arange(len(points))[:, None] == 7, np.nan, points)},
            r"frame-100: 1 of \d+ points have NaN or infinite values, the first in row 7",
        ),
        (
            lambda points: {"points": points[:, :3], "features": ("x", "y", "z")},
            r"the detector needs the point column\(s\) intensity, but the cloud has x, y, z",
        ),
    ],
    ids=["NaN", "other columns"],
)
def test_a_damaged_frame_without_labels_is_named(damage, text, tmp_path):
    frame = frame_of(100)
    others = MemoryDataset([replace(frame, **damage(frame.points))])
    with pytest.raises(DataError, match=text):
        run_of(tmp_path / "run", data=CompressData(memory_dataset(3), unlabelled=others))
    assert not (tmp_path / "run" / "student").exists()
