"""Pipelines for models: torch for kd3d folders, ONNX Runtime or TensorRT for artefacts. torch only for the former."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd3d.cli.console import note
from kd3d.cli.models import ARTEFACTS, Found, find_model, load_model
from kd3d.errors import BackendError, UsageError
from kd3d.optional import available, require

if TYPE_CHECKING:
    from kd3d.detectors.checkpoint import Model

_ENGINES = "--cuda-backend, --cuda-graph and --device-stages"
_SHIPPED = (".onnx", ".data", ".safetensors", ".engine", ".plan")


@dataclass(frozen=True)
class Running:
    """How a model is run, in the words of the command line.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        provider: of ONNX Runtime: ``auto`` follows ``device``; ``cpu``, ``cuda`` or ``tensorrt``.
        threads: for the network; 0 is every core.
        cuda_backend: through which an engine's memory is handled.
        cuda_graph: launch an engine as a graph.
        device_stages: where points become pillars, and head maps boxes, around an engine: ``host``, ``cuda``, ``auto``.
    """

    device: str = "auto"
    provider: str = "auto"
    threads: int = 0
    cuda_backend: str = "auto"
    cuda_graph: bool = False
    device_stages: str = "host"

    @property
    def of_engines(self) -> bool:
        """Whether an option is set that only engines have."""
        return self.cuda_graph or self.cuda_backend != "auto" or self.device_stages != "host"

    @property
    def index(self) -> int:
        """Of the CUDA device; 0 unless ``device`` names one."""
        number = self.device.rpartition(":")[2]
        return int(number) if number.isdigit() else 0


def open_pipeline(model: str, how: Running) -> Any:
    """An open pipeline of any model argument that has weights.

    Raises:
        UsageError: no such model, or options that do not go with its kind.
        Kd3dError: the artefact or the device cannot be used, see the runners.
    """
    found = find_model(model)
    if found.kind in ARTEFACTS:
        return artefact_pipeline(found, how)
    if how.provider != "auto" or how.of_engines:
        raise UsageError(f"--provider, {_ENGINES} are for exports and engines, not torch models.")
    return torch_pipeline(load_model(model), device=how.device)


def artefact_pipeline(found: Found, how: Running) -> Any:
    """An open pipeline of an ``.onnx`` file, an export folder, or an engine.

    Raises:
        UsageError: options that do not go with its kind.
        Kd3dError: the artefact or the device cannot be used, see the runners.
    """
    from kd3d.runtime.autoware import is_autoware, load_autoware
    from kd3d.runtime.pipeline import load_pipeline

    assert found.path is not None
    if found.path.is_dir() and is_autoware(found.path):
        return load_autoware(found.path, lambda file: _network_runner(file, how)).__enter__()
    if found.kind == "engine":
        return _engine_pipeline(found.path, how)
    return load_pipeline(found.path, _onnx_runner(found.path, how)).__enter__()


def onnx_pipeline(found: Found, *, provider: str, threads: int) -> Any:
    """An ONNX Runtime pipeline of an ``.onnx`` file or an export folder."""
    return artefact_pipeline(found, Running(device=provider, threads=threads))


def device_backend(name: str, index: int) -> Callable[[], Any]:
    """What opens a CUDA device; torch is imported only where it is named, or where nothing else works.

    Args:
        name: ``auto`` or one of ``kd3d.runtime.device.choose.BACKENDS``.
        index: of the device.
    """
    from kd3d.runtime.device.choose import open_backend

    def open_it() -> Any:
        if name == "torch":
            return open_backend(name, index=index, torch=require("torch", extra="torch"))
        try:
            return open_backend(name, index=index)
        except BackendError:
            if name != "auto" or not available("torch"):
                raise
            return open_backend(name, index=index, torch=require("torch", extra="torch"))

    return open_it


def _engine_pipeline(path: Path, how: Running) -> Any:
    from kd3d.runtime.cuda.stages import open_stages
    from kd3d.runtime.pipeline import load_pipeline

    runner = _engine_runner(path, how)
    pipeline, why_not = open_stages(load_pipeline(path, runner), runner, how.device_stages)
    if how.device_stages == "auto":
        reason = f": {why_not}" if why_not else ""
        note(f"before and after the network of {path.name}: {stages_device(pipeline)}{reason}")
    return pipeline


def cuda_name(how: Running) -> str:
    """``cuda``, or ``cuda:N`` for another device than the first."""
    return f"cuda:{how.index}" if how.index else "cuda"


def stages_device(pipeline: Any) -> str:
    """``cuda`` where the CUDA kernels surround the network, else ``host``."""
    return "cuda" if hasattr(pipeline, "head_maps") else "host"


def _network_runner(file: Path, how: Running) -> Any:
    """Of one of the two networks of Autoware's layout."""
    from kd3d.runtime.engine_file import is_engine

    if how.device_stages != "host":
        raise UsageError("--device-stages is for kd3d's own engines; Autoware's node has kernels of its own.")
    return _engine_runner(file, how) if is_engine(file) else _onnx_runner(file, how)


def _engine_runner(path: Path, how: Running) -> Any:
    from kd3d.runtime.engine_file import read_engine_file
    from kd3d.runtime.trt_runner import TrtRunner

    if how.provider != "auto":
        raise UsageError(f"--provider is for ONNX files; {path} is an engine, which TensorRT runs.")
    if how.device == "cpu":
        raise UsageError(f"{path}: an engine runs on a GPU only. Leave --device cpu out, or take the ONNX export.")
    backend = device_backend(how.cuda_backend, how.index)
    return TrtRunner(read_engine_file(path), backend=backend, cuda_graph=how.cuda_graph)


def _onnx_runner(path: Path, how: Running) -> Any:
    from kd3d.export.onnx_file import metadata
    from kd3d.runtime.runners import OrtRunner

    if how.of_engines:
        raise UsageError(f"{_ENGINES} are for engines. Build one with: kd3d export trt")
    file = path if path.is_file() else path / "model.onnx"
    provider: Any = how.provider
    if provider == "auto":
        provider = "cuda" if how.device.startswith("cuda") or how.device.isdigit() else "cpu"
    half = provider == "tensorrt" and metadata(file).get("kd3d.precision") == "fp16"
    return OrtRunner(file, provider=provider, threads=how.threads or None, index=how.index, half=half)


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


def truncation(pipeline: Any) -> dict[str, int]:
    """What did not fit the network's lists over all frames so far: points, and pillars. Empty for torch."""
    if not hasattr(pipeline, "total_dropped_pillars"):
        return {}
    return {"dropped_points": pipeline.total_dropped_points, "dropped_pillars": pipeline.total_dropped_pillars}


def truncation_text(pipeline: Any) -> str | None:
    """A warning where pillars were dropped; points of full pillars are the encoder's own rule and need none."""
    from kd3d.runtime.inputs import dropped_text, unit_of

    dropped = truncation(pipeline)
    if not dropped.get("dropped_pillars"):
        return None
    return f"warning: {dropped_text(**dropped, unit=unit_of(pipeline.spec))}"


def file_size_mb(path: Path) -> float:
    """Megabytes (10^6 bytes) of a file, or of the files in a folder that are shipped."""
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.suffix in _SHIPPED]
    return sum(file.stat().st_size for file in files) / 1e6
