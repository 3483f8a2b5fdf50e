"""Which channels of a teacher layer a narrower student keeps. A rule is any callable of this shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from kd3d.compress.inherit.plan import Indices
from kd3d.compress.inherit.scored import Dice, NormScale, WriterRule, best
from kd3d.errors import UsageError

ChannelRule = Callable[[Sequence[Tensor], int], Indices]
"""``(filters, keep) -> indices``: ``filters`` are the weights ``[O, ...]`` of the layers that write one group of ``O``
channels (several when layers share a choice); the result is ascending."""


def first(filters: Sequence[Tensor], keep: int) -> Indices:
    """The first ``keep`` channels: FNAV2, the rule of the released SparseKD recipes."""
    del filters
    return tuple(range(keep))


def l1(filters: Sequence[Tensor], keep: int) -> Indices:
    """The ``keep`` channels of largest filter L1 norm (Li et al., arXiv 1608.08710); ties to the lower index."""
    total: list[float] = [0.0] * len(filters[0])
    for weight in filters:
        for channel, norm in enumerate(weight.detach().abs().flatten(1).double().sum(1).tolist()):
            total[channel] += norm
    return best(total, keep)


RULES: Mapping[str, ChannelRule | WriterRule] = {"first": first, "l1": l1, "bn": NormScale(), "random": Dice()}
COPY, TAYLOR, AUTO = "copy", "taylor", "auto"
NAMES = (*RULES, TAYLOR, COPY)


def find_rule(name: str) -> ChannelRule | WriterRule:
    """The rule called ``name``.

    Raises:
        UsageError: there is none, or it needs frames; lists those there are.
    """
    if name == TAYLOR:
        raise UsageError(
            "the taylor rule needs training frames: give what kd3d.compress.inherit.scored.taylor returns."
        )
    if name not in RULES:
        raise UsageError(f"there is no inheritance rule {name!r}. Use one of {', '.join(NAMES)}.")
    return RULES[name]
