"""Where logits are compared: pivotal positions of the teacher's grid (SparseKD, arXiv 2205.15156)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from kd3d.errors import UsageError

if TYPE_CHECKING:
    from kd3d.compress.distill.context import SignalContext


class Mask(Protocol):
    """Weights of the teacher's cells, without gradient."""

    def __call__(self, teacher: Tensor, gaussian: Tensor) -> Tensor:
        """``[B, C, H, W]`` teacher probabilities and ground-truth Gaussians ``-> [B, H, W]``, 0 or more."""
        ...


def mask_of(mask: Mask, context: SignalContext) -> Tensor:
    """The mask on the teacher's grid ``[B, H, W]``, without gradient. Labels are not touched if the mask has no use
    for them (``label_free``).
    """
    teacher = context.teacher_heatmap
    gaussian = torch.zeros_like(teacher) if getattr(mask, "label_free", False) else context.gaussian
    return mask(teacher, gaussian).detach()


@dataclass(frozen=True)
class Everywhere:
    """All positions alike: plain logit distillation."""

    label_free: ClassVar[bool] = True

    def __call__(self, teacher: Tensor, gaussian: Tensor) -> Tensor:
        """See ``Mask``."""
        del gaussian
        return torch.ones_like(teacher[:, 0])


@dataclass(frozen=True)
class Confident:
    """1 where the teacher's best class is strictly above ``threshold``."""

    threshold: float = 0.1
    label_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise UsageError(f"the confidence threshold must be in 0..1, not {self.threshold:g}.")

    def __call__(self, teacher: Tensor, gaussian: Tensor) -> Tensor:
        """See ``Mask``."""
        del gaussian
        return (teacher.amax(1) > self.threshold).to(teacher.dtype)


@dataclass(frozen=True)
class TopRank:
    """1 at the cells of each frame's ``count`` highest teacher probabilities over class, row and column."""

    count: int = 500
    label_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"the number of top-ranked positions must be at least 1, not {self.count}.")

    def __call__(self, teacher: Tensor, gaussian: Tensor) -> Tensor:
        """See ``Mask``."""
        del gaussian
        frames, classes, rows, columns = teacher.shape
        best = teacher.flatten(1).topk(min(self.count, classes * rows * columns)).indices % (rows * columns)
        mask = torch.zeros_like(teacher[:, 0]).flatten(1).scatter(1, best, 1.0)
        return mask.view(frames, rows, columns)


@dataclass(frozen=True)
class Foreground:
    """1 wherever a ground-truth Gaussian is above 0."""

    def __call__(self, teacher: Tensor, gaussian: Tensor) -> Tensor:
        """See ``Mask``."""
        return (gaussian.sum(1) > 0).to(teacher.dtype)


@dataclass(frozen=True)
class GaussianPivotal:
    """The teacher's best probability times the highest Gaussian: the released variant of SparseKD."""

    def __call__(self, teacher: Tensor, gaussian: Tensor) -> Tensor:
        """See ``Mask``."""
        return teacher.amax(1) * gaussian.amax(1)


@dataclass(frozen=True)
class Richness:
    """The teacher's best probability: FRS (Zhixing Du et al., NeurIPS 2021)."""

    label_free: ClassVar[bool] = True

    def __call__(self, teacher: Tensor, gaussian: Tensor) -> Tensor:
        """See ``Mask``."""
        del gaussian
        return teacher.amax(1)


@dataclass(frozen=True)
class Product:
    """All of several masks at once."""

    masks: tuple[Mask, ...]

    def __call__(self, teacher: Tensor, gaussian: Tensor) -> Tensor:
        """See ``Mask``."""
        product = torch.ones_like(teacher[:, 0])
        for mask in self.masks:
            product = product * mask(teacher, gaussian)
        return product
