"""The whole detector in torch, in the stages that bench times; the sibling of ``kd3d.runtime.pipeline.Pipeline``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from kd3d.detectors.batch import Batch, Cloud, PillarBatch, prepare
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.voxel_batch import VoxelBatch
from kd3d.errors import BackendError, UsageError
from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.decode import candidates, suppress
from kd3d.runtime.heads import heads_from_arrays, onnx_names
from kd3d.spec import DetectorSpec, VoxelEncoderSpec

Precision = Literal["fp32", "bf16", "fp16"]
Arrays = Mapping[str, NDArray[Any]]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchPipeline:
    """From a frame to boxes with a torch network; point grouping, decoding and suppression are the runtime's.

    Args:
        model: the detector; its module is moved to ``device`` and put in evaluation mode.
        device: a torch device.
        precision: of the BEV network; the encoder always computes in fp32.
        padded: feed a ``dynamic`` detector the padded pillars of its export, to compare with it.

    Raises:
        BackendError: ``device`` is not there.
        UsageError: ``fp16`` on the CPU, which torch runs slower than fp32.
    """

    stages = ("pre", "network", "decode", "nms")

    def __init__(
        self, model: Model, device: str = "cpu", precision: Precision = "fp32", *, padded: bool = False
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendError(f"torch sees no CUDA device, so {device} cannot be used. Use cpu.")
        if precision == "fp16" and device == "cpu":
            raise UsageError("fp16 is not for the CPU; use bf16 or fp32.")
        self.spec: DetectorSpec = model.spec
        self.name = f"torch-{device}-{precision}"
        self.device, self.precision, self.padded = torch.device(device), precision, padded
        self.module = model.module.to(self.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def __enter__(self) -> TorchPipeline:
        return self

    def __exit__(self, *details: object) -> None:
        """Nothing to release: the module belongs to whoever made it."""

    def pre(self, frame: Cloud) -> dict[str, NDArray[Any]]:
        """Points to network inputs, on the host."""
        batch = prepare([frame], self.spec, padded=self.padded)
        if isinstance(batch, VoxelBatch):
            assert isinstance(self.spec.encoder, VoxelEncoderSpec)
            return batch.feeds(self.spec.encoder)
        feeds = {"features": batch.features.numpy(), "counts": batch.counts.numpy(), "cells": batch.cells.numpy()}
        return feeds if batch.flat_pillar is None else {**feeds, "flat_pillar": batch.flat_pillar.numpy()}

    def network(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Network inputs to head maps ``[1, C, H, W]`` float32 by name; returns when they are on the host."""
        batch = self._batch(feeds).to(self.device)
        kind = _TYPES.get(self.precision)
        with torch.inference_mode(), torch.autocast(self.device.type, kind) if kind else nullcontext():
            heads = self.module(batch).heads
        maps = [tensor.float().cpu().contiguous().numpy() for task in heads for tensor in task if tensor is not None]
        return dict(zip(onnx_names(self.spec), maps, strict=True))

    def _batch(self, feeds: Arrays) -> Batch:
        if isinstance(self.spec.encoder, VoxelEncoderSpec):
            return VoxelBatch.from_feeds(feeds, self.spec.encoder)
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        return PillarBatch(
            features=tensors["features"],
            counts=tensors["counts"],
            cells=tensors["cells"],
            batch_size=1,
            flat_pillar=tensors.get("flat_pillar"),
        )

    def decode(self, arrays: Arrays) -> Boxes3D:
        """Head maps to candidates."""
        return candidates(heads_from_arrays(arrays, self.spec), self.spec)

    def nms(self, found: Boxes3D) -> Boxes3D:
        """Candidates to boxes."""
        return suppress(found, self.spec)

    def __call__(self, frame: Cloud) -> Boxes3D:
        """All stages."""
        return self.nms(self.decode(self.network(self.pre(frame))))
