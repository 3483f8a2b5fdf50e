"""Batches whose content depends on (seed, position) only: not on the number of workers, nor on where a run resumed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from kd3d.datasets.augment import Augmentation, augment
from kd3d.datasets.base import SampleDataset
from kd3d.datasets.sample import Sample
from kd3d.errors import BackendError, Kd3dError
from kd3d.spec import DetectorSpec
from kd3d.training.batch import Recorded, TrainBatch, make_batch
from kd3d.training.unlabelled import Unlabelled, shuffled

# Separate random streams: the order of frames, what is drawn for each, which of its recorded augmentations a frame has
# in an epoch, and what each of those is (4 and 5: kd3d.training.unlabelled).
_ORDER, _DRAW, _CHOICE, _RECORDED = 0, 1, 2, 3


class Recordings(Protocol):
    """A teacher's answers to the recorded augmentations of all frames."""

    def load(self, keys: Sequence[tuple[int, int]]) -> Recorded | None:
        """Those of a batch of (frame, augmentation), or ``None`` if one of them is missing."""
        ...


@dataclass(frozen=True)
class Draws:
    """Recorded augmentations: each frame has so many, and every epoch takes one of them at random.

    Args:
        count: per frame.
        answers: of a teacher to them, or ``None``.
    """

    count: int
    answers: Recordings | None = None


@dataclass(frozen=True)
class FrameSource:
    """Where the training frames come from and what is done to them.

    Args:
        dataset: yields samples by index.
        spec: the student.
        teacher_spec: the teacher, or ``None``.
        augmentation: or ``None`` for none.
        database: objects to paste, or ``None``.
        seed: of order and augmentation.
        draws: recorded augmentations; ``None`` draws a new one every time.
        unlabelled: frames without labels in every batch, after those with labels; ``None`` for none. Their index here
            goes on from the number of frames with labels.
    """

    dataset: SampleDataset
    spec: DetectorSpec
    teacher_spec: DetectorSpec | None
    augmentation: Augmentation | None
    database: Any
    seed: int
    draws: Draws | None = None
    unlabelled: Unlabelled | None = None

    @property
    def unlabelled_per_batch(self) -> int:
        """Frames without labels in a batch."""
        return 0 if self.unlabelled is None else self.unlabelled.per_batch

    def frame(self, epoch: int, index: int) -> Sample:
        """Frame ``index`` as augmented in ``epoch``."""
        if self.draws is not None:
            return self.recorded(index, self.choice(epoch, index))
        return self._augmented(index, [self.seed, _DRAW, epoch, index])

    def choice(self, epoch: int, index: int) -> int:
        """Which recorded augmentation frame ``index`` has in ``epoch``."""
        assert self.draws is not None
        return int(np.random.default_rng([self.seed, _CHOICE, epoch, index]).integers(self.draws.count))

    def recorded(self, index: int, draw: int) -> Sample:
        """Recorded augmentation ``draw`` of frame ``index``: the same points and labels whenever it is asked for."""
        return self._augmented(index, [self.seed, _RECORDED, index, draw])

    def batch(self, keys: Sequence[tuple[int, int]]) -> TrainBatch:
        """Frames of (epoch, index), collated, with what the teacher said about them if that was recorded."""
        found = None
        if self.draws is not None and self.draws.answers is not None:
            found = self.draws.answers.load([(index, self.choice(epoch, index)) for epoch, index in keys])
        needed = None if found is not None else self.teacher_spec
        samples = [self.frame(*key) for key in keys]
        batch = make_batch(samples, self.spec, needed, unlabelled=self.without_labels(index for _, index in keys))
        return replace(batch, recorded=found)

    def without_labels(self, indices: Iterable[int]) -> tuple[int, ...]:
        """Those of ``indices`` that are of frames without labels, as these frames count themselves."""
        return tuple(index - len(self.dataset) for index in indices if index >= len(self.dataset))

    def _augmented(self, index: int, seed: list[int]) -> Sample:
        sample, settings = self._read(index), self.augmentation
        if settings is None:
            return sample
        if index >= len(self.dataset):
            settings = replace(settings, paste=())  # objects come with labels
        return augment(sample, np.random.default_rng(seed), settings, self.database)

    def _read(self, index: int) -> Sample:
        if index < len(self.dataset):
            return self.dataset[index]
        assert self.unlabelled is not None
        return replace(self.unlabelled.dataset[index - len(self.dataset)], boxes=None)


