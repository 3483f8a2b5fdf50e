"""Cutting a network at its neck, so that gradients can be compared there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kd3d.training.objective import Probe


class NeckCut:
    """Replaces the neck's map by a leaf of the graph, in forward passes inside ``active``.

    Args:
        module: a detector whose ``backbone`` returns its levels and the neck's map; may be wrapped for data-parallel
            training.
    """

    def __init__(self, module: nn.Module) -> None:
        inner = getattr(module, "module", module)
        self._backbone: nn.Module | None = getattr(inner, "backbone", None)
        self.neck: Tensor | None = None
        self.leaf: Tensor | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Cut the forward pass inside."""
        assert self._backbone is not None
        handle = self._backbone.register_forward_hook(self._hook)
        try:
            yield
        finally:
            handle.remove()

    def _hook(self, _: nn.Module, __: Any, output: tuple[list[Tensor], Tensor]) -> tuple[list[Tensor], Tensor]:
        levels, self.neck = output
        self.leaf = self.neck.detach().requires_grad_()
        return levels, self.leaf

    def trunk(self, parameters: Sequence[nn.Parameter], probe: Probe) -> set[int] | str:
        """Positions in ``parameters`` of those upstream of the neck, or why the network cannot be cut there.

        Args:
            parameters: all that learn.
            probe: a forward pass that returns the parts of the loss by name.
        """
        if self._backbone is None:
            return "the network has no backbone whose neck could be cut"
        with self.active(), probe() as parts:
            assert self.neck is not None
            if not self.neck.requires_grad:
                return "nothing upstream of the neck learns"
            found = torch.autograd.grad(self.neck.sum(), parameters, retain_graph=True, allow_unused=True)
            trunk = {index for index, gradient in enumerate(found) if gradient is not None}
            upstream = [parameters[index] for index in sorted(trunk)]
            for name, part in parts.items():
                past = (
                    torch.autograd.grad(part, upstream, retain_graph=True, allow_unused=True)
                    if part.requires_grad
                    else ()
                )
                if any(gradient is not None for gradient in past):
                    return f"{name} reads maps upstream of the neck"
        return trunk
