"""The teacher's answers from disk are the teacher's answers, to half precision."""

import multiprocessing
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_signals import FRAMES, SIGNALS, SPEC, make_spec, output, value

from kd3d.compress.distill.cache import SHARD, CacheSettings, TeacherCache
from kd3d.compress.distill.context import SignalContext
from kd3d.compress.distill.filling import BATCH, fill
from kd3d.compress.distill.label_kd import LabelKD
from kd3d.compress.distill.objective import DistillationObjective
from kd3d.compress.distill.record import Layout, RecordedBatch, records_of
from kd3d.compress.distill.shards import Shard, write_shard
from kd3d.compress.distill.signals import CenterRegression, PivotalLogits
from kd3d.compress.distill.teacher import TeacherSettings
from kd3d.compress.recorded import check_cacheable
from kd3d.datasets.augment import Augmentation
from kd3d.datasets.paste import build_database
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import OutputError, UsageError
from kd3d.geometry.boxes import Boxes3D
from kd3d.training.loader import Draws, FrameSource, batches

CPU = torch.device("cpu")
AUGMENTATION = Augmentation(flip_x=True, flip_y=True, rotation_rad=0.7, scale=(0.95, 1.05))
CACHED = [signal for signal in SIGNALS if not signal.reads.maps]


def scored(count, seed=0):
    rng = np.random.default_rng(seed)
    array = rng.uniform(0.5, 9, (count, 9)).astype(np.float32)
    return Boxes3D(array, rng.integers(0, 3, count), rng.random(count).astype(np.float32))


def through_a_file(path, found, cells, layout):
    """A batch of outputs, written, mapped, and put together again."""
    records = records_of(found, cells, [scored(n) for n in range(len(cells))], layout)
    write_shard(path, records)
    channels = (layout.channels("cells"), layout.channels("everywhere"))
    shard = Shard(path)
    assert len(shard) == len(records)
    grid = layout.spec.output_grid
    kept = [shard.record(place, channels=channels) for place in range(len(records))]
    return RecordedBatch.of(kept, grid.nx * grid.ny)


@pytest.mark.parametrize("signal", CACHED, ids=lambda signal: f"{type(signal).__name__}-{signal.name}")
@pytest.mark.parametrize("other", [False, True], ids=["same grid", "coarser student with other tasks"])
def test_every_signal_reads_no_more_of_the_teacher_than_it_declares(signal, other, tmp_path):
    spec = make_spec(cell=2.0, tasks=(("dog",), ("car", "bus")), velocity=False) if other else SPEC
    try:
        signal.check(spec, SPEC)
    except UsageError:
        pytest.skip("the signal refuses unequal grids")
    boxes = FRAMES if not other else [replace(frame, label=(frame.label + 1) % 3) for frame in FRAMES]
    teacher, student = output(SPEC, seed=3), output(spec, seed=4)
    context = SignalContext(student, teacher, spec, SPEC, boxes)
    layout = Layout(SPEC, signal.reads)
    recorded = through_a_file(tmp_path / "a.kdt", teacher, signal.cells(context), layout)
    known = SignalContext(student, recorded.output(layout), spec, SPEC, boxes)
    expected, found = value(signal, context), value(signal, known)
    assert found.item() == pytest.approx(expected.item(), rel=3e-3, abs=1e-6)
    planes = [t for maps in student.heads for t in maps if t is not None]
    exact, near = (torch.autograd.grad(loss, planes, allow_unused=True) for loss in (expected, found))
    for a, b in zip(exact, near, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a - b).abs().max() <= 5e-3 * a.abs().max() + 1e-6


def test_pivotal_positions_take_a_small_part_of_the_room_of_whole_maps(tmp_path):
    teacher = output(SPEC, seed=3)
    context = SignalContext(teacher, teacher, SPEC, SPEC, FRAMES)
    signal, layout = CenterRegression(), Layout(SPEC, CenterRegression().reads)
    recorded = through_a_file(tmp_path / "a.kdt", teacher, signal.cells(context), layout)
    assert len(recorded.cells) == 5  # one per object
    assert recorded.values.shape == (5, 10)
    assert recorded.dense.numel() == 0


def test_boxes_come_back_from_a_file_as_they_were(tmp_path):
    teacher = output(SPEC)
    nothing = torch.zeros(3, 16, 16, dtype=torch.bool)
    recorded = through_a_file(tmp_path / "a.kdt", teacher, nothing, Layout(SPEC, PivotalLogits().reads))
    for count, boxes in enumerate(recorded.boxes):
        wanted = scored(count)
        assert np.array_equal(boxes.array, wanted.array)
        assert np.array_equal(boxes.label, wanted.label)
        assert np.array_equal(boxes.score, wanted.score)


# The cache as a whole, with a real network and frames.