def order(frames: int, *, seed: int, start: int) -> Iterator[tuple[int, int]]:
    """Endless (epoch, index) of labelled frames from position ``start``, see ``shuffled``."""
    return shuffled(frames, seed=[seed, _ORDER], start=start)


def recorded_batches(
    source: FrameSource, keys: Iterable[list[tuple[int, int]]], *, workers: int, pin: bool = False
) -> Generator[TrainBatch, None, None]:
    """Batches of recorded augmentations, for the teacher alone; close the generator as that of ``batches``.

    Args:
        source: of the frames.
        keys: per batch the (frame, augmentation) in it; read as the batches are.
        workers: as for ``batches``.
        pin: as for ``batches``.

    Raises:
        Kd3dError: as ``batches``.
    """
    return _stream(_Recordable(source), keys, workers=workers, pin=pin)


class _Batches(Sampler[list[tuple[int, int]]]):
    def __init__(self, source: FrameSource, batch_size: int, start: int, count: int) -> None:
        self._source, self._batch_size, self._start, self._count = source, batch_size, start, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        source, unlabelled = self._source, self._source.unlabelled
        labelled, frames = self._batch_size - source.unlabelled_per_batch, len(source.dataset)
        stream = order(frames, seed=source.seed, start=self._start * labelled)
        others = iter(()) if unlabelled is None else unlabelled.indices(seed=source.seed, start=self._start)
        for _ in range(self._count):
            keys = [next(stream) for _ in range(labelled)]
            yield keys + [(number, frames + index) for number, index in islice(others, source.unlabelled_per_batch)]


class _Frames(Dataset[Any]):
    """Whole batches by their keys: collating in the worker leaves nothing but the network to the main process."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source

    def __getitems__(self, keys: list[tuple[int, int]]) -> TrainBatch | Kd3dError:
        try:
            return self._batch(keys)
        except Kd3dError as error:  # raised in a worker it would arrive as text with a traceback in it
            error.__traceback__ = None
            return error

    def __getitem__(self, key: tuple[int, int]) -> TrainBatch | Kd3dError:
        return self.__getitems__([key])

    def _batch(self, keys: list[tuple[int, int]]) -> TrainBatch:
        return self._source.batch(keys)


class _Recordable(_Frames):
    """Batches by (frame, augmentation), as the teacher sees them; labels are the student's, which has no part in it."""

    def _batch(self, keys: list[tuple[int, int]]) -> TrainBatch:
        source = self._source
        samples = [source.recorded(*key) for key in keys]
        unlabelled = source.without_labels(index for index, _ in keys)
        return make_batch(samples, source.spec, source.teacher_spec, targets=False, unlabelled=unlabelled)


def _as_it_is(batch: Any) -> Any:
    return batch


def _worker_start(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    sys.excepthook = _complain


def _complain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The thread that hands tensors over may lose the main process in the middle, as on Ctrl-C: that is no news."""
    if not issubclass(kind, (OSError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def batches(
    source: FrameSource, *, batch_size: int, start: int, count: int, workers: int, pin: bool = False
) -> Generator[TrainBatch, None, None]:
    """Batches ``start`` .. ``start + count - 1`` of the run. The workers end with the generator: ``close`` it.

    Args:
        source: of the frames.
        batch_size: frames per batch.
        start: number of batches already used.
        count: how many follow.
        workers: processes; 0 prepares batches in this one.
        pin: put tensors into page-locked memory, for a GPU.

    Raises:
        Kd3dError: whatever reading or augmenting a frame raised.
        BackendError: a worker process died.
    """
    keys = _Batches(source, batch_size, start, count)
    return _stream(_Frames(source), keys, workers=min(workers, count), pin=pin)


def _stream(
    frames: _Frames, keys: Iterable[list[tuple[int, int]]], *, workers: int, pin: bool
) -> Generator[TrainBatch, None, None]:
    loader: DataLoader[Any] = DataLoader(
        frames,
        batch_sampler=keys,  # type: ignore[arg-type]  # an iterable is all that is used of it
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_worker_start,
        pin_memory=pin,
        prefetch_factor=2 if workers else None,
    )
    stream = iter(loader)
    try:
        while (batch := _next(stream)) is not None:
            if isinstance(batch, Kd3dError):
                raise batch
            yield batch
    finally:
        del stream  # stops the workers; a traceback would keep this frame, and them, alive


def _next(stream: Iterator[Any]) -> Any:
    try:
        return next(stream, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        first = str(error).splitlines()[0]
        raise BackendError(
            f"a data worker died ({first}). It may have run out of memory or of /dev/shm: use fewer workers, or 0."
        ) from error
