"""Layers that rounding to float16 hurts most stay in fp32, as few as bring the boxes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kd3d.export.emulate import emulated
from kd3d.export.parity import ParityReport
from kd3d.export.parity_match import Tolerance
from kd3d.export.precision import rewrite
from kd3d.export.precision_plan import WEIGHTED, Plan
from kd3d.export.ranges import Arrays, GraphRunner
from kd3d.export.sensitivity import fewest_left_out, layer_errors
from kd3d.spec import DetectorSpec


@dataclass(frozen=True)
class HalfLayer:
    """A layer with weights in float16.

    Args:
        name: its output.
        nodes: positions in the graph of the layer and of what follows it up to the next one.
    """

    name: str
    nodes: frozenset[int]


@dataclass(frozen=True)
class HalfLayers:
    """A plan by layers.

    Args:
        plan: which nodes compute in float16.
        layers: of it.
    """

    plan: Plan
    layers: tuple[HalfLayer, ...]

    @classmethod
    def of(cls, model: Any, plan: Plan) -> HalfLayers:
        """The layers of ``plan``; nodes before the first of them stay as they are."""
        found: list[tuple[str, set[int]]] = []
        for place, node in enumerate(model.graph.node):
            if place in plan.low and node.op_type in WEIGHTED:
                found.append((node.output[0], {place}))
            elif node.op_type in WEIGHTED:
                found.append((node.output[0], set()))
            elif place in plan.low and found and found[-1][1]:
                found[-1][1].add(place)
        return cls(plan, tuple(HalfLayer(name, frozenset(nodes)) for name, nodes in found if nodes))

    def without(self, sensitive: Mapping[str, str]) -> HalfLayers:
        """The plan with some layers, by name, in fp32: each with its rule."""
        out = [layer for layer in self.layers if layer.name in sensitive]
        low = self.plan.low.difference(*(layer.nodes for layer in out))
        kept = tuple(layer for layer in self.layers if layer.name not in sensitive)
        return HalfLayers(Plan(low, {**self.plan.kept, **sensitive}), kept)

    def only(self, layer: HalfLayer) -> HalfLayers:
        """The plan with ``layer`` alone in float16."""
        return HalfLayers(Plan(set(layer.nodes), dict(self.plan.kept)), (layer,))


def spared(
    model: Any,
    plan: Plan,
    types: Mapping[str, int],
    *,
    feeds: Sequence[Arrays],
    judge: Callable[[Any], ParityReport],
    spec: DetectorSpec,
    tolerance: Tolerance,
) -> tuple[Plan, ParityReport]:
    """Take the most sensitive layers out of a plan whose boxes move, as few as ``judge`` asks for.

    Args:
        model: fp32, as ``with_initializers`` gives.
        plan: that is not good enough.
        types: of the model's tensors.
        feeds: network inputs on which every layer is rounded alone.
        judge: what rounding does to the boxes of a mixed-precision model.
        spec: of the detector.
        tolerance: the unit of the errors.

    Returns:
        The plan and what ``judge`` found of it; the report has not passed if nothing helped.
    """
    every = HalfLayers.of(model, plan)

    def runs(some: HalfLayers) -> Callable[[Arrays], Arrays]:
        return GraphRunner(emulated(rewrite(model, some.plan, types))).infer

    def judged(some: HalfLayers) -> tuple[bool, ParityReport]:
        report = judge(rewrite(model, some.plan, types))
        return report.passed, report

    errors = layer_errors(every, feeds, runs, exact=GraphRunner(model).infer, spec=spec, tolerance=tolerance)
    found, report, _ = fewest_left_out(every, errors, judged)
    return found.plan, report
