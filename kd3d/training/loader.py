"""Batches whose content depends on (seed, position) only: not on the number of workers, nor on where a run resumed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from kd3d.datasets.augment import Augmentation, augment
from kd3d.datasets.base import SampleDataset
from kd3d.datasets.sample import Sample
from kd3d.errors import BackendError, Kd3dError
from kd3d.spec import DetectorSpec
from kd3d.training.batch import TrainBatch, make_batch

_ORDER, _DRAW = 0, 1  # separate random streams: the order of frames, and what is drawn for each


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
    """

    dataset: SampleDataset
    spec: DetectorSpec
    teacher_spec: DetectorSpec | None
    augmentation: Augmentation | None
    database: Any
    seed: int

    def frame(self, epoch: int, index: int) -> Sample:
        """Frame ``index`` as augmented in ``epoch``."""
        sample = self.dataset[index]
        if self.augmentation is None:
            return sample
        rng = np.random.default_rng([self.seed, _DRAW, epoch, index])
        return augment(sample, rng, self.augmentation, self.database)


def order(frames: int, *, seed: int, start: int) -> Iterator[tuple[int, int]]:
    """Endless (epoch, index) from position ``start``; each epoch is a permutation of all frames.

    Epochs follow each other without a gap, so every batch is full and no frame is left out.
    """
    epoch, offset = divmod(start, frames)
    while True:
        permutation = np.random.default_rng([seed, _ORDER, epoch]).permutation(frames)
        for index in permutation[offset:]:
            yield epoch, int(index)
        epoch, offset = epoch + 1, 0


class _Batches(Sampler[list[tuple[int, int]]]):
    def __init__(self, source: FrameSource, batch_size: int, start: int, count: int) -> None:
        self._source, self._batch_size, self._start, self._count = source, batch_size, start, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        stream = order(len(self._source.dataset), seed=self._source.seed, start=self._start * self._batch_size)
        for _ in range(self._count):
            yield [next(stream) for _ in range(self._batch_size)]


class _Frames(Dataset[Any]):
    """Whole batches by their keys: collating in the worker leaves nothing but the network to the main process."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source

    def __getitems__(self, keys: list[tuple[int, int]]) -> TrainBatch | Kd3dError:
        source = self._source
        try:
            return make_batch([source.frame(*key) for key in keys], source.spec, source.teacher_spec)
        except Kd3dError as error:  # raised in a worker it would arrive as text with a traceback in it
            error.__traceback__ = None
            return error

    def __getitem__(self, key: tuple[int, int]) -> TrainBatch | Kd3dError:
        return self.__getitems__([key])


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
    loader: DataLoader[Any] = DataLoader(
        _Frames(source),
        batch_sampler=_Batches(source, batch_size, start, count),
        num_workers=min(workers, count),
        collate_fn=_as_it_is,
        worker_init_fn=_worker_start,
        pin_memory=pin,
        prefetch_factor=2 if workers and count else None,
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
