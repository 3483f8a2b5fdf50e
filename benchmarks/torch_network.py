"""A torch network between the CUDA kernels, in place of an engine: all of a frame's work stays on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd3d.detectors.batch import PillarBatch
from kd3d.detectors.fold import folded
from kd3d.detectors.model import CenterPoint
from kd3d.runtime.device.protocol import DeviceBackend
from kd3d.runtime.heads import onnx_names
from kd3d.runtime.tensors import TensorInfo

Shapes = dict[str, tuple[int, ...]]
_WARM = 3  # runs before a graph is captured, as torch asks for
_TYPES = {torch.float32: np.float32, torch.int64: np.int64}


class TorchNetwork:
    """A ``DeviceNetwork`` (``kd3d.runtime.cuda.pipeline``) with torch's kernels.

    Args:
        module: the detector; a folded copy is made, its encoder in fp32 and the rest in ``dtype``.
        backend: whose stream it runs on; memory is torch's.
        device: of torch.
        dtype: of the BEV network.
        step: numbers of pillars are rounded up to a multiple of this.
        graphs: capture a CUDA graph per number of pillars.
    """

    def __init__(
        self,
        module: CenterPoint,
        backend: DeviceBackend,
        *,
        device: str = "cuda",
        dtype: torch.dtype = torch.float16,
        step: int = 4096,
        graphs: bool = True,
    ) -> None:
        self.backend, self.stream, self.device, self._graphs = backend, backend.stream(), torch.device(device), graphs
        self.name = f"torch {str(dtype).removeprefix('torch.')}{', CUDA graphs' if graphs else ''}"
        self.module = folded(module).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for part in (self.module.backbone, self.module.head):
            part.to(dtype)
        self._on = torch.cuda.ExternalStream(int(self.stream)) if self.device.type == "cuda" else None
        spec = self.module.spec
        rows, encoder = spec.pillar_encoder.max_pillars, spec.pillar_encoder
        self._inputs = {
            "features": torch.zeros(rows, encoder.max_points, spec.point_inputs, device=self.device),
            "counts": torch.zeros(rows, dtype=torch.int64, device=self.device),
            "cells": torch.full((rows,), spec.grid.ny * spec.grid.nx, dtype=torch.int64, device=self.device),
        }
        maps = self._maps(1)
        self._outputs = dict(zip(onnx_names(spec), (map_.float().contiguous() for map_ in maps), strict=True))
        self._captured: dict[int, Callable[[], None]] = {}
        self.inputs = tuple(_info(name, value, step=step) for name, value in self._inputs.items())
        self.outputs = tuple(_info(name, value) for name, value in self._outputs.items())
        if self._on is not None:
            torch.cuda.synchronize()

    def __enter__(self) -> TorchNetwork:
        return self

    def __exit__(self, *details: object) -> None:
        self._captured.clear()

    def address(self, name: str) -> int:
        """Where a tensor lies."""
        return int({**self._inputs, **self._outputs}[name].data_ptr())

    def enqueue(self, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
        """Run on what lies in the inputs; returns before it is done."""
        rows = shapes["features"][0]
        with nullcontext() if self._on is None else torch.cuda.stream(self._on):
            if rows not in self._captured:
                self._captured[rows] = self._prepared(rows)
            self._captured[rows]()
        return {name: tuple(value.shape) for name, value in self._outputs.items()}

    def _prepared(self, rows: int) -> Callable[[], None]:
        if not self._graphs:
            return lambda: self._run(rows)
        for _ in range(_WARM):
            self._run(rows)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._on):
            self._run(rows)
        return graph.replay

    def _run(self, rows: int) -> None:
        for output, map_ in zip(self._outputs.values(), self._maps(rows), strict=True):
            output.copy_(map_)

    def _maps(self, rows: int) -> list[Tensor]:
        parts = {name: value[:rows] for name, value in self._inputs.items()}
        with torch.no_grad():
            heads = self.module(PillarBatch(**parts, batch_size=1)).heads
        return [map_ for task in heads for map_ in task if map_ is not None]


def _info(name: str, value: Tensor, *, step: int = 1) -> TensorInfo:
    free = step > 1
    high: tuple[Any, ...] = tuple(value.shape)
    shape = (None, *high[1:]) if free else high
    low = (1, *high[1:]) if free else high
    assert math.prod(high)
    return TensorInfo(name, np.dtype(_TYPES[value.dtype]), shape, low, high, step)
