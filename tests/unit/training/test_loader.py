import sys

import numpy as np
import pytest
import torch
from training_frames import MemoryDataset, frame_of, memory_dataset

from kd3d.datasets.augment import Augmentation
from kd3d.detectors.presets import preset
from kd3d.errors import BackendError, DataError
from kd3d.training import loader
from kd3d.training.loader import FrameSource, batches, order

TINY = preset("world-centerpoint-pillar-tiny")
TURN = Augmentation(flip_x=True, flip_y=True, rotation_rad=0.7, scale=(0.95, 1.05))


def source(dataset=None, seed=3):
    return FrameSource(dataset or memory_dataset(5), TINY, None, TURN, None, seed)


def read(*, workers, start=0, count=4, **changes):
    return list(batches(source(**changes), batch_size=2, start=start, count=count, workers=workers))


def same(one, other):
    assert one.tokens == other.tokens
    assert torch.equal(one.student.features, other.student.features)
    assert torch.equal(one.student.cells, other.student.cells)
    assert torch.equal(one.targets[0].heatmap, other.targets[0].heatmap)
    for mine, theirs in zip(one.boxes, other.boxes, strict=True):
        np.testing.assert_array_equal(mine.array, theirs.array)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_does_not_change_the_batches(workers):
    for one, other in zip(read(workers=0), read(workers=workers), strict=True):
        same(one, other)


def test_a_later_start_continues_the_same_stream():
    for one, other in zip(read(workers=0)[2:], read(workers=0, start=2, count=2), strict=True):
        same(one, other)


def test_another_seed_gives_other_batches():
    assert not torch.equal(read(workers=0)[0].student.features, read(workers=0, seed=4)[0].student.features)


def test_a_frame_is_augmented_anew_in_every_epoch():
    made = source()
    assert not np.array_equal(made.frame(0, 1).points, made.frame(1, 1).points)
    assert np.array_equal(made.frame(1, 1).points, made.frame(1, 1).points)


def test_each_epoch_is_a_permutation_and_epochs_join_without_a_gap():
    stream = order(5, seed=0, start=0)
    keys = [next(stream) for _ in range(15)]
    for epoch in range(3):
        part = keys[5 * epoch : 5 * epoch + 5]
        assert {key[0] for key in part} == {epoch}
        assert sorted(key[1] for key in part) == [0, 1, 2, 3, 4]
    assert [key[1] for key in keys[:5]] != [key[1] for key in keys[5:10]]
    later = order(5, seed=0, start=7)
    assert [next(later) for _ in range(8)] == keys[7:]


def test_no_batches_left_is_an_empty_stream():
    assert read(workers=2, count=0) == []


class Damaged(MemoryDataset):
    def __getitem__(self, index):
        if index == 1:
            raise DataError("sweep-17.bin: 13 bytes is not a whole number of points.")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_frame_arrives_as_its_own_one_line_error(workers):
    dataset = Damaged([frame_of(seed) for seed in range(3)])
    with pytest.raises(DataError, match=r"sweep-17.bin: 13 bytes") as caught:
        read(workers=workers, dataset=dataset)
    assert "\n" not in str(caught.value)


class Killer(MemoryDataset):
    def __getitem__(self, index):
        import os

        os.kill(os.getpid(), 9)


def test_a_worker_that_dies_says_what_to_do():
    with pytest.raises(BackendError, match=r"a data worker died .* use fewer workers"):
        read(workers=1, dataset=Killer([frame_of(0)]))


def test_a_worker_is_silent_about_a_main_process_that_is_gone_and_about_nothing_else(capsys):
    for error in (EOFError(), ConnectionResetError("gone"), ValueError("a real one")):
        loader._complain(type(error), error, None)
    assert capsys.readouterr().err.strip() == "ValueError: a real one"


class Hooked(MemoryDataset):
    def __getitem__(self, index):
        if sys.excepthook is not loader._complain:
            raise DataError("no hook here")
        return super().__getitem__(index)


def test_workers_have_that_hook_and_the_main_process_has_not():
    dataset = Hooked([frame_of(seed) for seed in range(3)])
    assert len(read(workers=1, dataset=dataset)) == 4
    with pytest.raises(DataError, match="no hook here"):
        read(workers=0, dataset=dataset)