TINY = preset("world-centerpoint-pillar-tiny")
COARSE = replace(TINY, grid=replace(TINY.grid, cell_m=3.2))


def source_of(dataset, objective, draws=2, answers=None, **more):
    settings = {"augmentation": AUGMENTATION, "database": None, "seed": 5, **more}
    return FrameSource(
        dataset, objective.student_spec, objective.teacher_input, draws=Draws(draws, answers), **settings
    )


def objective_of(student=TINY, *, seed=0, signals=None, **more):
    torch.manual_seed(seed)
    return DistillationObjective(build(TINY), student, signals or (PivotalLogits(),), **more)


def cache_of(folder, objective, dataset, draws=2):
    return TeacherCache(folder, objective.layout, frames=len(dataset), draws=draws)


def filled(folder, objective, dataset, draws=2, **more):
    cache = cache_of(folder, objective, dataset, draws)
    source = source_of(dataset, objective, draws)
    return cache, fill(
        cache, source, objective, device=CPU, autocast=lambda: torch.autocast("cpu", enabled=False), **more
    )


@pytest.mark.parametrize("student", [TINY, COARSE], ids=["same pillars", "other pillars"])
def test_a_cached_training_sees_the_losses_of_an_uncached_one_at_the_same_augmentations(student, frames, tmp_path):
    signals = [PivotalLogits()] + ([CenterRegression()] if student is TINY else [])
    objective = objective_of(student, signals=signals, label_kd=LabelKD(threshold=0.105))
    cache, _ = filled(tmp_path / "cache", objective, frames)
    torch.manual_seed(1)
    module = build(student).train()
    plain = source_of(frames, objective)
    for batch, other in zip(
        batches(plain, batch_size=2, start=0, count=3, workers=0),
        batches(replace(plain, draws=Draws(2, cache)), batch_size=2, start=0, count=3, workers=0),
        strict=True,
    ):
        assert other.recorded is not None
        assert other.teacher is None
        assert torch.equal(batch.student.features, other.student.features)
        for exact, near in zip(objective(module, batch), objective(module, other), strict=True):
            assert exact.name == near.name
            assert near.sum.item() == pytest.approx(exact.sum.item(), rel=5e-3, abs=1e-5)
            assert near.mass.item() == pytest.approx(exact.mass.item(), rel=2e-3)
    assert (objective.answers.asked, objective.answers.recorded) == (6, 6)


def test_the_first_pass_answers_all_frames_and_a_second_one_has_nothing_to_do(frames, tmp_path):
    objective, told = objective_of(), []
    cache, first = filled(tmp_path, objective, frames, told=lambda done, total, eta: told.append((done, total)))
    assert first.records == first.made == 2 * len(frames)
    assert first.bytes == sum(path.stat().st_size for path in tmp_path.glob("draw*.kdt"))
    assert told[-1] == (first.records, first.records)
    _, second = filled(tmp_path, objective, frames)
    assert (second.made, second.records) == (0, first.records)
    keys = [(index, draw) for index in range(len(frames)) for draw in range(2)]
    assert all(cache.load([key]) is not None for key in keys)
    _, third = filled(tmp_path, objective, frames, draws=3)
    assert third.made == len(frames)  # more augmentations later: those that are there stay


def test_a_killed_first_pass_goes_on_and_a_damaged_file_is_made_again(frames, tmp_path):
    objective = objective_of()
    filled(tmp_path, objective, frames)
    whole = {path.name: path.read_bytes() for path in tmp_path.glob("*.kdt")}
    lost, hurt = sorted(tmp_path.glob("*.kdt"))
    lost.unlink()
    content = bytearray(hurt.read_bytes())
    content[-20] ^= 1
    hurt.write_bytes(content)
    cache = cache_of(tmp_path, objective, frames)
    assert cache.load([(0, 0)]) is None  # the training would ask the teacher
    _, again = filled(tmp_path, objective, frames)
    assert again.made == 2 * len(frames)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.kdt")} == whole
    hurt.write_bytes(b"")
    assert len(list(cache_of(tmp_path, objective, frames).missing())) == 1


def test_a_missing_answer_is_asked_for_in_training(frames, tmp_path):
    objective = objective_of(COARSE)
    _cache, _ = filled(tmp_path, objective, frames)
    for path in tmp_path.glob("draw000*"):
        path.unlink()
    source = source_of(frames, objective, answers=cache_of(tmp_path, objective, frames))
    found = list(batches(source, batch_size=1, start=0, count=2 * len(frames), workers=0))
    assert {batch.recorded is None for batch in found} == {True, False}
    assert all((batch.teacher is None) == (batch.recorded is not None) for batch in found)
    module = build(COARSE)
    assert all(torch.isfinite(term.sum) for batch in found[:4] for term in objective(module, batch))


def _work(folder, dataset, made):
    torch.set_num_threads(1)
    _, done = filled(folder, objective_of(), dataset, draws=4)
    made.put(done.made)


