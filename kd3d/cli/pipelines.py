"""Pipelines for models: torch for kd3d folders, ONNX Runtime for artefacts. torch is imported only for the former."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd3d.cli.models import Found
from kd3d.errors import BackendError, UsageError

if TYPE_CHECKING:
    from kd3d.detectors.checkpoint import Model


def onnx_pipeline(found: Found, *, provider: str, threads: int) -> Any:
    """An ONNX Runtime pipeline of an ``.onnx`` file or an export folder."""
    from kd3d.runtime.pipeline import load_pipeline
    from kd3d.runtime.runners import OrtRunner

    assert found.path is not None
    file = found.path if found.path.is_file() else found.path / "model.onnx"
    runner = OrtRunner(file, provider="cuda" if provider.startswith("cuda") else "cpu", threads=threads or None)
    return load_pipeline(found.path, runner).__enter__()


def torch_pipeline(model: Model, *, device: str) -> Any:
    """A torch pipeline on ``device``."""
    from kd3d.detectors.torch_pipeline import TorchPipeline

    return TorchPipeline(model, device=torch_device(device))


def torch_device(name: str) -> str:
    """``auto`` becomes ``cuda`` where there is one, else ``cpu``.

    Raises:
        UsageError: not a device's name.
        BackendError: CUDA is asked for and absent.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.isdigit():
        name = f"cuda:{name}"
    if name != "cpu" and not name.startswith("cuda"):
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, not {name}.")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError(
            f"--device {name}: torch sees no CUDA device. Use --device cpu, or install a CUDA build of torch."
        )
    return name


def file_size_mb(path: Path) -> float:
    """Megabytes (10^6 bytes) of a file, or of the files in a folder that are shipped."""
    files = (
        [path]
        if path.is_file()
        else [file for file in path.iterdir() if file.suffix in (".onnx", ".data", ".safetensors")]
    )
    return sum(file.stat().st_size for file in files) / 1e6
