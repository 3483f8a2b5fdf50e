"""What a signal reads of the teacher's output: decides what a cache of the teacher must hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from kd3d.compress.distill.context import SignalContext, check_frame
from kd3d.errors import UsageError
from kd3d.spec import AnchorHeadSpec, DetectorSpec

Extent = Literal["nowhere", "cells", "everywhere"]
_ORDER: tuple[Extent, ...] = ("nowhere", "cells", "everywhere")


@dataclass(frozen=True)
class Reads:
    """Parts of the teacher's output.

    A signal that reads ``cells`` says which in its method ``cells``: its loss must stay the same when the teacher's
    heatmaps are at their floor, and its box codes 0, in all others.

    Args:
        heatmap: where class probabilities are read.
        codes: where box codes are read.
        maps: names of the feature maps that are read.
    """

    heatmap: Extent = "nowhere"
    codes: Extent = "nowhere"
    maps: tuple[str, ...] = ()

    def joined(self, other: Reads) -> Reads:
        """What two signals read together."""
        return Reads(
            max(self.heatmap, other.heatmap, key=_ORDER.index),
            max(self.codes, other.codes, key=_ORDER.index),
            tuple(dict.fromkeys((*self.maps, *other.maps))),
        )

    @property
    def cells(self) -> bool:
        """Whether something is read at single cells only."""
        return "cells" in (self.heatmap, self.codes)


def joined(parts: Iterable[Reads]) -> Reads:
    """What several signals read together."""
    found = Reads()
    for part in parts:
        found = found.joined(part)
    return found


class WholeMaps:
    """Base of the signals that read nothing at single cells only."""

    def cells(self, context: SignalContext) -> Tensor:
        """See ``Signal``: none."""
        return torch.zeros_like(context.teacher_heatmap[:, 0], dtype=torch.bool)


def check_centre_heads(signal: object, *specs: DetectorSpec) -> None:
    """Refuse models with anchor heads.

    Raises:
        UsageError: one of them has.
    """
    for spec in specs:
        if isinstance(spec.head, AnchorHeadSpec):
            raise UsageError(
                f"{getattr(signal, 'name', signal)} compares maps of centre heads, but {spec.name} has an anchor head. "
                "Leave it out (logits: --logit-weight 0). Between two anchor heads there are anchor-logits, "
                "anchor-boxes and anchor-directions; between an anchor head and a centre head label distillation and "
                "feature signals work."
            )


class HeadSignal(WholeMaps):
    """Base of the signals that compare maps of centre heads: models of one frame, and no adapter."""

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        """See ``Signal``."""
        check_centre_heads(self, student, teacher)
        check_frame(student, teacher)

    def adapter(self, student: DetectorSpec, teacher: DetectorSpec) -> nn.Module | None:
        """See ``Signal``."""
        return None


def marked(cell: Tensor, context: SignalContext) -> Tensor:
    """``[B, Ht, Wt]`` bool, true at flat cells ``(frame * Ht + row) * Wt + column`` of the teacher's output grid."""
    frames, _, rows, columns = context.teacher.heads[0][0].shape
    mask = torch.zeros(frames * rows * columns, dtype=torch.bool, device=cell.device)
    mask[cell] = True
    return mask.view(frames, rows, columns)


def label_free(signal: object) -> bool:
    """Whether a signal never looks at a label: it says so itself, or its mask does."""
    own: bool | None = getattr(signal, "label_free", None)
    return bool(getattr(getattr(signal, "mask", None), "label_free", False) if own is None else own)
