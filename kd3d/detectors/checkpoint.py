"""A stored detector: a folder with ``spec.json``, ``weights.safetensors`` and ``meta.json``. Never a pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kd3d import __version__
from kd3d.detectors.build import build
from kd3d.detectors.model import CenterPoint
from kd3d.errors import CheckpointError, OutputError
from kd3d.runs.atomic import atomic_folder, output_errors, read_json, write_json
from kd3d.spec import DetectorSpec, from_json, to_json

SPEC_FILE, WEIGHTS_FILE, META_FILE = "spec.json", "weights.safetensors", "meta.json"
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # torch's zip and a bare pickle stream


@dataclass
class Model:
    """A detector with its weights.

    Args:
        spec: what it is.
        module: the network, in evaluation mode when it was loaded.
        meta: how it was made: ``parent``, ``metrics``, ``command`` and whatever else its maker recorded.
    """

    spec: DetectorSpec
    module: CenterPoint
    meta: dict[str, Any] = field(default_factory=dict)


def save_model(folder: Path, module: CenterPoint, meta: Mapping[str, Any]) -> None:
    """Write ``module`` as a model folder, whole or not at all; an existing model there is replaced.

    Raises:
        OutputError: ``folder`` holds something else, or cannot be written.
    """
    folder = Path(folder)
    _refuse_foreign(folder)
    with atomic_folder(folder) as temporary:
        write_json(temporary / SPEC_FILE, to_json(module.spec))
        write_json(temporary / META_FILE, {"kd3d": __version__, **meta})
        (temporary / WEIGHTS_FILE).write_bytes(weights_bytes(module))


def weights_bytes(module: CenterPoint) -> bytes:
    """The content of the weights file for ``module``; equal weights give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def load_model(folder: Path) -> Model:
    """Read a model folder.

    Raises:
        CheckpointError: a file is missing or damaged, is a pickle, or holds other tensors than the
            specification asks for.
        SpecError: the specification is not valid.
    """
    folder = Path(folder)
    if folder.is_file():
        raise CheckpointError(_file_message(folder))
    for name in (SPEC_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: not a kd3d model, {name} is missing. Give a folder made by kd3d.")
    spec = from_json(DetectorSpec, read_json(folder / SPEC_FILE))
    tensors, source = read_tensors(folder / WEIGHTS_FILE), str(folder / WEIGHTS_FILE)
    with torch.device("meta"):  # a damaged specification may ask for more memory than there is
        _check_tensors(build(spec), tensors, source)
    module = build(spec)
    load_weights(module, tensors, source=source)
    meta = read_json(folder / META_FILE) if (folder / META_FILE).is_file() else {}
    if not isinstance(meta, dict):
        raise CheckpointError(f"{folder / META_FILE}: must be a JSON object. Restore the file or delete it.")
    return Model(spec, module.eval(), meta)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: the file is damaged, or is a pickle.
    """
    try:
        content = Path(path).read_bytes()
        if _is_pickle(content[:9]):
            raise CheckpointError(_file_message(path))
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: damaged ({error}). Restore the file or make the model again.") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error


def load_weights(module: CenterPoint, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy ``tensors`` into ``module``; nothing may be missing, left over, or of another shape.

    Raises:
        CheckpointError: lists every difference; ``module`` is unchanged.
    """
    _check_tensors(module, tensors, source)
    module.load_state_dict(dict(tensors))


def _check_tensors(module: CenterPoint, tensors: Mapping[str, Tensor], source: str) -> None:
    """Names, shapes and finiteness; ``module`` may be without memory."""
    wanted = module.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is not part of {module.spec.name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {list(tensors[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems += [
        f"{name} is not finite"
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if problems:
        raise CheckpointError(
            f"{source}: {len(problems)} tensor(s) do not fit {module.spec.name}: {'; '.join(problems)}. "
            "Use the specification that the weights were made with."
        )


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights file, as hexadecimal.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(folder) / WEIGHTS_FILE
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error


def _file_message(path: Path) -> str:
    with Path(path).open("rb") as file:
        start = file.read(9)
    if _is_pickle(start):
        return (
            f"{path}: is a pickle, which could run code, so it is not opened. Give a kd3d model folder "
            f"({SPEC_FILE} and {WEIGHTS_FILE}); checkpoints of other frameworks go through kd3d import."
        )
    return f"{path}: is a file, not a kd3d model folder."


def _is_pickle(start: bytes) -> bool:
    # A safetensors file begins with eight bytes of length, which may look like a pickle's, and then its JSON header.
    return start.startswith(_PICKLE_STARTS) and start[8:9] != b"{"


def _refuse_foreign(folder: Path) -> None:
    with output_errors(folder):
        if folder.is_dir() and any(folder.iterdir()) and not (folder / SPEC_FILE).is_file():
            raise OutputError(
                f"{folder}: is not empty and not a kd3d model, so it is not replaced. Choose another folder."
            )
