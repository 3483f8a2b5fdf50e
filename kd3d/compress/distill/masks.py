"""Where logits are compared: pivotal positions of the teacher's grid (SparseKD, arXiv 2205.15156)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from kd3d.errors import UsageError

if TYPE_CHECKING:
    from kd3d.compress.distill.context import SignalContext
    from kd3d.compress.distill.reads import Extent


FLOOR = 1e-4  # probabilities are compared inside 1e-4 .. 1 - 1e-4, as in the released SparseKD


class Mask(Protocol):
    """Weights of the teacher's cells, without gradient.

    A mask that is 0 in most cells, and does not change when the teacher's probabilities there are at their floor, says
    so by ``sparse``; a cache then holds the others alone. One that never looks at the Gaussians says ``label_free``.
    """

    def __call__(self, teacher: Tensor, gaussian: Tensor) -> Tensor:
        """``[B, C, H, W]`` teacher probabilities and ground-truth Gaussians ``-> [B, H, W]``, 0 or more."""
        ...


def mask_of(mask: Mask, context: SignalContext) -> Tensor:
    """The mask on the teacher's grid ``[B, H, W]``, without gradient. Labels are not touched if the mask has no use
    for them (``label_free``).
    """
    return mask(*mask_inputs(mask, context)).detach()


def mask_inputs(mask: Mask, context: SignalContext) -> tuple[Tensor, Tensor]:
    """The teacher's probabilities and the Gaussians, which stay 0 for a mask that has no use for labels."""
    teacher = context.teacher_heatmap
    return teacher, torch.zeros_like(teacher) if getattr(mask, "label_free", False) else context.gaussian


def mask_extent(mask: Mask) -> Extent:
    """Where the teacher must be known for a signal under ``mask``."""
    return "cells" if getattr(mask, "sparse", False) else "everywhere"


def mask_cells(mask: Mask, teacher: Tensor, gaussian: Tensor) -> Tensor:
    """``[B, H, W]`` bool: the cells of a sparse mask, and of all sparse masks of a product."""
    if isinstance(mask, Product):
        parts = [mask_cells(part, teacher, gaussian) for part in mask.masks if getattr(part, "sparse", False)]
        return torch.stack(parts).any(0)
    return mask(teacher, gaussian) > 0


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

    @property
    def sparse(self) -> bool:
        """See ``Mask``: not where the floor of the probabilities itself is above the threshold."""
        return self.threshold >= FLOOR

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
    sparse: ClassVar[bool] = True

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

    sparse: ClassVar[bool] = True

    def __call__(self, teacher: Tensor, gaussian: Tensor) -> Tensor:
        """See ``Mask``."""
        return (gaussian.sum(1) > 0).to(teacher.dtype)


@dataclass(frozen=True)
class GaussianPivotal:
    """The teacher's best probability times the highest Gaussian: the released variant of SparseKD."""

    sparse: ClassVar[bool] = True

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

    @property
    def sparse(self) -> bool:
        """See ``Mask``."""
        return any(getattr(mask, "sparse", False) for mask in self.masks)

    def __call__(self, teacher: Tensor, gaussian: Tensor) -> Tensor:
        """See ``Mask``."""
        product = torch.ones_like(teacher[:, 0])
        for mask in self.masks:
            product = product * mask(teacher, gaussian)
        return product
