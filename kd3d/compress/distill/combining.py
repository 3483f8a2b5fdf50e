"""Which weights meet which losses, and the gradient that each gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from kd3d.compress.distill.gradients import Gradients
from kd3d.compress.distill.shares import Shares, Table
from kd3d.errors import UsageError
from kd3d.training.objective import Named

TASK = "task"
WHOLE = "whole"
BLOCKS = (WHOLE, "encoder", "backbone", "neck", "head", "other")
"""What is blended apart under the granularity ``block``; ``whole`` is all of it together."""


@dataclass(frozen=True)
class Plan:
    """Weights of one step.

    Args:
        whole: over all shared slots; its ``alone`` and ``back_off`` hold for the step.
        parts: per group of shared slots; ``whole`` itself where all are one group.
    """

    whole: Shares
    parts: Mapping[str, Shares]

    @property
    def info(self) -> dict[str, float]:
        """Numbers for the log; those of a block are called ``BLOCK.NAME``."""
        if list(self.parts) == [WHOLE]:
            return self.whole.info
        found = {name: value for name, value in self.whole.info.items() if name in ("taught", "task_norm", "phi_deg")}
        for block, share in self.parts.items():
            kept = {name: value for name, value in share.info.items() if name != "taught"}
            found |= {f"{block}.{name}": value for name, value in kept.items()}
        return found


def block_of(name: str) -> str:
    """The block of a detector that a parameter belongs to, by the part of the network and not by what it is called."""
    first, second, *_ = [*name.removeprefix("module.").split("."), ""]
    if first == "backbone":
        return "neck" if second == "ups" else "backbone"
    return first if first in BLOCKS[1:] else "other"


def shared_slots(found: Gradients, taught: Sequence[str]) -> list[int]:
    """Slots that both sides reach; without any task, those that the teacher reaches.

    Raises:
        UsageError: there are none, so nothing could be blended.
    """
    slots = range(len(next(iter(found.values()))))
    heard = {i for name in found if name != TASK for i in slots if found[name][i] is not None}
    if not heard:
        raise UsageError(
            f"no parameter of the student learns from {', '.join(taught)}: nothing can be blended. "
            "Choose signals that the student's network reaches."
        )
    shared = [i for i in slots if i in heard and (TASK not in found or found[TASK][i] is not None)]
    if not shared:
        raise UsageError(
            f"no parameter learns both from the labels and from {', '.join(taught)}: nothing can be blended. Train "
            "the parts of the student that both reach, or leave blending out."
        )
    return shared


def groups_of(named: Named, shared: Sequence[int], *, blocks: bool) -> dict[str, list[int]]:
    """``shared`` (positions in ``named``) by block, or all together."""
    if not blocks:
        return {WHOLE: list(shared)}
    found: dict[str, list[int]] = {}
    for slot in shared:
        found.setdefault(block_of(named[slot][0]), []).append(slot)
    return found


def planned(tables: Mapping[str, Table], whole: Table, weigh: Callable[[str, Table], Shares]) -> Plan:
    """The plan of a step.

    A block that the task's gradient does not move stays with it; a step without any task is one group.

    Args:
        tables: dot products of every group.
        whole: their sum.
        weigh: from a group's name and table to its weights.
    """
    together = weigh(WHOLE, whole)
    if list(tables) == [WHOLE]:
        return Plan(together, {WHOLE: together})
    if TASK not in whole or not math.isfinite(whole[TASK][TASK]):
        return Plan(together, dict.fromkeys(tables, together))
    parts = {block: weigh(block, table) if table[TASK][TASK] > 0 else Shares() for block, table in tables.items()}
    return Plan(together, parts)


def combined(found: Gradients, groups: Mapping[str, Sequence[int]], plan: Plan) -> list[Tensor | None]:
    """The gradient of every slot: blended where both meet, the task's where it is alone, and the adapters'."""
    of_slot = {slot: plan.parts[block] for block, slots in groups.items() for slot in slots}
    result = list[Tensor | None]()
    for slot in range(len(next(iter(found.values())))):
        task, share = found[TASK][slot] if TASK in found else None, of_slot.get(slot)
        if task is not None and (share is None or not share.weights):
            result.append(task)  # bit for bit what it would be without a teacher
            continue
        weights = plan.whole.alone if share is None else share.weights
        total = None if task is None or share is None else task * share.task
        for name, weight in weights.items():
            gradient = found[name][slot]
            if gradient is not None:
                total = gradient * weight if total is None else total.add(gradient, alpha=weight)
        result.append(total)
    return result
