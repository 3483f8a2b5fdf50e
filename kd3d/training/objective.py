"""What is minimised: terms with their sums and masses, divided in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from kd3d.runtime.heads import AnchorMaps, TaskMaps
from kd3d.spec import AnchorHeadSpec, DetectorSpec
from kd3d.training.anchor_losses import AnchorWeights, anchor_losses
from kd3d.training.anchor_targets import AnchorBatchTargets
from kd3d.training.batch import TrainBatch
from kd3d.training.losses import focal_loss, gather_cells, l1_loss
from kd3d.training.targets import BatchTargets, Targets, make_targets


@dataclass
class Term:
    """One loss before its division.

    Args:
        name: unique in an objective.
        sum: ``[]`` fp32, with gradient.
        mass: ``[]`` what the sum is divided by, without gradient; summed over micro-batches first.
        weight: factor in the total.
        floor: smallest divisor: 1 where the mass counts objects, tiny where it is a soft mask.
    """

    name: str
    sum: Tensor
    mass: Tensor
    weight: float
    floor: float = 1.0


class Objective(Protocol):
    """Runs the student and says what to minimise.

    An objective may have ``adapters`` (an ``nn.Module``): its parameters are trained along and kept in the training
    checkpoint, never in the model. It may have ``identity() -> dict``: its settings, compared when a run is resumed.
    It may have a ``blend`` (a ``Blend``) that joins the terms' gradients; without one they are added up. It may have
    ``taught``, the names of the terms that come from a teacher: where one of them is not finite a step is skipped, and
    only many such steps in a row stop the run.
    """

    def __call__(self, module: nn.Module, batch: TrainBatch) -> list[Term]:
        """Forward pass of ``module`` on ``batch`` and the losses of its output."""
        ...


@dataclass(frozen=True)
class Moment:
    """When and on what a step is taken.

    Args:
        step: optimiser steps done before it.
        tokens: of the frames.
        scaler: of mixed precision; losses are scaled by it.
        rates: of every parameter that learns, its learning rate over that of the run; empty: all 1.
        steps: of the whole run.
    """

    step: int
    tokens: tuple[str, ...]
    scaler: torch.amp.GradScaler
    rates: tuple[float, ...]
    steps: int


@dataclass(frozen=True)
class Blended:
    """What a blend did: each term's share of the loss, over all micro-batches and processes, and its own numbers.

    ``failed`` names terms that are not finite and could not be taken out: the step is not to be taken.
    """

    terms: dict[str, float]
    info: dict[str, float]
    failed: tuple[str, ...] = ()


Named = Sequence[tuple[str, nn.Parameter]]
Probe = Callable[[], AbstractContextManager[dict[str, Tensor]]]
"""A trial forward pass that leaves no trace: its parts, valid inside the context."""


class Blend(Protocol):
    """Joins the gradients of the terms of one optimiser step: ``begin``, then per micro-batch a forward pass inside
    ``around`` and ``take``, then ``write``.
    """

    def begin(self, module: nn.Module, named: Named, *, micro_batches: int, probe: Probe) -> None:
        """Prepare for a step."""
        ...

    def around(self, module: nn.Module) -> AbstractContextManager[None]:
        """The context of a forward pass."""
        ...

    def take(self, parts: Mapping[str, Tensor], named: Named, moment: Moment) -> None:
        """Take the gradients of one micro-batch; ``parts`` as ``divided`` makes them."""
        ...

    def write(self, named: Named, moment: Moment) -> Blended:
        """Set the ``grad`` of all parameters, scaled as ``moment.scaler`` scales."""
        ...


def total(terms: Sequence[Term], masses: Mapping[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all terms, each divided by its mass. No other place divides.

    Args:
        terms: of one micro-batch.
        masses: per term name, over all micro-batches of the step; ``None`` if there is only this one.

    Returns:
        The total ``[]`` and each term's weighted share of it, without gradient.
    """
    parts = divided(terms, masses)
    return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}


