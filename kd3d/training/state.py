"""The training checkpoint: everything that the rest of the run depends on, in one atomic file."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd3d.errors import CheckpointError, UsageError
from kd3d.runs.atomic import write_bytes
from kd3d.training.ema import Ema

FORMAT = 1
DAMAGE = (
    OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError,
    MemoryError, OverflowError, RecursionError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass
class TrainState:
    """A run between two steps.

    Order and augmentation of the data, the schedule, and the random numbers of a step are functions of (seed, step), so
    ``step`` is all there is to keep of them.

    Args:
        module: the network in training.
        ema: its moving average.
        optimiser: over the module's and the adapters' parameters.
        scaler: does nothing unless the precision is fp16.
        adapters: what the objective trains along, or ``None``.
        step: optimiser steps done.
    """

    module: nn.Module
    ema: Ema
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    adapters: nn.Module | None
    step: int = 0


def save_state(path: Path, state: TrainState, identity: dict[str, Any]) -> None:
    """Write ``state`` atomically; ``identity`` is what a resumed run must repeat (JSON values).

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    content = {
        "format": FORMAT,
        "step": state.step,
        "identity": json.dumps(identity),
        "module": state.module.state_dict(),
        "ema": state.ema.module.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "scaler": state.scaler.state_dict(),
        "adapters": None if state.adapters is None else state.adapters.state_dict(),
    }
    buffer = io.BytesIO()  # torch's own writer hides a full disk behind a RuntimeError
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def remove_leftovers(path: Path) -> None:
    """Delete temporary files that a killed process left beside the checkpoint ``path``."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def load_state(path: Path, state: TrainState, identity: dict[str, Any]) -> None:
    """Bring ``state`` to where ``path`` left off.

    Raises:
        CheckpointError: the file is corrupt, unsafe, or of another network.
        UsageError: names every setting that differs from the one the run was begun with.
    """
    content = _read(path)
    begun = json.loads(content["identity"])
    changes = differences(begun, json.loads(json.dumps(identity)))
    if changes:
        raise UsageError(
            f"{path} was made with other settings: {'; '.join(changes)}. "
            "Repeat the run's settings to resume it, or choose another output folder."
        )
    try:
        state.module.load_state_dict(content["module"])
        state.ema.module.load_state_dict(content["ema"])
        state.optimiser.load_state_dict(content["optimiser"])
        state.scaler.load_state_dict(content["scaler"])
        if state.adapters is not None:
            state.adapters.load_state_dict(content["adapters"])
        state.step = int(content["step"])
        odd = [name for name, tensor in state.module.state_dict().items() if not bool(tensor.isfinite().all())]
        if odd:
            raise ValueError(f"{odd[0]} is not finite")
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: does not fit this run ({first}). Delete it to begin again.") from error


def _read(path: Path) -> dict[str, Any]:
    advice = "Delete it to begin the run again, or restore it from a copy."
    try:
        with zipfile.ZipFile(path) as archive:  # torch compares no check sums: a changed weight would go unseen
            changed = archive.testzip()
        if changed is not None:
            raise CheckpointError(f"{path}: corrupt (the check sum of {changed} differs). {advice}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: not a training checkpoint of kd3d, corrupt or unsafe. {advice}") from error
    except DAMAGE as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: corrupt or not readable ({first}). {advice}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a kd3d training checkpoint of format {FORMAT}. {advice}")
    return content


def differences(begun: Any, asked: Any, where: str = "") -> list[str]:
    """One line per value that differs between two JSON values, named by its path."""
    if isinstance(begun, dict) and isinstance(asked, dict):
        found: list[str] = []
        for key in dict.fromkeys([*begun, *asked]):
            found += differences(begun.get(key), asked.get(key), f"{where}.{key}".lstrip("."))
        return found
    return [] if begun == asked else [f"{where}={begun} then, {asked} now"]
