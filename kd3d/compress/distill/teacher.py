"""The frozen teacher at inference speed: norms folded, half precision, channels last, no gradients."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from kd3d.detectors.batch import Batch
from kd3d.detectors.fold import folded
from kd3d.detectors.model import CenterPoint, DetectorOutput
from kd3d.errors import BackendError, UsageError
from kd3d.spec import DetectorSpec

TeacherPrecision = Literal["auto", "fp32", "bf16", "fp16"]
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TeacherSettings:
    """How the teacher is run.

    Args:
        norm: ``train`` normalises its maps with batch statistics, as the released SparseKD did; its answers then depend
            on how the batch is split, so they cannot be cached, and its norms cannot be folded.
        precision: of backbone and head. ``auto`` follows the training: fp32 beside an fp32 student; else half
            precision, fp16 on a GPU and bf16 on a CPU. The pillar encoder always has fp32 coordinates.
        compiled: let ``torch.compile`` fuse backbone and head: pays on a GPU, after a minute of compiling.
    """

    norm: Literal["eval", "train"] = "eval"
    precision: TeacherPrecision = "auto"
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ("auto", *_TYPES):
            raise UsageError(f"the teacher's precision must be auto, fp32, bf16 or fp16, not {self.precision!r}.")

    def resolve(self, device: torch.device, *, mixed: bool) -> str:
        """The name of the precision on ``device``, beside a student in mixed precision or not.

        Raises:
            UsageError: fp16 on a CPU.
        """
        if self.precision == "fp16" and device.type == "cpu":
            raise UsageError("an fp16 teacher needs a GPU. Use bf16 or fp32 on a CPU.")
        if self.precision != "auto":
            return self.precision
        if not mixed:
            return "fp32"
        return "fp16" if device.type == "cuda" else "bf16"


class FrozenTeacher:
    """Runs a copy of a network; the one given is never changed.

    Not in inference mode: its tensors could not be saved for the student's backward pass, so that all would be copied.

    Args:
        module: a trained network.
        settings: how it is run.
    """

    def __init__(self, module: CenterPoint, settings: TeacherSettings) -> None:
        self.settings = settings
        self._network = _prepared(module, settings.norm)
        self._ready: str | None = None

    @property
    def spec(self) -> DetectorSpec:
        """Its specification."""
        return self._network.spec

    def __call__(self, batch: Batch, device: torch.device) -> DetectorOutput:
        """Maps of a batch, without gradient; to be called where the student is, in its autocast context.

        Raises:
            BackendError: it is to be compiled, and there is no compiler.
        """
        mixed = torch.is_autocast_enabled(device.type)
        precision = self.settings.resolve(device, mixed=mixed)
        self._network.to(device)
        if self.settings.norm == "train":
            with torch.no_grad():
                return self._run(batch)
        self._set(precision)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self._run(batch)

    def _set(self, precision: str) -> None:
        """Weights in ``precision``, cast once and not at every step, as autocast would."""
        if self._ready == precision:
            return
        for part in (self._network.backbone, self._network.head):
            part.to(_TYPES[precision])
            if self.settings.compiled:
                part.compile(dynamic=False)
        self._ready = precision

    def _run(self, batch: Batch) -> DetectorOutput:
        if not self.settings.compiled:
            output: DetectorOutput = self._network(batch)
            return output
        try:
            return self._network(batch)  # type: ignore[no-any-return]
        except Exception as error:
            if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
                raise
            first = str(error).splitlines()[0]
            raise BackendError(
                f"the teacher cannot be compiled here ({first}). torch.compile needs a C++ compiler, on a GPU Triton; "
                "install them, or leave --compile-teacher out."
            ) from error


def _prepared(module: CenterPoint, norm: Literal["eval", "train"]) -> CenterPoint:
    if norm == "eval":
        return folded(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    frozen = copy.deepcopy(module).eval().requires_grad_(False)
    frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part in frozen.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.train()
    return frozen