def divided(terms: Sequence[Term], masses: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Each term's weighted share of the total ``[]``, with gradient, by name; arguments as those of ``total``."""
    parts: dict[str, Tensor] = {}
    for term in terms:
        mass = (term.mass if masses is None else masses[term.name]).detach()
        parts[term.name] = term.weight * term.sum / mass.clamp(min=term.floor)
    return parts


@dataclass(frozen=True)
class DetectionWeights:
    """Weights of the detection losses.

    Args:
        heatmap: of every focal term.
        box: of every L1 term.
        velocity: of the two velocity codes within the L1 term.
    """

    heatmap: float = 1.0
    box: float = 2.0
    velocity: float = 1.0

    @classmethod
    def of(cls, spec: DetectorSpec) -> DetectionWeights:
        """The published ones: CenterPoint's for nuScenes where there is velocity (metres per second would drown the
        other codes), else SparseKD's for Waymo (arXiv 2205.15156).
        """
        return cls(box=0.25, velocity=0.2) if spec.head.velocity else cls()


Weights: TypeAlias = "DetectionWeights | AnchorWeights"


def default_weights(spec: DetectorSpec) -> Weights:
    """The published weights of the detection losses of ``spec``, whatever its head."""
    return AnchorWeights() if isinstance(spec.head, AnchorHeadSpec) else DetectionWeights.of(spec)


def detection_terms(heads: Sequence[Any], targets: Sequence[Targets], weights: Weights) -> list[Term]:
    """The detection losses of a batch: CenterPoint's ``task{t}.heatmap`` (focal) and ``task{t}.box`` (L1) per task, or
    an anchor head's ``anchor.cls``, ``anchor.box`` and ``anchor.dir``.

    Args:
        heads: per task, ``[B, C, H, W]`` each.
        targets: per task, on the device of the heads.
        weights: of the terms; of the kind of the head.
    """
    terms: list[Term] = []
    for index, (maps, target) in enumerate(zip(heads, targets, strict=True)):
        if isinstance(target, AnchorBatchTargets):
            assert isinstance(weights, AnchorWeights)
            terms += _anchor_terms(maps, target, weights)
        else:
            assert isinstance(weights, DetectionWeights)
            terms += _task_terms(f"task{index}", maps, target, weights)
    return terms


def _task_terms(task: str, maps: TaskMaps, target: BatchTargets, weights: DetectionWeights) -> list[Term]:
    branches = (maps.center, maps.center_z, maps.dim, maps.rot, maps.vel)
    predicted = torch.cat([gather_cells(part, target.cell) for part in branches if part is not None], 1)
    mask = target.mask.clone()
    mask[:, 8:] *= weights.velocity
    return [
        Term(f"{task}.heatmap", *focal_loss(maps.hm, target.heatmap), weights.heatmap),
        Term(f"{task}.box", *l1_loss(predicted, target.values, mask), weights.box),
    ]


def _anchor_terms(maps: AnchorMaps, target: AnchorBatchTargets, weights: AnchorWeights) -> list[Term]:
    factors = {"cls": weights.cls, "box": weights.box, "dir": weights.direction}
    found = anchor_losses(maps, target, weights)
    return [Term(f"anchor.{name}", *loss, factor) for (name, factor), loss in zip(factors.items(), found, strict=True)]


@dataclass(frozen=True)
class DetectionObjective:
    """The detection losses alone: trains a teacher, or a control without distillation."""

    spec: DetectorSpec
    weights: Weights | None = None

    def __call__(self, module: nn.Module, batch: TrainBatch) -> list[Term]:
        """See ``Objective``."""
        heads = module(batch.student).heads
        targets = batch.targets or make_targets(batch.boxes, self.spec)
        device = heads[0][0].device
        weights = self.weights or default_weights(self.spec)
        return detection_terms(heads, [target.to(device) for target in targets], weights)

    def identity(self) -> dict[str, object]:
        """Settings that a resumed run must repeat."""
        return {"kind": "detection", "weights": repr(self.weights or default_weights(self.spec))}
