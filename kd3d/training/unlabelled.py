"""Frames without labels beside labelled ones in every batch, and which of them are drawn how often."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.base import SampleDataset
from kd3d.errors import UsageError

_SHUFFLED, _DRAWN = 4, 5  # random streams, apart from those of the labelled frames


class Drawing(Protocol):
    """Says how often each frame without labels is drawn; may learn from what a step saw of them."""

    def renew(self) -> None:
        """A period begins: from now on ``probabilities`` are those of what has been seen so far, on all processes."""
        ...

    def probabilities(self) -> NDArray[np.float64]:
        """``[M]`` of this period, of sum 1."""
        ...


@dataclass(frozen=True)
class Period:
    """Batches between two renewals of a ``Drawing``.

    Args:
        number: counted from 0.
        first: batch of the run with which it begins.
        batches: in it.
        probabilities: ``[M]`` of the frames.
    """

    number: int
    first: int
    batches: int
    probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class Unlabelled:
    """Frames without labels.

    Args:
        dataset: labels that it brings are dropped.
        per_batch: how many of a batch are such frames.
        period: in which they are drawn by probabilities; ``None`` takes them in shuffled passes, as labelled frames.
    """

    dataset: SampleDataset
    per_batch: int
    period: Period | None = None

    def indices(self, *, seed: int, start: int) -> Iterator[tuple[int, int]]:
        """Endless (number, index) of frames from batch ``start`` on; the number is another one at each draw of a frame.

        Args:
            seed: of the run.
            start: a batch, within the period if there is one.
        """
        if self.period is None:
            return shuffled(len(self.dataset), seed=[seed, _SHUFFLED], start=start * self.per_batch)
        return self._drawn(self.period, seed, start)

    def _drawn(self, period: Period, seed: int, start: int) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([seed, _DRAWN, period.number])
        chosen = draw(period.probabilities, period.batches * self.per_batch, rng)
        begin = period.first * self.per_batch
        for place in range((start - period.first) * self.per_batch, len(chosen)):
            yield begin + place, int(chosen[place])


def per_batch(share: float, batch_size: int) -> int:
    """Frames without labels in a batch of ``batch_size``, of which they are to be ``share``.

    Raises:
        UsageError: the batch has no room for frames of both kinds.
    """
    if not 0 < share < 1:
        raise UsageError(f"the share of unlabelled frames in a batch must be between 0 and 1, not {share:g}.")
    if batch_size < 2:
        raise UsageError("a batch of 1 frame cannot hold frames with and without labels. Use --batch-size 2 or more.")
    return min(batch_size - 1, max(1, round(share * batch_size)))


def period_steps(frames: int, per_step: int) -> int:
    """Optimiser steps until as many frames without labels have been drawn as there are."""
    return math.ceil(frames / per_step)


def shuffled(frames: int, *, seed: list[int], start: int) -> Iterator[tuple[int, int]]:
    """Endless (epoch, index) from position ``start``; each epoch is a permutation of all frames.

    Epochs follow each other without a gap, so every batch is full and no frame is left out.
    """
    epoch, offset = divmod(start, frames)
    while True:
        permutation = np.random.default_rng([*seed, epoch]).permutation(frames)
        for index in permutation[offset:]:
            yield epoch, int(index)
        epoch, offset = epoch + 1, 0


def draw(probabilities: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``[count]`` indices in random order, each as often as its probability says, to less than one.

    Systematic sampling: a comb of ``count`` equally spaced teeth over the cumulated probabilities. With equal
    probabilities and as many draws as frames it is a permutation.
    """
    cumulated = np.cumsum(probabilities / probabilities.sum())
    teeth = (rng.random() + np.arange(count)) / count
    found = np.minimum(np.searchsorted(cumulated, teeth, side="right"), len(probabilities) - 1)
    return np.asarray(rng.permutation(found), np.int64)
