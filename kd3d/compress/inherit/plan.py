"""What each student tensor takes from the teacher, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

Indices = tuple[int, ...]
FRESH_INDEX = -1
"""An index that takes nothing: the student keeps its own initial value there."""


@dataclass(frozen=True)
class Pick:
    """Take slices of one teacher tensor.

    Args:
        source: name of the teacher tensor.
        indices: per leading axis the teacher's positions, in the student's order; ``None`` takes the axis whole, and so
            do axes past the last. Position ``FRESH_INDEX`` keeps the student's own value.
        note: why part of it is kept fresh, if so.
    """

    source: str
    indices: tuple[Indices | None, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Resize:
    """Like ``Pick``, then stretch the last two axes (a kernel) to ``size``.

    A transposed convolution whose kernel equals its stride paints one patch per input cell; stretching the patch
    (nearest neighbour) paints the same values at another resolution.
    """

    source: str
    indices: tuple[Indices | None, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class Fresh:
    """Keep the student's own initial value; ``reason`` says why nothing of the teacher fits."""

    reason: str


Entry = Pick | Resize | Fresh


@dataclass(frozen=True)
class InheritPlan:
    """One entry for every tensor of the student; nothing is left out silently."""

    entries: Mapping[str, Entry]
    rule: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", MappingProxyType(dict(self.entries)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    @property
    def fresh(self) -> dict[str, str]:
        """Tensors that take nothing from the teacher, with the reason."""
        return {name: entry.reason for name, entry in self.entries.items() if isinstance(entry, Fresh)}

    def to_json(self) -> dict[str, object]:
        """Counts and the reasons of what stays fresh; short enough for a run folder."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.fresh.items():
            reasons.setdefault(reason, []).append(name)
        notes = {name: entry.note for name, entry in self.entries.items() if isinstance(entry, Pick) and entry.note}
        return {
            "rule": self.rule,
            "tensors": len(self.entries),
            "inherited": len(self.entries) - len(self.fresh),
            "fresh": reasons,
            "partly_fresh": notes,
        }
