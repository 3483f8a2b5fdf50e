"""What an engine says of its inputs and outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from kd3d.errors import DataError, GraphError
from kd3d.runtime.tensors import TensorInfo


def engine_tensors(trt: Any, loaded: Any, *, graphs: int) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Inputs and outputs of a loaded engine; ``graphs`` sizes of a free side are prepared for CUDA graphs.

    Raises:
        GraphError: a tensor's type is unknown to numpy.
    """
    names = [loaded.get_tensor_name(index) for index in range(loaded.num_io_tensors)]
    found: dict[bool, list[TensorInfo]] = {True: [], False: []}
    for name in names:
        given = loaded.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        found[given].append(_tensor(trt, loaded, name, graphs=graphs if given else 0))
    return tuple(found[True]), tuple(found[False])


def _tensor(trt: Any, loaded: Any, name: str, *, graphs: int) -> TensorInfo:
    try:
        dtype = np.dtype(trt.nptype(loaded.get_tensor_dtype(name)))
    except TypeError as error:
        raise GraphError(f"{name} is of a type that numpy does not know. Export the detector again.") from error
    shape = tuple(int(side) if int(side) >= 0 else None for side in loaded.get_tensor_shape(name))
    if not graphs or None not in shape:
        return TensorInfo(name, dtype, shape, tuple(side or 0 for side in shape), shape)
    low, _, high = (tuple(int(side) for side in each) for each in loaded.get_tensor_profile_shape(name, 0))
    span = max(most for most, side in zip(high, shape, strict=True) if side is None)
    return TensorInfo(name, dtype, shape, low, high, step=-(-span // graphs) if graphs > 1 else 1)


def check_shape(info: TensorInfo, shape: tuple[int, ...]) -> None:
    """Refuse a shape outside of a tensor's limits.

    Raises:
        DataError: names the tensor, the shape and the limits.
    """
    good = len(shape) == len(info.low) and all(
        low <= side and (high is None or side <= high)
        for low, side, high in zip(info.low, shape, info.high, strict=False)
    )
    if not good:
        raise DataError(f"{info.name} has shape {shape}, but the engine takes {info.low} to {info.high}.")
