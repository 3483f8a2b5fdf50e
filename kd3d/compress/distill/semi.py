"""Batches of which a part has no labels: each part is a batch of its own to the signals, and has its own mass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import torch

from kd3d.compress.distill.context import SignalContext
from kd3d.compress.distill.frame_weights import FrameWeights, hardness
from kd3d.compress.distill.reads import label_free
from kd3d.compress.distill.signals import Signal
from kd3d.detectors.model import BevTap, DetectorOutput
from kd3d.errors import UsageError
from kd3d.geometry.boxes import Boxes3D
from kd3d.training.objective import Term

UNLABELLED = ".unlabelled"  # ends the names of the terms of frames without labels


class NoLabels(Sequence[Boxes3D]):
    """The labels of frames that have none: whoever asks for one made a mistake."""

    def __len__(self) -> NoReturn:
        raise UsageError("a signal that claims to read no label asked for one of a frame without labels.")

    def __getitem__(self, index: object) -> NoReturn:
        """Refuse."""
        len(self)
        raise AssertionError


@dataclass(frozen=True)
class Part:
    """Frames of a batch that are normalised together.

    Args:
        frames: which.
        suffix: of the names of their terms.
        share: of the weight of every signal.
    """

    frames: slice
    suffix: str
    share: float


def parts_of(frames: int, labelled: int, balance: float) -> tuple[Part, ...]:
    """Frames with labels and frames without; the latter have ``balance`` times the former's weight, both together 1."""
    if labelled == frames:
        return (Part(slice(0, frames), "", 1.0),)
    return (
        Part(slice(0, labelled), "", 1 / (1 + balance)),
        Part(slice(labelled, frames), UNLABELLED, balance / (1 + balance)),
    )


def part_of(context: SignalContext, frames: slice, boxes: Sequence[Boxes3D]) -> SignalContext:
    """``context`` of some of its frames, whose labels are ``boxes``."""
    student, teacher = (frames_of(found, frames) for found in (context.student, context.teacher))
    return SignalContext(student, teacher, context.student_spec, context.teacher_spec, boxes, context.adapters)


def frames_of(output: DetectorOutput, frames: slice) -> DetectorOutput:
    """Some frames of an output."""
    heads = tuple(task._make(None if maps is None else maps[frames] for maps in task) for task in output.heads)
    taps = tuple(BevTap(tap.name, tap.tensor[frames], tap.grid) for tap in output.taps)
    return DetectorOutput(heads, taps)


def term_names(signals: Sequence[Signal], *, unlabelled: bool) -> list[str]:
    """Names of the terms that come from the teacher.

    Raises:
        UsageError: frames without labels would teach nothing.
    """
    names = [signal.name for signal in signals]
    if not unlabelled:
        return names
    free = [signal.name + UNLABELLED for signal in signals if label_free(signal)]
    if not free:
        raise UsageError(
            f"no signal can learn from frames without labels: {', '.join(names) or 'there is none'}"
            f"{' read labels' if names else ''}. Use --pseudo-labels, --recipe auto, ssad or labelfree, "
            "or a mask that reads no label."
        )
    return names + free


def taught_terms(
    signals: Sequence[Signal],
    context: SignalContext,
    parts: Sequence[Part],
    *,
    weights: FrameWeights | None,
    unlabelled: Sequence[int],
) -> list[Term]:
    """The signals' terms, part by part; those that read labels have none of frames without.

    Args:
        signals: the losses.
        context: of the whole batch; its boxes are of the labelled frames.
        parts: see ``parts_of``.
        weights: weigh frames against each other; ``None`` weighs them alike.
        unlabelled: the frames without labels by their index.
    """
    if len(parts) == 1 and weights is None:
        return [signal(context) for signal in signals]
    if weights is None:
        return [term for part in parts for term in _terms(signals, part, [_cut(context, part, part.frames)], [1.0])]
    single = [[_cut(context, part, slice(i, i + 1)) for i in range(*part.frames.indices(1 << 30))] for part in parts]
    found = weights.weigh([[hardness(one, weights.settings.eta) for one in row] for row in single], unlabelled)
    rows = zip(parts, single, found, strict=True)
    return [term for part, frames, weight in rows for term in _terms(signals, part, frames, weight)]


def _cut(context: SignalContext, part: Part, frames: slice) -> SignalContext:
    boxes: Sequence[Boxes3D] = NoLabels() if part.suffix else context.boxes[frames]
    return part_of(context, frames, boxes)


def _terms(
    signals: Sequence[Signal], part: Part, frames: Sequence[SignalContext], weights: Sequence[float]
) -> list[Term]:
    """Sums are weighted by frame, masses are not: a frame of weight 2 counts as if its loss were twice as high."""
    found = []
    for signal in signals:
        if part.suffix and not label_free(signal):
            continue
        each = [signal(frame) for frame in frames]
        total = torch.stack([weight * term.sum for weight, term in zip(weights, each, strict=True)]).sum()
        mass = torch.stack([term.mass for term in each]).sum()
        weight = each[0].weight * part.share
        found.append(replace(each[0], name=each[0].name + part.suffix, sum=total, mass=mass, weight=weight))
    return found


def joined_cells(
    context: SignalContext,
    signals: Sequence[Signal],
    labelled: int,
    more: Callable[[SignalContext], torch.Tensor] | None,
) -> torch.Tensor:
    """``[B, Ht, Wt]`` bool: where a record of the teacher must hold it, for all signals, in both parts of a batch."""
    frames = len(context.teacher_heatmap)
    found = []
    for part in parts_of(frames, labelled, 1.0):
        if part.frames.start == part.frames.stop:
            continue
        one = context if labelled == frames else _cut(context, part, part.frames)
        cells = torch.zeros_like(one.teacher_heatmap[:, 0], dtype=torch.bool)
        for signal in signals:
            if not part.suffix or label_free(signal):
                cells |= signal.cells(one)
        if more is not None:
            cells |= more(one)
        found.append(cells)
    return torch.cat(found)
