"""What measures the graphs of a ``blocks.zip``: TensorRT here, ONNX Runtime in ``make_table``. No torch, no onnx."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import UsageError
from kd3d.export.trt_build import BuildSettings, build
from kd3d.optional import require
from kd3d.runs.environment import board_name
from kd3d.runtime.device.choose import open_backend
from kd3d.runtime.device.protocol import DeviceBackend
from kd3d.runtime.engine_file import EngineFile
from kd3d.runtime.trt_runner import TrtRunner

Feeds = dict[str, NDArray[Any]]


class EngineTimer:
    """Builds each graph into an engine, once, and times it on this device. Use it in a with statement.

    Engines have the precision of the graphs by strong typing where TensorRT has it. From fp32 graphs, fp16 is made by
    builder flags, which allow half precision (up to TensorRT 10; later ones take precision from the graph alone).

    Args:
        backend: opens the device.
        precision: ``fp32`` or ``fp16``, of the engines.
        graphs: ``fp32`` or ``fp16``, of the graphs.
        runtime: the Python module, ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        UsageError: another precision.

    Attributes:
        about: ``device``, ``runtime``, ``version``, ``precision`` and ``threads`` of a latency table; once entered.
    """

    def __init__(
        self,
        backend: Callable[[], DeviceBackend] = open_backend,
        *,
        precision: str = "fp32",
        graphs: str = "fp32",
        runtime: str = "tensorrt",
    ) -> None:
        if precision not in ("fp32", "fp16"):
            raise UsageError(f"engines of blocks are fp32 or fp16, not {precision!r}.")
        self._open, self.precision, self.graphs, self._module = backend, precision, graphs, runtime
        self._held, self._cache = ExitStack(), b""

    def __enter__(self) -> EngineTimer:
        """Find TensorRT and the device.

        Raises:
            BackendError: there is none.
        """
        self._trt: Any = require(self._module, extra="gpu" if self._module == "tensorrt" else "trt-rtx")
        device = self._open()
        try:
            info = device.info()
        finally:
            device.close()
        self._capability = info.compute_capability
        self.about = {
            "device": board_name() or info.name,
            "runtime": self._module,
            "version": str(self._trt.__version__),
            "precision": self.precision,
            "threads": None,
        }
        self._folder = Path(self._held.enter_context(tempfile.TemporaryDirectory(prefix="kd3d-blocks-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def opened(self, content: bytes, feeds: Feeds) -> TrtRunner:
        """A runner of the graph's engine, not entered; built where it was not yet.

        Raises:
            GraphError: TensorRT refuses the graph.
            PrecisionError: this TensorRT has no flags, so fp32 graphs cannot become fp16 engines; or fp16 graphs are to
                become fp32 ones.
        """
        name = hashlib.sha256(content + repr(_rows(feeds)).encode()).hexdigest()[:24]
        path = self._folder / f"{name}.engine"
        if not path.is_file():
            path.write_bytes(self._built(content, feeds, path.with_suffix(".onnx")))
        return TrtRunner(EngineFile(path, self._record(path.read_bytes())), backend=self._open)

    def _built(self, content: bytes, feeds: Feeds, onnx: Path) -> bytes:
        rows = _rows(feeds)
        onnx.write_bytes(content)
        settings = BuildSettings(self.precision, self.graphs, pillars=(rows, rows, rows))
        built = build(self._trt, onnx, settings, cache=self._cache)
        onnx.unlink()
        self._cache = built.cache
        return built.engine

    def _record(self, engine: bytes) -> dict[str, Any]:
        return {
            "runtime": self._module,
            "version": self.about["version"],
            "device": {"name": self.about["device"], "compute_capability": list(self._capability)},
            "engine": {"bytes": len(engine), "sha256": hashlib.sha256(engine).hexdigest()},
        }


def _rows(feeds: Feeds) -> int:
    """Pillars of a graph that takes points: the only free side there is."""
    return int(np.shape(feeds["features"])[0]) if "features" in feeds else 1
