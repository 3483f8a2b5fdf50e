"""One optimiser step: forward, the one division, backward, guard, clip, update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kd3d.training.batch import TrainBatch
from kd3d.training.guard import FailureCounter, SkipCounter, check_gradient, check_terms, not_finite
from kd3d.training.objective import Blend, Blended, Moment, Objective, Term, divided, total
from kd3d.training.precision import Precision
from kd3d.training.ranks import sum_over_ranks
from kd3d.training.schedule import SCALE, OneCycle, set_step
from kd3d.training.settings import TrainSettings
from kd3d.training.state import TrainState


@dataclass(frozen=True)
class StepReport:
    """What a step did: the total loss, each term's weighted share, and the optimiser's numbers.

    ``skipped`` names the losses of the teacher's that were not finite, for which the step was not taken.
    """

    loss: float
    terms: dict[str, float]
    lr: float
    momentum: float
    grad_norm: float
    blend: dict[str, float] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


class Stepper:
    """Moves a ``TrainState`` on by one step at a time.

    Args:
        state: changed in place.
        objective: gives the terms.
        settings: of the run.
        precision: resolved for the device.
        schedule: of the run.
    """

    def __init__(
        self,
        state: TrainState,
        objective: Objective,
        *,
        settings: TrainSettings,
        precision: Precision,
        schedule: OneCycle,
    ) -> None:
        self._state, self._objective, self._settings = state, objective, settings
        self._precision, self._schedule, self._skips = precision, schedule, SkipCounter()
        self._failures = FailureCounter()
        parts = {"": state.module, "adapters.": state.adapters}
        self._named = [
            (prefix + name, parameter)
            for prefix, part in parts.items()
            if part is not None
            for name, parameter in part.named_parameters()
            if parameter.requires_grad
        ]
        self._rates = _rates(state.optimiser, self._named)

    def step(self, micro_batches: Sequence[TrainBatch]) -> StepReport:
        """Take one step on ``micro_batches`` (on the module's device).

        Raises:
            NonFiniteError: a loss or a gradient is not finite; weights are then still those before the step.
        """
        state = self._state
        state.module.train()
        tokens = [token for batch in micro_batches for token in batch.tokens]
        masses = self._masses(micro_batches) if len(micro_batches) > 1 else None
        lr, momentum = set_step(state.optimiser, self._schedule, state.step)
        state.optimiser.zero_grad(set_to_none=True)
        blend: Blend | None = getattr(self._objective, "blend", None)
        done = self._added(micro_batches, masses) if blend is None else self._blended(blend, micro_batches, masses)
        failed = {name: done.terms[name] for name in done.failed}
        self._failures.saw(failed, step=state.step, tokens=tokens)
        norm = 0.0
        if failed:
            state.optimiser.zero_grad(set_to_none=True)
        else:
            norm = self._update(tokens)
            state.ema.update(state.step)
        state.step += 1
        return StepReport(sum(done.terms.values()), done.terms, lr, momentum, norm, done.info, done.failed)

    def _added(self, micro_batches: Sequence[TrainBatch], masses: dict[str, Tensor] | None) -> Blended:
        """Gradients of the sum of all terms."""
        state, terms = self._state, dict[str, float]()
        taught: tuple[str, ...] = tuple(getattr(self._objective, "taught", ()))
        for index, batch in enumerate(micro_batches):
            loss, parts = total(self._forward(batch, index), masses)
            values = check_terms(parts, step=state.step, tokens=batch.tokens, spared=taught)
            for name, value in values.items():
                terms[name] = terms.get(name, 0.0) + value
            if not_finite(values):
                return Blended(terms, {}, not_finite(values))
            state.scaler.scale(loss).backward()
        return Blended(terms, {})

    def _blended(self, blend: Blend, micro_batches: Sequence[TrainBatch], masses: dict[str, Tensor] | None) -> Blended:
        """Gradients as ``blend`` joins them; sums, masses and gradients are over all processes."""
        state = self._state
        tokens = tuple(token for batch in micro_batches for token in batch.tokens)
        moment = Moment(state.step, tokens, state.scaler, self._rates, self._schedule.steps)

        @contextmanager
        def probe() -> Iterator[dict[str, Tensor]]:
            with _buffers_kept(state.module, state.adapters):
                yield divided(self._forward(micro_batches[0], 0))

        blend.begin(state.module, self._named, micro_batches=len(micro_batches), probe=probe)
        if masses is not None:
            masses = _masses_of_ranks(masses)
        for index, batch in enumerate(micro_batches):
            with blend.around(state.module):
                terms = self._forward(batch, index)
            if masses is None:
                masses = _masses_of_ranks({term.name: term.mass for term in terms})
            blend.take(divided(terms, masses), self._named, moment)
        return blend.write(self._named, moment)

    def _forward(self, batch: TrainBatch, micro: int) -> list[Term]:
        # Seeded per forward pass, so that what is drawn depends on the step alone and a resumed run draws the same.
        position = self._state.step * self._settings.accumulate + micro
        torch.manual_seed((self._settings.seed * 1_000_003 + position) % 2**63)
        with self._precision.autocast():
            return self._objective(self._state.module, batch)

    def _masses(self, micro_batches: Sequence[TrainBatch]) -> dict[str, Tensor]:
        """Masses over all micro-batches, before any gradient is taken: memory stays that of one of them."""
        masses: dict[str, Tensor] = {}
        with torch.no_grad(), _buffers_kept(self._state.module, self._state.adapters):
            for index, batch in enumerate(micro_batches):
                for term in self._forward(batch, index):
                    masses[term.name] = term.mass + masses[term.name] if term.name in masses else term.mass
        return masses

    def _update(self, tokens: Sequence[str]) -> float:
        state, scaler = self._state, self._state.scaler
        scaler.unscale_(state.optimiser)
        gradients = [parameter.grad for _, parameter in self._named if parameter.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
        if not scaler.is_enabled():
            check_gradient(norm, self._named, step=state.step, tokens=tokens)  # before clipping makes all of them NaN
        if norm > self._settings.clip_norm:
            torch._foreach_mul_(gradients, self._settings.clip_norm / norm)
        before = scaler.get_scale()
        scaler.step(state.optimiser)
        scaler.update()
        self._skips.saw(skipped=scaler.get_scale() < before, step=state.step, tokens=tokens)
        return norm


def _rates(optimiser: torch.optim.Optimizer, named: Sequence[tuple[str, nn.Parameter]]) -> tuple[float, ...]:
    """Each parameter's share of the run's learning rate; empty where all have the same."""
    found = {id(one): group.get(SCALE, 1.0) for group in optimiser.param_groups for one in group["params"]}
    rates = tuple(float(found.get(id(parameter), 1.0)) for _, parameter in named)
    return () if all(rate == 1 for rate in rates) else rates


def _masses_of_ranks(masses: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(masses, sum_over_ranks(list(masses.values())), strict=True))


@contextmanager
def _buffers_kept(*modules: nn.Module | None) -> Iterator[None]:
    """A forward pass inside leaves no trace in normalisation statistics."""
    buffers = [buffer for module in modules if module is not None for buffer in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
