"""Frames without labels in every batch: which ones, in which order, and that nobody looks at their labels."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_frames import MemoryDataset, frame_of, memory_dataset

from kd3d.datasets.augment import Augmentation
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import DataError, UsageError
from kd3d.training.loader import FrameSource, batches
from kd3d.training.loop import train
from kd3d.training.settings import TrainSettings
from kd3d.training.unlabelled import Period, Unlabelled, draw, per_batch, period_steps

TINY = preset("world-centerpoint-pillar-tiny")
TURN = Augmentation(flip_x=True, rotation_rad=0.7, paste=())


class Untouchable:
    def __getattribute__(self, name):
        raise AssertionError("a label was looked at")


def others(count=3):
    frames = [frame_of(100 + seed) for seed in range(count)]
    for frame in frames:
        object.__setattr__(frame, "boxes", Untouchable())
    return MemoryDataset(frames)


def read(unlabelled, *, start=0, count=4, workers=0, batch_size=3, seed=3):
    source = FrameSource(memory_dataset(5), TINY, None, TURN, None, seed, None, unlabelled)
    return list(batches(source, batch_size=batch_size, start=start, count=count, workers=workers))


def test_every_batch_ends_with_frames_whose_labels_nobody_looks_at():
    found = read(Unlabelled(others(), 1))
    for batch in found:
        assert [len(token) == len("frame-1") for token in batch.tokens] == [True, True, False]
        assert (batch.labelled, len(batch.boxes), len(batch.targets[0].heatmap)) == (2, 2, 2)
        assert batch.tokens[2] == f"frame-{100 + batch.unlabelled[0]}"
        assert batch.student.batch_size == 3
    assert sorted(batch.unlabelled[0] for batch in found[:3]) == [0, 1, 2]  # a pass over all of them


def test_the_labelled_frames_are_those_of_a_run_of_labelled_frames_alone():
    beside, alone = read(Unlabelled(others(), 1)), read(None, batch_size=2)
    for one, other in zip(beside, alone, strict=True):
        assert one.tokens[:2] == other.tokens
        np.testing.assert_array_equal(one.boxes[0].array, other.boxes[0].array)


@pytest.mark.parametrize("period", [None, Period(1, 4, 6, np.array([0.7, 0.1, 0.2]))])
def test_neither_workers_nor_where_a_run_resumes_change_the_batches(period):
    unlabelled = Unlabelled(others(), 1, period)
    whole = read(unlabelled, start=4, count=6)
    for other in (read(unlabelled, start=4, count=6, workers=2), [*whole[:2], *read(unlabelled, start=6, count=4)]):
        for one, two in zip(whole, other, strict=True):
            assert (one.tokens, one.unlabelled) == (two.tokens, two.unlabelled)
            np.testing.assert_array_equal(one.student.features.numpy(), two.student.features.numpy())


def test_a_frame_that_is_drawn_twice_in_a_period_is_augmented_anew():
    only = Period(0, 0, 2, np.array([1.0, 0.0, 0.0]))
    one, two = read(Unlabelled(others(), 1, only), count=2)
    assert one.unlabelled == two.unlabelled == (0,)
    assert one.student.features.shape != two.student.features.shape or not np.array_equal(
        one.student.features.numpy(), two.student.features.numpy()
    )


class Database:
    """Fails where objects are pasted into a frame that has none."""

    def paste(self, sample, rng, counts):
        assert sample.boxes is not None
        return sample


def test_nothing_is_pasted_into_frames_without_labels():
    source = FrameSource(memory_dataset(2), TINY, None, Augmentation(paste=(("car", 3),)), Database(), 0)
    source = replace(source, unlabelled=Unlabelled(others(), 1))
    assert source.frame(0, 2).boxes is None
    assert source.frame(0, 1).boxes is not None


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=12), st.integers(1, 60), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_each_frame_is_drawn_as_often_as_its_probability_says_to_less_than_one(weights, count, seed):
    probabilities = np.array(weights) / sum(weights)
    found = np.bincount(draw(probabilities, count, np.random.default_rng(seed)), minlength=len(weights))
    assert found.sum() == count
    assert (np.abs(found - count * probabilities) < 1 + 1e-6).all()


def test_draws_follow_the_table_and_a_table_of_equals_gives_a_permutation():
    probabilities = np.array([0.4, 0.3, 0.2, 0.1])
    found = sum(
        np.bincount(draw(probabilities, 7, np.random.default_rng([1, period])), minlength=4) for period in range(200)
    )
    expected = 1400 * probabilities
    assert ((found - expected) ** 2 / expected).sum() < 11.3  # the 1 % point of chi squared with 3 degrees of freedom
    rng = np.random.default_rng(0)
    assert sorted(draw(np.full(9, 1 / 9), 9, rng)) == list(range(9))
    again, once = (draw(probabilities, 50, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(again, once)


def test_frames_per_batch_and_steps_per_period():
    assert [per_batch(share, 4) for share in (0.01, 0.5, 0.75, 0.99)] == [1, 2, 3, 3]
    assert period_steps(9, 2) == 5
    assert TrainSettings(epochs=2, batch_size=4, accumulate=2).total_steps(12, unlabelled=2) == 6
    with pytest.raises(UsageError, match=r"batch of 1 frame cannot hold frames with and without labels. Use --batch"):
        per_batch(0.5, 1)
    with pytest.raises(UsageError, match="share of unlabelled frames in a batch must be between 0 and 1, not 1"):
        per_batch(1.0, 4)


@pytest.mark.parametrize(
    ("unlabelled", "error", "text"),
    [
        (Unlabelled(MemoryDataset([]), 1), DataError, "no frames without labels. Check --unlabelled and its split"),
        (Unlabelled(others(), 1), UsageError, "frames without labels need an objective whose teacher teaches on them"),
    ],
)
def test_frames_that_nobody_can_teach_on_are_refused(unlabelled, error, text, tmp_path):
    given = {"settings": TrainSettings(steps=1, workers=0), "run": tmp_path, "unlabelled": unlabelled}
    with pytest.raises(error, match=text):
        train(build(TINY), memory_dataset(2), **given)
