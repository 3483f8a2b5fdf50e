"""Rules that look at more than the filters: the scale of the norm behind them, gradients, or a die."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from kd3d.compress.inherit.plan import Indices
from kd3d.datasets.base import SampleDataset
from kd3d.detectors.model import CenterPoint
from kd3d.errors import DataError, NonFiniteError
from kd3d.training.batch import make_batch
from kd3d.training.objective import DetectionObjective, total


@dataclass(frozen=True)
class Writer:
    """A teacher layer that writes a group of channels.

    Args:
        norm: name of its norm, such as ``backbone.levels.0.0.norm``; ``None`` without one.
        scale: ``[O]`` the norm's factors (gamma), or ``None``.
    """

    norm: str | None
    scale: Tensor | None


@runtime_checkable
class WriterRule(Protocol):
    """Chooses channels by the layers that write them. ``__name__`` is its name in records."""

    __name__: str

    def kept(self, writers: Sequence[Writer], outputs: int, keep: int) -> Indices:
        """The ``keep`` channels of ``outputs``, ascending."""
        ...


def best(scores: Sequence[float], keep: int) -> Indices:
    """The ``keep`` highest scores, ascending by place; the lower place of equals."""
    order = sorted(range(len(scores)), key=lambda channel: (-scores[channel], channel))
    return tuple(sorted(order[:keep]))


class NormScale:
    """The channels of largest ``|gamma|`` (Network Slimming, arXiv 1708.06519; ``BN_SCALE`` of SparseKD's code)."""

    __name__ = "bn"

    def kept(self, writers: Sequence[Writer], outputs: int, keep: int) -> Indices:
        """See ``WriterRule``."""
        scores = torch.zeros(outputs, dtype=torch.float64)
        for writer in writers:
            if writer.scale is not None:
                scores += writer.scale.detach().abs().double().cpu()
        return best(scores.tolist(), keep)


@dataclass(frozen=True)
class Dice:
    """Channels at random: what any rule must beat.

    Args:
        seed: of the choice; layers are independent of each other.
    """

    seed: int = 0
    __name__ = "random"

    def kept(self, writers: Sequence[Writer], outputs: int, keep: int) -> Indices:
        """See ``WriterRule``."""
        name = zlib.crc32("".join(writer.norm or "" for writer in writers).encode())
        chosen = np.random.default_rng([self.seed, name]).permutation(outputs)[:keep]
        return tuple(sorted(int(index) for index in chosen))


@dataclass(frozen=True)
class Taylor:
    """First-order Taylor expansion at the norms (Molchanov et al., arXiv 1906.10771).

    ``I_c = mean over batches of (gamma_c dL/dgamma_c + beta_c dL/dbeta_c)^2``: what the task loss would change by,
    squared, if channel ``c`` were 0 behind its norm.

    Args:
        importance: ``I`` by the name of the norm.
    """

    importance: Mapping[str, Tensor]
    __name__ = "taylor"

    def kept(self, writers: Sequence[Writer], outputs: int, keep: int) -> Indices:
        """See ``WriterRule``."""
        scores = torch.zeros(outputs, dtype=torch.float64)
        for writer in writers:
            if writer.norm is not None:
                scores += self.importance[writer.norm].double().cpu()
        return best(scores.tolist(), keep)


def taylor(teacher: CenterPoint, dataset: SampleDataset, *, frames: int = 32, batch: int = 4) -> Taylor:
    """Measure the importance of a teacher's channels on training frames spread evenly over ``dataset``.

    Args:
        teacher: in evaluation mode meanwhile; left as it was, without gradients.
        dataset: with labels.
        frames: at most.
        batch: frames per gradient.

    Raises:
        DataError: there is no frame.
        NonFiniteError: the teacher's loss has no finite gradients on these frames.
    """
    if not len(dataset):
        raise DataError("the taylor rule needs training frames, and there are none. Use l1, bn or first.")
    chosen = sorted({index * len(dataset) // frames for index in range(frames)})
    kind = torch.nn.modules.batchnorm._BatchNorm
    norms = {name: part for name, part in teacher.named_modules() if isinstance(part, kind)}
    parameters = [parameter for norm in norms.values() for parameter in (norm.weight, norm.bias)]
    found = {name: torch.zeros(norm.num_features, dtype=torch.float64) for name, norm in norms.items()}
    before = [(parameter, parameter.requires_grad) for parameter in teacher.parameters()]
    training, device = teacher.training, next(teacher.parameters()).device
    teacher.eval().requires_grad_(True)
    try:
        for start in range(0, len(chosen), batch):
            samples = [dataset[index] for index in chosen[start : start + batch]]
            terms = DetectionObjective(teacher.spec)(teacher, make_batch(samples, teacher.spec).to(device))
            gradients = iter(torch.autograd.grad(total(terms)[0], parameters, allow_unused=True))
            for name, norm in norms.items():
                parts = [(norm.weight, next(gradients)), (norm.bias, next(gradients))]
                change = sum(
                    (p.detach() * g for p, g in parts if g is not None), torch.zeros(norm.num_features, device=device)
                )
                found[name] += change.double().cpu().square()
    finally:
        teacher.train(training)
        for parameter, needed in before:
            parameter.requires_grad_(needed)
    if wrong := [name for name, scores in found.items() if not bool(scores.isfinite().all())]:
        raise NonFiniteError(
            f"the teacher's gradients are not finite at {wrong[0]}, so its channels have no taylor importance. "
            "Check its weights (kd3d eval), or use the rule l1."
        )
    return Taylor(found)
