"""Automatic gradient blending: the step keeps the length of the task's gradient and turns towards the teacher's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from kd3d.compress.distill.blend_state import BlendState, Failures
from kd3d.compress.distill.coefs import BlendSettings
from kd3d.compress.distill.cutting import Cut, Place
from kd3d.compress.distill.gradients import Gradients, added, gradients_of, gram, summed_over_ranks
from kd3d.compress.distill.shares import Shares, weigh
from kd3d.errors import UsageError
from kd3d.training.guard import check_terms
from kd3d.training.objective import Blended, Moment, Named, Probe
from kd3d.training.ranks import sum_over_ranks

TASK, JOINT = "task", "taught"
KAPPA = 1.5  # between refreshes a step may be longer than the task's gradient usually is, but no more than this
ADAPTERS = "adapters."


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
        self.state = BlendState(len(self._kinds))
        self._failures = Failures(self.state, self._kinds)
        self._cut: Cut | None = None
        self._trunk: set[int] | None = None
        self._ready = False
        self._found: Gradients | None = None
        self._values: dict[str, Tensor] = {}

    def identity(self) -> dict[str, Any]:
        """Settings that a resumed run must repeat."""
        return asdict(self.settings)

    @property
    def _kinds(self) -> tuple[str, ...]:
        return self.taught if self.settings.terms == "separate" else (JOINT,)

    @property
    def cuts(self) -> bool:
        """Whether gradients are compared at a cut; known after the first step."""
        return self._trunk is not None

    @property
    def place(self) -> str | None:
        """Where they are compared: ``heads`` or ``neck``; ``None`` at the weights."""
        return None if self._cut is None or self._trunk is None else self._cut.place

    def begin(self, module: nn.Module, named: Named, *, micro_batches: int, probe: Probe) -> None:
        """See ``Blend``.

        Raises:
            UsageError: the mode ``cut`` was asked for and is not possible; says why.
        """
        self._found, self._values = None, {}
        if self._ready:
            return
        if self.settings.mode in ("auto", "cut"):
            found: set[int] | str = "a step has several micro-batches, and all their graphs would have to be kept"
            places: tuple[Place, ...] = ("heads", "neck") if micro_batches == 1 else ()
            for place in places:  # the later the cut, the cheaper
                self._cut = Cut(module, place)
                found = self._cut.trunk([parameter for _, parameter in named], probe)
                if isinstance(found, set):
                    self._trunk = found
                    break
            if isinstance(found, str) and self.settings.mode == "cut":
                raise UsageError(f"gradients cannot be compared at the neck: {found}. Use the blend mode params.")
        self._ready = True

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
        refresh = self._refreshes(moment)
        checked = {name: value for name, value in values.items() if not refresh or name not in self.taught}
        if checked:
            check_terms(checked, step=moment.step, tokens=moment.tokens)
        if not refresh:
            info = self._between(named, moment)
        elif self._trunk is None:
            info = self._exact(named, moment)
        else:
            info = self._at_the_cut(named, moment)
        self._found = None
        return Blended({name: float(value) for name, value in values.items()}, info)

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
        shared = _shared(found)
        share = self._share(gram(found, shared), found, moment)
        self._set(named, _combined(found, shared, share), share)
        return share.info

    def _at_the_cut(self, named: Named, moment: Moment) -> dict[str, float]:
        """Compare the gradients of the maps at the cut: an approximation of the above, with one pass of the trunk."""
        assert self._found is not None
        assert self._trunk is not None
        assert self._cut is not None
        found, maps = self._found, self._cut.maps
        shared = _shared(found)
        (products,) = sum_over_ranks([gram(found, [slot for slot in shared if slot < len(maps)], exact=False)])
        share = self._share(products, found, moment)
        combined = _combined(found, shared, share)
        upstream = [parameter for index, (_, parameter) in enumerate(named) if index in self._trunk]
        wanted = [
            torch.zeros_like(tensor) if gradient is None else gradient.to(tensor.dtype)
            for tensor, gradient in zip(maps, combined, strict=False)
        ]
        live = [(tensor, gradient) for tensor, gradient in zip(maps, wanted, strict=True) if tensor.requires_grad]
        tensors, gradients = ([pair[part] for pair in live] for part in (0, 1))
        above = iter(torch.autograd.grad(tensors, upstream, grad_outputs=gradients, allow_unused=True))
        below = iter(combined[len(maps) :])
        result = [next(above) if index in self._trunk else next(below) for index in range(len(named))]
        self._cut.forget()
        parameters: list[Tensor] = [parameter for _, parameter in named]
        self._set(named, summed_over_ranks({TASK: result}, parameters)[TASK], share)
        return share.info

    def _between(self, named: Named, moment: Moment) -> dict[str, float]:
        """One backward pass with the weights of the last refresh; only the length is bounded."""
        assert self._found is not None
        result = summed_over_ranks(self._found, [parameter for _, parameter in named])[TASK]
        inner = [
            g for (name, _), g in zip(named, result, strict=True) if g is not None and not name.startswith(ADAPTERS)
        ]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(inner)).double()))
        limit = KAPPA * float(self.state.reference) * moment.scaler.get_scale()
        factor = min(1.0, limit / norm) if math.isfinite(norm) and norm > 0 else 1.0
        for (name, parameter), gradient in zip(named, result, strict=True):
            by = float(self.state.adapter_factor) if name.startswith(ADAPTERS) else factor
            parameter.grad = gradient if gradient is None or by == 1 else gradient * by
        return {"shortened": float(factor < 1)}

    def _share(self, products: Tensor, found: Gradients, moment: Moment) -> Shares:
        if not any(g is not None for name in found if name != TASK for g in found[name]):
            raise UsageError(
                f"no parameter of the student learns from {', '.join(self.taught)}: nothing can be blended. "
                "Choose signals that the student's network reaches."
            )
        rows = [[float(value) for value in row] for row in products.tolist()]
        table = {name: dict(zip(found, row, strict=True)) for name, row in zip(found, rows, strict=True)}
        whole = TASK not in found or math.isfinite(table[TASK][TASK])
        dropped = {name for name in found if name != TASK and not math.isfinite(table[name][name])} if whole else set()
        back_off = self._failures.saw(dropped, moment) if whole else False
        warmup = self.settings.warmup_steps
        warm = 1.0 if warmup == 0 else min(1.0, moment.step / warmup)
        reference = float(self.state.reference) * moment.scaler.get_scale()
        share = weigh(table, dropped, self.settings, warm=warm, reference=reference, task=TASK)
        share.back_off = back_off
        if whole:
            self.state.saw(share, self._kinds, moment.scaler.get_scale())
            self._warn_if_opposed()
        return share

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


def _shared(found: Gradients) -> list[int]:
    """Slots that both sides reach; without any task, those that the teacher reaches."""
    slots = range(len(next(iter(found.values()))))
    taught = {i for name in found if name != TASK for i in slots if found[name][i] is not None}
    return [i for i in slots if i in taught and (TASK not in found or found[TASK][i] is not None)]


def _combined(found: Gradients, shared: Sequence[int], share: Shares) -> list[Tensor | None]:
    both, result = set(shared), list[Tensor | None]()
    for slot in range(len(next(iter(found.values())))):
        task = found[TASK][slot] if TASK in found else None
        if task is not None and (slot not in both or not share.weights):
            result.append(task)  # bit for bit what it would be without a teacher
            continue
        weights = share.weights if slot in both else share.alone
        total = None if task is None else task * share.task
        for name, weight in weights.items():
            gradient = found[name][slot]
            if gradient is not None:
                total = gradient * weight if total is None else total.add(gradient, alpha=weight)
        result.append(total)
    return result
