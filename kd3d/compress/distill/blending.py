"""Automatic gradient blending: the step keeps the length of the task's gradient and turns towards the teacher's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from kd3d.compress.distill.blend_state import BlendState, Failures
from kd3d.compress.distill.coefs import BlendSettings
from kd3d.compress.distill.combining import (
    TASK,
    WHOLE,
    Plan,
    combined,
    groups_of,
    planned,
    shared_slots,
)
from kd3d.compress.distill.cutting import PLACES, Cut
from kd3d.compress.distill.gradients import Gradients, added, gradients_of, gram, summed_over_ranks
from kd3d.compress.distill.shares import Shares, Table, weigh
from kd3d.errors import UsageError
from kd3d.training.guard import check_terms
from kd3d.training.objective import Blended, Moment, Named, Probe
from kd3d.training.ranks import sum_over_ranks

JOINT = "taught"
KAPPA = 1.5  # between refreshes a step may be longer than the task's gradient usually is, but no more than this
ADAPTERS = "adapters."
SEVERAL = "a step has several micro-batches, and all their graphs would have to be kept"


class GradientBlend:
    """A ``kd3d.training.objective.Blend``; ``coefs`` has the equations.

    Parameters that learn from both the labels and the teacher get the blend, parameters of the task alone its gradient
    unchanged, and adapters the teacher's gradient at the task's length. Weight decay acts afterwards, outside of it.

    Args:
        settings: how.
        taught: names of the terms that come from the teacher; all others are the task.
    """

    def __init__(self, settings: BlendSettings, taught: Sequence[str]) -> None:
        if not taught:
            raise UsageError(
                "gradient blending needs at least one distillation signal; add one, or leave blending out."
            )
        self.settings = settings
        self.taught = tuple(taught)
        self.state = BlendState(len(self._kinds), smooth=settings.smooth > 0)
        self._failures = Failures(self.state, self._kinds)
        self._cut: Cut | None = None
        self._trunk: set[int] | None = None
        self._module: nn.Module | None = None
        self._found: Gradients | None = None
        self._values: dict[str, Tensor] = {}
        self._numbers: dict[str, float] = {}

    def identity(self) -> dict[str, Any]:
        """Settings that a resumed run must repeat."""
        return self.settings.identity()

    @property
    def _kinds(self) -> tuple[str, ...]:
        return self.taught if self.settings.terms == "separate" else (JOINT,)

    @property
    def cuts(self) -> bool:
        """Whether gradients are compared at a cut; known after the first step."""
        return self._trunk is not None

    @property
    def place(self) -> str | None:
        """Where they are compared: ``heads``, ``neck`` or ``levels``; ``None`` at the weights."""
        return None if self._cut is None or self._trunk is None else self._cut.place

    def begin(self, module: nn.Module, named: Named, *, micro_batches: int, probe: Probe) -> None:
        """See ``Blend``.

        Raises:
            UsageError: the mode ``cut`` was asked for and is not possible; says why.
        """
        self._found, self._values = None, {}
        if self._module is module:
            return
        self._cut, self._trunk = None, None  # an objective may serve several trainings
        if self.settings.mode in ("auto", "cut") and not self.settings.at_weights:
            objections = [] if micro_batches == 1 else [SEVERAL]
            for place in PLACES if micro_batches == 1 else ():
                self._cut = Cut(module, place)
                found = self._cut.trunk([parameter for _, parameter in named], probe)
                if isinstance(found, set):
                    self._trunk = found
                    break
                objections.append(found)
            if self._trunk is None and self.settings.mode == "cut":
                said = "; ".join(objections)
                raise UsageError(f"gradients cannot be compared at a cut: {said}. Use the blend mode params.")
        self._module = module

    def around(self, module: nn.Module) -> AbstractContextManager[None]:
        """See ``Blend``."""
        return nullcontext() if self._trunk is None or self._cut is None else self._cut.active()

    def take(self, parts: Mapping[str, Tensor], named: Named, moment: Moment) -> None:
        """See ``Blend``."""
        for name, part in parts.items():
            self._values[name] = part.detach() + self._values.get(name, 0.0)
        losses = self._losses(parts)
        if not self._refreshes(moment):
            known = dict(zip(self._kinds, self.state.weights.tolist(), strict=True))
            losses = {TASK: sum((known.get(name, 1.0) * loss for name, loss in losses.items()), torch.zeros(()))}
        elif moment.scaler.is_enabled():
            scales = dict(zip(self._kinds, self.state.balance.tolist(), strict=True))
            losses = {name: loss * scales.get(name, 1.0) for name, loss in losses.items()}
        found = gradients_of(losses, self._slots(named), moment.scaler.scale)
        self._found = found if self._found is None else added(self._found, found)

    def write(self, named: Named, moment: Moment) -> Blended:
        """See ``Blend``.

        Raises:
            NonFiniteError: the task's loss is not finite, or a signal has not been for too many steps.
            UsageError: no parameter learns from both the task and the teacher.
        """
        assert self._found is not None
        values = dict(zip(self._values, sum_over_ranks(list(self._values.values())), strict=True))
        numbers = check_terms(values, step=moment.step, tokens=moment.tokens, spared=self.taught)
        self._numbers = numbers
        if self._refreshes(moment):
            info = self._exact(named, moment) if self._trunk is None else self._at_the_cut(named, moment)
        else:  # one gradient of all losses together: what is wrong in it cannot be taken out
            failed = tuple(name for name in self.taught if not math.isfinite(numbers.get(name, 0.0)))
            info = {} if failed else self._between(named, moment)
            self._found = None
            return Blended(numbers, info, failed)
        self._found = None
        return Blended(numbers, info)

    def _losses(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        groups: dict[str, list[Tensor]] = {}
        for name, part in parts.items():
            group = TASK if name not in self.taught else name if self.settings.terms == "separate" else JOINT
            groups.setdefault(group, []).append(part)
        order = [name for name in (TASK, *self._kinds) if name in groups]
        return {name: torch.stack(groups[name]).sum() for name in order}

    def _refreshes(self, moment: Moment) -> bool:
        """Whether this step compares gradients; the others of the mode ``interval`` reuse the last weights."""
        if self.settings.mode != "interval" or not bool(self.state.known):
            return True
        return moment.step % self.settings.interval == 0

    def _slots(self, named: Named) -> list[Tensor]:
        slots: list[Tensor] = [parameter for _, parameter in named]
        if self._trunk is None:
            return slots
        assert self._cut is not None
        return [*self._cut.leaves, *(slot for index, slot in enumerate(slots) if index not in self._trunk)]

    def _exact(self, named: Named, moment: Moment) -> dict[str, float]:
        """Gradients of the weights are compared."""
        assert self._found is not None
        found = summed_over_ranks(self._found, self._slots(named))
        groups = groups_of(named, shared_slots(found, self.taught), blocks=self.settings.granularity == "block")
        rates = moment.rates if self.settings.metric == "lr" else ()
        plan = self._plan({name: gram(found, slots, rates=rates) for name, slots in groups.items()}, found, moment)
        self._set(named, combined(found, groups, plan), plan.whole)
        return plan.info

    def _at_the_cut(self, named: Named, moment: Moment) -> dict[str, float]:
        """Compare the gradients of the maps at the cut: an approximation of the above, with one pass of the trunk."""
        assert self._found is not None
        assert self._trunk is not None
        assert self._cut is not None
        found, maps = self._found, self._cut.maps
        if not maps:
            raise UsageError(
                f"the objective's forward pass avoids the {self._cut.place}, where gradients are to be compared: it "
                "must call the modules of the student, not their forward. Or use the blend mode params."
            )
        shared = shared_slots(found, self.taught)
        (products,) = sum_over_ranks([gram(found, [slot for slot in shared if slot < len(maps)], exact=False)])
        plan = self._plan({WHOLE: products}, found, moment)
        blend = combined(found, {WHOLE: shared}, plan)
        upstream = [parameter for index, (_, parameter) in enumerate(named) if index in self._trunk]
        wanted = [
            torch.zeros_like(tensor) if gradient is None else gradient.to(tensor.dtype)
            for tensor, gradient in zip(maps, blend, strict=False)
        ]
        live = [(tensor, gradient) for tensor, gradient in zip(maps, wanted, strict=True) if tensor.requires_grad]
        tensors, gradients = ([pair[part] for pair in live] for part in (0, 1))
        above = iter(torch.autograd.grad(tensors, upstream, grad_outputs=gradients, allow_unused=True))
        below = iter(blend[len(maps) :])
        result = [next(above) if index in self._trunk else next(below) for index in range(len(named))]
        self._cut.forget()
        parameters: list[Tensor] = [parameter for _, parameter in named]
        self._set(named, summed_over_ranks({TASK: result}, parameters)[TASK], plan.whole)
        return plan.info

    def _between(self, named: Named, moment: Moment) -> dict[str, float]:
        """One backward pass with the weights of the last refresh; only the length is bounded."""
        assert self._found is not None
        result = summed_over_ranks(self._found, [parameter for _, parameter in named])[TASK]
        inner = {
            slot: gradient
            for slot, ((name, _), gradient) in enumerate(zip(named, result, strict=True))
            if gradient is not None and not name.startswith(ADAPTERS)
        }
        norms = torch.stack(torch._foreach_norm(list(inner.values()))).double()
        if self.settings.metric == "lr" and moment.rates:
            norms = norms * norms.new_tensor([math.sqrt(moment.rates[slot]) for slot in inner])
        norm = float(torch.linalg.vector_norm(norms))
        limit = KAPPA * float(self.state.reference) * moment.scaler.get_scale()
        factor = min(1.0, limit / norm) if math.isfinite(norm) and norm > 0 else 1.0
        for (name, parameter), gradient in zip(named, result, strict=True):
            by = float(self.state.adapter_factor) if name.startswith(ADAPTERS) else factor
            parameter.grad = gradient if gradient is None or by == 1 else gradient * by
        return {"shortened": float(factor < 1)}

    def _plan(self, products: Mapping[str, Tensor], found: Gradients, moment: Moment) -> Plan:
        tables = {block: _table(part, tuple(found)) for block, part in products.items()}
        whole = _table(torch.stack(list(products.values())).sum(0), tuple(found))
        task = TASK not in found or math.isfinite(whole[TASK][TASK])
        dropped = {name for name in found if name != TASK and not math.isfinite(whole[name][name])} if task else set()
        back_off = self._failures.saw(dropped, moment) if task else False
        warm = self.settings.warm(moment.step, moment.steps)
        reference = float(self.state.reference) * moment.scaler.get_scale()

        def weighed(block: str, table: Table) -> Shares:
            before = self.state.average(block)
            share = weigh(table, dropped, self.settings, warm=warm, reference=reference, task=TASK, before=before)
            self.state.keep(block, share.average)
            return share

        stale = self._stale(whole) if task and self.settings.mode == "interval" else {}
        plan = planned(tables, whole, weighed)
        plan.whole.back_off = back_off
        scales = {f"weight.{name}": scale for name, scale in zip(self._kinds, self.state.balance.tolist(), strict=True)}
        for share in {id(one): one for one in (plan.whole, *plan.parts.values())}.values():
            share.info = {name: value * scales.get(name, 1.0) for name, value in share.info.items()}
        plan.whole.info.update(stale)
        if task:
            self.state.saw(plan.whole, self._kinds, moment.scaler.get_scale())
            self._warn_if_opposed()
            if moment.scaler.is_enabled():
                gone = {name for name in found if name != TASK and whole[name][name] == 0 and self._cost(name) != 0}
                self.state.rebalance(self._kinds, whole, TASK, {**dict.fromkeys(dropped, 1), **dict.fromkeys(gone, -1)})
        return plan

    def _cost(self, kind: str) -> float:
        names = self.taught if kind == JOINT else (kind,)
        return sum(abs(self._numbers.get(name, 0.0)) for name in names)

    def _stale(self, table: Table) -> dict[str, float]:
        """How far a step with the weights of the last refresh would have turned, and whether that is too far."""
        scales = dict(zip(self._kinds, (self.state.weights / self.state.balance).tolist(), strict=True))
        weights = {TASK: 1.0, **{name: weight for name, weight in scales.items() if name in table}}
        if not bool(self.state.known) or TASK not in table or not table[TASK][TASK] > 0:
            return {}
        along = sum(weight * table[TASK][name] for name, weight in weights.items())
        square = sum(a * b * table[one][other] for one, a in weights.items() for other, b in weights.items())
        if not square > 0:
            return {}
        angle = math.degrees(math.acos(max(-1.0, min(1.0, along / math.sqrt(square) / math.sqrt(table[TASK][TASK])))))
        return {"stale_psi_deg": angle, "stale_too_far": float(angle > self.settings.psi_max_deg)}

    def _warn_if_opposed(self) -> None:
        share = self.state.gated_share()
        if share is not None and share > 0.2:
            warnings.warn(
                f"the teacher's gradient opposed the task's in {share:.0%} of the last steps and was left out there. "
                "Is it trained for the same classes and data?",
                stacklevel=2,
            )

    def _set(self, named: Named, gradients: Sequence[Tensor | None], share: Shares) -> None:
        for (_, parameter), gradient in zip(named, gradients, strict=True):
            parameter.grad = gradient
        if share.back_off:  # the scaler must see the overflow, or its scale would grow and the teacher stay unheard
            first = next(parameter for _, parameter in named if parameter.grad is not None)
            first.grad = torch.full_like(first, math.inf)


def _table(products: Tensor, names: Sequence[str]) -> Table:
    rows = [[float(value) for value in row] for row in products.tolist()]
    return {name: dict(zip(names, row, strict=True)) for name, row in zip(names, rows, strict=True)}