def test_two_processes_fill_one_cache_and_both_find_it_whole(frames, tmp_path):
    context = multiprocessing.get_context("fork")
    made = context.Queue()
    workers = [context.Process(target=_work, args=(tmp_path, frames, made)) for _ in range(2)]
    for worker in workers:
        worker.start()
    counts = [made.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert 4 * len(frames) <= sum(counts) <= 8 * len(frames)
    objective = objective_of()
    assert list(cache_of(tmp_path, objective, frames, 4).missing()) == []
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_full_disk_stops_the_first_pass_with_what_is_missing(frames, tmp_path, monkeypatch):
    objective = objective_of()
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
        with pytest.raises(OutputError, match=r"needs about .* GB more, and 0\.0 GB are free.*--cache-augmentations"):
            filled(tmp_path / "a", objective, frames)
    assert len(list((tmp_path / "a").glob("*.kdt"))) == 1  # what was made stays, and serves the next run

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match="the disk is full"):
        filled(tmp_path / "b", objective, frames)
    assert OutputError.exit_code == 9


def test_a_cache_of_another_teacher_or_other_signals_is_refused_by_name(frames, tmp_path):
    cache = cache_of(tmp_path, objective_of(), frames)
    begun = {"teacher": {"name": "a", "weights": "1"}, "signals": {"kd.logits": "x"}}
    cache.open(begun)
    cache.open(begun)
    with pytest.raises(UsageError, match=r"answers of another teacher.*teacher.weights=1 then, 2 now.*--teacher-cache"):
        cache.open({**begun, "teacher": {"name": "a", "weights": "2"}})
    with pytest.raises(UsageError, match=r"signals.kd.logits=x then, y now"):
        cache.open({**begun, "signals": {"kd.logits": "y"}})


def test_what_cannot_be_cached_says_why_and_how_large_it_would_be():
    from kd3d.compress.distill.registry import made

    (mimic,) = made({"signal": "mimic"}, TINY, TINY)
    with pytest.raises(
        UsageError, match=r"kd\.mimic\.neck reads the teacher's whole feature map \(neck\): .* MB .* GB"
    ):
        check_cacheable(objective_of(signals=[mimic]), 1000)
    with pytest.raises(UsageError, match="batch statistics"):
        check_cacheable(objective_of(running=TeacherSettings(norm="train")), 10)
    check_cacheable(objective_of(), 10)
    with pytest.raises(UsageError, match="at least 1 augmentation"):
        CacheSettings(augmentations=0)


def test_a_recorded_augmentation_is_the_same_whenever_it_is_asked_for_and_each_comes_up(frames, tmp_path):
    pasting = replace(AUGMENTATION, paste=(("car", 6), ("pedestrian", 6)))
    database = build_database(frames, tmp_path / "objects")
    source = source_of(frames, objective_of(), draws=3, augmentation=pasting, database=database)
    assert len(source.recorded(0, 1).boxes) > len(frames[0].boxes)
    first, again, other = source.recorded(0, 1), source.recorded(0, 1), source.recorded(0, 2)
    assert np.array_equal(first.points, again.points)
    assert np.array_equal(first.boxes.array, again.boxes.array, equal_nan=True)
    assert not np.array_equal(first.points, other.points)
    drawn = [source.choice(epoch, index) for epoch in range(60) for index in range(len(frames))]
    counts = np.bincount(drawn, minlength=3)
    assert counts.min() > 0.2 * len(drawn)


def test_an_fp16_teacher_on_a_cpu_and_an_unknown_precision_are_refused():
    with pytest.raises(UsageError, match="an fp16 teacher needs a GPU"):
        TeacherSettings(precision="fp16").resolve(CPU, mixed=True)
    with pytest.raises(UsageError, match="auto, fp32, bf16 or fp16, not 'int8'"):
        TeacherSettings(precision="int8")
    assert TeacherSettings().resolve(torch.device("cuda"), mixed=True) == "fp16"
    assert TeacherSettings().resolve(CPU, mixed=True) == "bf16"
    assert TeacherSettings().resolve(CPU, mixed=False) == "fp32"


def test_a_half_precision_teacher_answers_like_an_fp32_one(frames):
    batch = next(iter(batches(source_of(frames, objective_of()), batch_size=2, start=0, count=1, workers=0)))
    exact, near = (
        objective_of(running=TeacherSettings(precision=name))._teach(batch, CPU) for name in ("fp32", "bf16")
    )
    assert near.heads[0].hm.dtype == torch.bfloat16
    assert exact.heads[0].hm.dtype == torch.float32
    assert (near.heads[0].hm.float() - exact.heads[0].hm).abs().max() < 0.03 * exact.heads[0].hm.abs().max()


def test_a_file_holds_whole_batches_of_the_first_pass():
    assert SHARD % BATCH == 0
