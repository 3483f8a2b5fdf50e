"""What goes into a network and what comes out, as its runner knows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd3d.errors import GraphError

_NAMES = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(bool)": "?"}  # the others are numpy's own


@dataclass(frozen=True)
class TensorInfo:
    """An input or an output.

    Args:
        name: in the graph.
        dtype: of its elements.
        shape: ``None`` for a free side.
        low: smallest size of each side.
        high: largest size of each side; ``None`` where the runner sets no limit.
        step: a free side should be a multiple of this, or ``high``: every other size costs the runner a preparation.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    low: tuple[int, ...]
    high: tuple[int | None, ...]
    step: int = 1

    def round_up(self, side: int, count: int) -> int:
        """The size that side ``side`` should have to hold ``count``, without its upper limit being looked at."""
        wanted = -(-max(count, self.low[side], 1) // self.step) * self.step
        limit = self.high[side]
        return wanted if limit is None else min(wanted, limit)


def find_tensor(tensors: Iterable[TensorInfo], name: str) -> TensorInfo | None:
    """The one of that name, if any."""
    return next((tensor for tensor in tensors if tensor.name == name), None)


def onnx_tensor(item: Any) -> TensorInfo:
    """An input or output as ONNX Runtime describes it; a free side has no upper limit there.

    Raises:
        GraphError: it is of a type that numpy does not have.
    """
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in item.shape)
    try:
        dtype = np.dtype(_NAMES.get(item.type) or item.type.removeprefix("tensor(").removesuffix(")"))
    except TypeError as error:
        raise GraphError(
            f"{item.name} is of type {item.type}, which no network of kd3d has. Export the detector with: kd3d export "
            "onnx"
        ) from error
    return TensorInfo(item.name, dtype, shape, tuple(side or 1 for side in shape), shape)
