"""Stops a run at the first value that is not finite, and says where it came from."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from kd3d.errors import NonFiniteError

ADVICE = "Look at these frames (`kd3d data check`), or lower the learning rate; the last checkpoint is intact."
MAX_SKIPPED = 20  # fp16 steps skipped in a row before the loss scale is given up
MAX_FAILED = 50  # steps in a row in which a loss of the teacher's may fail


def check_terms(
    parts: Mapping[str, Tensor], *, step: int, tokens: Sequence[str], spared: Collection[str] = ()
) -> dict[str, float]:
    """Values of the loss terms as numbers; one copy from the device.

    Args:
        parts: of the loss.
        step: of the run.
        tokens: of the frames.
        spared: terms that need not be finite.

    Raises:
        NonFiniteError: names the step, the frames and the terms.
    """
    values = dict(zip(parts, torch.stack([part.float() for part in parts.values()]).tolist(), strict=True))
    bad = [f"{name}={values[name]}" for name in not_finite(values) if name not in spared]
    if bad:
        raise NonFiniteError(f"step {step}: loss {', '.join(bad)} on frames {', '.join(tokens)}. {ADVICE}")
    return values


def not_finite(values: Mapping[str, float]) -> tuple[str, ...]:
    """Names of the values that are NaN or infinite."""
    return tuple(name for name, value in values.items() if not abs(value) < float("inf"))


def check_gradient(
    norm: float, parameters: Iterable[tuple[str, nn.Parameter]], *, step: int, tokens: Sequence[str]
) -> None:
    """Refuse a gradient that is not finite.

    Raises:
        NonFiniteError: names the step, the frames and the first parameters concerned.
    """
    if abs(norm) < float("inf"):
        return
    named = [(name, parameter.grad) for name, parameter in parameters]
    bad = [name for name, gradient in named if gradient is not None and not torch.isfinite(gradient).all()]
    where = f"{', '.join(bad[:3])}{' and others' if len(bad) > 3 else ''}" if bad else "its norm overflows"
    raise NonFiniteError(f"step {step}: gradient not finite in {where}, on frames {', '.join(tokens)}. {ADVICE}")


class SkipCounter:
    """Counts fp16 steps that the gradient scaler skipped one after another; a few are how it finds its scale."""

    def __init__(self) -> None:
        self.count = 0

    def saw(self, *, skipped: bool, step: int, tokens: Sequence[str]) -> None:
        """Note one step.

        Raises:
            NonFiniteError: too many in a row.
        """
        self.count = self.count + 1 if skipped else 0
        if self.count > MAX_SKIPPED:
            raise NonFiniteError(
                f"step {step}: {self.count} fp16 steps in a row overflowed, last on frames {', '.join(tokens)}. "
                f"Use precision bf16 or fp32. {ADVICE}"
            )


class FailureCounter:
    """Counts steps skipped one after another because a loss of the teacher's was not finite."""

    def __init__(self) -> None:
        self.count = 0

    def saw(self, failed: Mapping[str, float], *, step: int, tokens: Sequence[str]) -> None:
        """Note one step and the losses that failed in it; none end the row.

        Raises:
            NonFiniteError: too many in a row.
        """
        self.count = self.count + 1 if failed else 0
        if not failed:
            return
        what = f"step {step}: loss {', '.join(f'{name}={value}' for name, value in failed.items())}"
        frames = f"on frames {', '.join(tokens)}"
        if self.count >= MAX_FAILED:
            raise NonFiniteError(
                f"{what} {frames}, the {self.count}th step in a row that had to be skipped for it. "
                f"Leave this signal out. {ADVICE}"
            )
        if self.count == 1:
            warnings.warn(
                f"{what} {frames}; the step was skipped. The run stops after {MAX_FAILED} such steps in a row.",
                stacklevel=3,
            )
