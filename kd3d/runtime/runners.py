"""What runs a network: arrays in, arrays out, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import BackendError, DataError, DeviceMemoryError, GraphError, UsageError
from kd3d.optional import require
from kd3d.runtime.shortage import out_of_memory
from kd3d.runtime.tensors import TensorInfo, onnx_tensor

Arrays = Mapping[str, NDArray[Any]]
Provider = Literal["cpu", "cuda", "tensorrt"]
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),  # the second runs what the first leaves over
}


class Runner(Protocol):
    """A network that is ready between ``__enter__`` and ``__exit__``."""

    @property
    def name(self) -> str:
        """What runs where, for reports."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says about itself; empty where the format has no place for it. Needs an entered runner."""

    @property
    def device(self) -> str:
        """What it runs on, such as ``cpu`` or a GPU's name. Needs an entered runner."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Names, types and shapes, and between which limits a free side may lie. Needs an entered runner."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """As ``inputs``."""

    def __enter__(self) -> Runner:
        """Load the network; again on a loaded one does nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it."""

    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name; returns when they are in host memory."""


class OrtRunner:
    """ONNX Runtime, deterministic.

    Args:
        path: of an ``.onnx`` file.
        provider: ``cpu``, ``cuda`` or ``tensorrt``; there is no silent fall-back from one to another.
        threads: within an operator; ``None`` leaves the choice to ONNX Runtime.
        index: of the CUDA device.
        half: lets the TensorRT provider compute in float16 where the graph does: up to TensorRT 10 it needs the word.
        profile: record how long each node takes, in files that begin with this path; see ``end_profile``.

    Raises:
        UsageError: another provider, or threads below 1.
    """

    def __init__(
        self,
        path: Path,
        *,
        provider: Provider = "cpu",
        threads: int | None = None,
        index: int = 0,
        half: bool = False,
        profile: Path | None = None,
    ) -> None:
        if provider not in _PROVIDERS:
            raise UsageError(f"the provider must be {', '.join(_PROVIDERS)}, not {provider!r}.")
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be at least 1, not {threads}.")
        self.path, self.provider, self.threads = Path(path), provider, threads
        self.index, self.half, self.profile = index, half, profile
        self._session: Any = None

    @property
    def name(self) -> str:
        """Such as ``onnxruntime-cpu``."""
        return f"onnxruntime-{self.provider}"

    def __enter__(self) -> OrtRunner:
        """Load the graph.

        Raises:
            BackendError: ONNX Runtime or the provider is missing.
            DataError: there is no such file.
            GraphError: ONNX Runtime refuses the graph.
            DeviceMemoryError: the device has too little memory for it.
        """
        if self._session is None:
            self._session = self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None

    @property
    def metadata(self) -> dict[str, str]:
        """``metadata_props`` of the file."""
        return dict(self._loaded().get_modelmeta().custom_metadata_map)

    @property
    def device(self) -> str:
        """``cpu``, or ``cuda:N``."""
        return "cpu" if self.provider == "cpu" else f"cuda:{self.index}"

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Inputs of the graph; a free side has no upper limit."""
        return tuple(onnx_tensor(item) for item in self._loaded().get_inputs())

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Outputs of the graph."""
        return tuple(onnx_tensor(item) for item in self._loaded().get_outputs())

    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run the graph.

        Args:
            feeds: arrays by input name.

        Returns:
            All outputs by name, in the graph's order.

        Raises:
            DataError: an input is missing, or has a wrong shape or type.
            DeviceMemoryError: the device has too little memory for it.
        """
        session = self._loaded()
        names = [item.name for item in session.get_inputs()]
        missing = [name for name in names if name not in feeds]
        if missing:
            raise DataError(f"{self.path.name} needs the input(s) {', '.join(missing)}, but got {', '.join(feeds)}.")
        outputs = [item.name for item in session.get_outputs()]
        try:
            values = session.run(outputs, {name: np.ascontiguousarray(feeds[name]) for name in names})
        except Exception as error:
            if not _from_onnxruntime(error):
                raise
            raise self._failure(error, DataError, f"{self.path.name} cannot run on these inputs") from error
        return dict(zip(outputs, values, strict=True))

    def end_profile(self) -> Path:
        """Stop recording; the file with a list of events."""
        return Path(self._loaded().end_profiling())

    def bound(self, feeds: Arrays) -> Callable[[], object]:
        """Inputs placed on the device once; each call runs the graph and leaves the outputs there.

        For timing: it lacks the copies that ``infer`` makes. Returns when the result is ready.
        """
        session, ort = self._loaded(), require("onnxruntime", extra="onnx")
        kind = "cpu" if self.provider == "cpu" else "cuda"
        binding = session.io_binding()
        for item in session.get_inputs():
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(feeds[item.name]), kind, self.index)
            binding.bind_ortvalue_input(item.name, value)
        for item in session.get_outputs():
            binding.bind_output(item.name, kind, self.index)

        def run() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run

    def _loaded(self) -> Any:
        if self._session is None:
            raise UsageError(f"{self.path.name} is not loaded. Use the runner in a with statement.")
        return self._session

    def _open(self) -> Any:
        ort: Any = require("onnxruntime", extra="onnx")
        wanted = _PROVIDERS[self.provider]
        if wanted[0] not in ort.get_available_providers():
            have = ", ".join(ort.get_available_providers())
            raise BackendError(
                f"ONNX Runtime has no {wanted[0]} here; it has {have}. "
                "Use --device cpu, or the GPU build: pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
            )
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file.")
        options = ort.SessionOptions()
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if self.profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(self.profile)
        try:
            session = ort.InferenceSession(
                str(self.path), options, providers=[(name, self._settings(name)) for name in wanted]
            )
        except Exception as error:
            if not _from_onnxruntime(error):
                raise
            raise self._failure(error, GraphError, f"{self.path}: ONNX Runtime refuses this file") from error
        taken = session.get_providers()
        if wanted[0] not in taken:
            raise BackendError(
                f"ONNX Runtime could not start {wanted[0]} for {self.path.name}; it would run on {', '.join(taken)} "
                f"instead. Check the CUDA, cuDNN and TensorRT libraries, or use --device cpu."
            )
        return session

    def _failure(self, error: Exception, kind: type[Exception], what: str) -> Exception:
        if out_of_memory(str(error)):
            rest = "" if self.provider == "cpu" else ", or use --device cpu"
            return DeviceMemoryError(
                f"{self.path.name}: {self.device} has too little memory: {_first_line(error)} Free memory there{rest}."
            )
        return kind(f"{what}: {_first_line(error)}")

    def _settings(self, provider: str) -> dict[str, Any]:
        if provider == "CPUExecutionProvider":
            return {}
        if provider == "TensorrtExecutionProvider":
            return {"device_id": self.index, "trt_fp16_enable": self.half}
        return {"device_id": self.index}


def runtime_version() -> str:
    """Version of ONNX Runtime.

    Raises:
        BackendError: it is not installed.
    """
    return str(require("onnxruntime", extra="onnx").__version__)


def _from_onnxruntime(error: Exception) -> bool:
    # Its exceptions derive from Exception alone, or are plain RuntimeError and ValueError raised by its own wrapper.
    return type(error).__module__.startswith("onnxruntime") or isinstance(error, (RuntimeError, ValueError))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
