"""Mixed precision: what was asked for, and what this processor can do."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from kd3d.errors import UsageError
from kd3d.training.settings import PrecisionName

_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # x86 with AVX-512, x86 with AMX, Arm


def cpu_has_bf16() -> bool:
    """Whether the processor has bf16 arithmetic; emulated bf16 is slower than fp32."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is None:
        probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(probe()) if probe else False
    found = capabilities()
    return any(bool(found.get(name)) for name in _CPU_BF16)


@dataclass(frozen=True)
class Precision:
    """Resolved precision of a run on a device."""

    name: PrecisionName
    device: str

    def autocast(self) -> Any:
        """The context the forward pass runs in."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device, dtype=dtype, enabled=self.name != "fp32")

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler; it does nothing unless the precision is fp16."""
        return torch.amp.GradScaler(self.device, enabled=self.name == "fp16")


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type != "cpu" or cpu_has_bf16()


def resolve_precision(asked: PrecisionName, device: torch.device) -> Precision:
    """The precision a run on ``device`` will have.

    Warns and takes fp32 where bf16 was asked for and the processor has none.

    Raises:
        UsageError: fp16 on a CPU.
    """
    if device.type == "cpu" and asked == "fp16":
        raise UsageError("fp16 training needs a GPU. Use precision bf16 or fp32 on a CPU.")
    if asked == "bf16" and not _has_bf16(device):
        warnings.warn(f"this {device.type} has no bf16 arithmetic; training in fp32.", stacklevel=2)
        return Precision("fp32", device.type)
    return Precision(asked, device.type)
