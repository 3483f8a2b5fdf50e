"""Budgets as the user writes them: ``25%``, ``85G``, ``2M``, ``1.5e9``, ``20ms``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kd3d.compress.search.cost import Cost
from kd3d.errors import UsageError

Convention = Literal["physical", "thop"]
_SCALES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_TIMES_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_TIME = re.compile(r"\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*(us|ms|s)\s*", re.IGNORECASE)
_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*([kmgt%]?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """An upper limit, absolute or as a share of the teacher's value.

    Args:
        value: the limit, or the share (0.25 for 25 %).
        relative: whether ``value`` is a share.
        text: as it was written.
    """

    value: float
    relative: bool
    text: str

    def limit(self, teacher: float) -> float:
        """The absolute limit, for a teacher that costs ``teacher``."""
        return self.value * teacher if self.relative else self.value


def parse_budget(text: str) -> Budget:
    """Read a budget: a percentage of the teacher, or a number with an optional K, M, G or T.

    Raises:
        UsageError: it is neither, not positive, or above 100 %.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise UsageError(f"the budget {text!r} is not understood. Write a share (25%) or a number (85G, 2M, 1.5e9).")
    number, unit = float(match[1]), match[2].upper()
    if not (number > 0 and math.isfinite(number)):
        raise UsageError(f"the budget {text!r} must be above 0.")
    if unit == "%":
        if number > 100:
            raise UsageError(f"the budget {text!r} is more than the teacher. Give at most 100%.")
        return Budget(number / 100, True, text.strip())
    return Budget(number * _SCALES[unit], False, text.strip())


def parse_latency(text: str) -> Budget:
    """Read a latency budget: ``20ms``, ``0.02s``, or a percentage of the teacher's predicted latency.

    Raises:
        UsageError: it is neither, has no unit, is not positive, or is above 100 %.
    """
    if text.strip().endswith("%"):
        return parse_budget(text)
    match = _TIME.fullmatch(text)
    if match is None:
        raise UsageError(f"the latency budget {text!r} is not understood. Write a time (20ms, 0.02s) or a share (50%).")
    value = float(match[1]) * _TIMES_MS[match[2].lower()]
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"the latency budget {text!r} must be above 0.")
    return Budget(value, False, text.strip())


@dataclass(frozen=True)
class Budgets:
    """All limits that must hold together.

    Args:
        flops: on multiply-accumulates, or ``None``.
        params: on parameters, or ``None``.
        convention: which count ``flops`` binds: ``physical`` (``Cost.macs``) or ``thop`` (``Cost.macs_thop``).
        latency_ms: on the predicted latency of the network in milliseconds, or ``None``.
    """

    flops: Budget | None = None
    params: Budget | None = None
    convention: Convention = "physical"
    latency_ms: Budget | None = None

    def __post_init__(self) -> None:
        if self.flops is None and self.params is None and self.latency_ms is None:
            raise UsageError("no budget is given. Give --budget-flops, --budget-params, --budget-latency or several.")
        if self.convention not in ("physical", "thop"):
            raise UsageError(f"the FLOPs convention must be physical or thop, not {self.convention!r}.")

    @classmethod
    def parse(
        cls,
        *,
        flops: str | None = None,
        params: str | None = None,
        convention: Convention = "physical",
        latency: str | None = None,
    ) -> Budgets:
        """From the texts of ``--budget-flops``, ``--budget-params`` and ``--budget-latency``."""
        read = [None if text is None else parse_budget(text) for text in (flops, params)]
        return cls(read[0], read[1], convention, None if latency is None else parse_latency(latency))

    def flops_of(self, cost: Cost) -> int:
        """The count that ``flops`` binds."""
        return cost.macs if self.convention == "physical" else cost.macs_thop

    def limits(self, teacher: Cost, latency_ms: float | None = None) -> Limits:
        """Absolute limits for ``teacher``.

        Args:
            teacher: its cost.
            latency_ms: its predicted latency; needed where latency is limited.

        Raises:
            UsageError: latency is limited, and there is nothing to predict it with.
        """
        flops = None if self.flops is None else self.flops.limit(self.flops_of(teacher))
        params = None if self.params is None else self.params.limit(teacher.params)
        if self.latency_ms is None:
            return Limits(self, flops, params)
        if latency_ms is None:
            raise UsageError(
                f"a latency budget ({self.latency_ms.text}) needs measured blocks. Give --latency-table; make one with "
                "kd3d search --write-blocks and kd3d bench --make-table."
            )
        return Limits(self, flops, params, self.latency_ms.limit(latency_ms))


@dataclass(frozen=True)
class Limits:
    """Absolute limits; ``None`` where there is none."""

    budgets: Budgets
    flops: float | None
    params: float | None
    latency_ms: float | None = None

    def uses(self, cost: Cost, latency_ms: float | None = None) -> Iterator[float]:
        """The share of each limit that a student uses; above 1 it does not fit.

        Args:
            cost: of the student.
            latency_ms: predicted for it; needed where latency is limited.
        """
        if self.flops is not None:
            yield self.budgets.flops_of(cost) / self.flops
        if self.params is not None:
            yield cost.params / self.params
        if self.latency_ms is not None:
            if latency_ms is None:
                raise UsageError("latency is limited, but no latency was predicted for the student.")
            yield latency_ms / self.latency_ms

    def fits(self, cost: Cost, latency_ms: float | None = None) -> bool:
        """Whether a student is within every limit; arguments as in ``uses``."""
        return all(use <= 1 for use in self.uses(cost, latency_ms))

    def to_json(self) -> dict[str, object]:
        """Limits, as written and as numbers, with the convention."""
        flops, params, latency = self.budgets.flops, self.budgets.params, self.budgets.latency_ms
        return {
            "flops": None if flops is None else {"text": flops.text, "limit": self.flops},
            "params": None if params is None else {"text": params.text, "limit": self.params},
            "latency_ms": None if latency is None else {"text": latency.text, "limit": self.latency_ms},
            "convention": self.budgets.convention,
        }
