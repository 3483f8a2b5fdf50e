"""Cutting a network behind its trunk, so that gradients can be compared there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kd3d.training.objective import Probe

Place = Literal["heads", "neck", "levels"]
PLACES: tuple[Place, ...] = ("heads", "neck", "levels")  # the later the cut, the cheaper


class Cut:
    """Replaces maps by leaves of the graph, in forward passes inside ``active``.

    Args:
        module: a detector whose ``backbone`` returns its levels and the neck's map; may be wrapped for data-parallel
            training.
        place: ``heads``, the inputs of the last convolution of every branch of a centre head; ``neck``; or ``levels``,
            the output of every level as the neck and the signals read it, while the next level reads it uncut. The
            later the cut, the less is run backward once per loss.
    """

    def __init__(self, module: nn.Module, place: Place) -> None:
        self.place = place
        inner = getattr(module, "module", module)
        self._backbone: nn.Module | None = getattr(inner, "backbone", None)
        self._last = _last_layers(inner)
        self._ups = list(getattr(self._backbone, "ups", ()))
        self.maps: list[Tensor] = []
        self.leaves: list[Tensor] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        """Cut the forward pass inside."""
        self.forget()
        with ExitStack() as hooks:
            if self._backbone is not None and self.place != "heads":
                behind = self._behind if self.place == "neck" else self._behind_levels
                hooks.callback(self._backbone.register_forward_hook(behind).remove)
            for layer in {"heads": self._last, "neck": [], "levels": self._ups}[self.place]:
                hooks.callback(layer.register_forward_pre_hook(self._before).remove)
            yield

    def forget(self) -> None:
        """Let go of the last forward pass."""
        self.maps, self.leaves = [], []

    def _behind(self, _: nn.Module, __: Any, output: tuple[list[Tensor], Tensor]) -> tuple[list[Tensor], Tensor]:
        levels, neck = output
        return levels, self._leaf(neck)

    def _behind_levels(self, _: nn.Module, __: Any, output: tuple[list[Tensor], Tensor]) -> tuple[list[Tensor], Tensor]:
        leaves = {id(tensor): leaf for tensor, leaf in zip(self.maps, self.leaves, strict=True)}
        levels, neck = output
        return [leaves[id(level)] for level in levels], neck

    def _before(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (self._leaf(inputs[0]),)

    def _leaf(self, tensor: Tensor) -> Tensor:
        self.maps.append(tensor)
        self.leaves.append(tensor.detach().requires_grad_())
        return self.leaves[-1]

    def trunk(self, parameters: Sequence[nn.Parameter], probe: Probe) -> set[int] | str:
        """Positions in ``parameters`` of those upstream of the cut, or why the network cannot be cut there.

        Args:
            parameters: all that learn.
            probe: a forward pass that returns the parts of the loss by name.
        """
        if self.place == "heads" and not self._last:
            return "the network has no centre head whose branches could be cut"
        if self._backbone is None or (self.place == "levels" and not self._ups):
            return f"the network has no backbone whose {self.place} could be cut"
        with self.active(), probe() as parts:
            live = [tensor for tensor in self.maps if tensor.requires_grad]
            if not live:
                return f"nothing upstream of the {self.place} learns"
            total = torch.stack([tensor.float().sum() for tensor in live]).sum()
            found = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
            trunk = {index for index, gradient in enumerate(found) if gradient is not None}
            upstream = [parameters[index] for index in sorted(trunk)]
            for name, part in parts.items():
                past = (
                    torch.autograd.grad(part, upstream, retain_graph=True, allow_unused=True)
                    if part.requires_grad
                    else ()
                )
                if any(gradient is not None for gradient in past):
                    return f"{name} reads maps upstream of the {self.place}"
        return trunk


def _last_layers(module: nn.Module) -> list[nn.Module]:
    """The last convolution of every branch of a centre head; none in other networks."""
    tasks = getattr(getattr(module, "head", None), "tasks", None)
    if not isinstance(tasks, nn.ModuleList):
        return []
    branches = [branch for task in tasks for branch in task.children()]
    return [last for branch in branches if isinstance(last := getattr(branch, "out", None), nn.Module)]
