"""``kd3d export trt``: an ONNX export becomes an engine on the device that will run it. No torch, no onnx."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kd3d import __version__
from kd3d.errors import BackendError, DataError, GraphError, OutputError
from kd3d.export.manifest import EXPORT_FILE, INT8_KEY, ONNX_FILE, PIPELINE_FILE, SPEC_FILE, pipeline_json
from kd3d.export.onnx_file import metadata
from kd3d.export.trt_build import BuildSettings, Built, build
from kd3d.export.trt_gate import engine_gate
from kd3d.export.trt_inspect import check_precision, layers
from kd3d.optional import require
from kd3d.runs.atomic import atomic_folder, output_errors, parse_json, read_json, write_bytes, write_json
from kd3d.runs.environment import board_name, graphics_cards, machine
from kd3d.runtime.autoware import is_autoware
from kd3d.runtime.device.choose import open_backend
from kd3d.runtime.device.protocol import DeviceBackend
from kd3d.runtime.engine_file import ENGINE_FILE, RECORD_FILE
from kd3d.runtime.frames import Frame
from kd3d.runtime.heads import onnx_names
from kd3d.runtime.spec_file import SPEC_KEY
from kd3d.runtime.trt_logger import make_logger
from kd3d.spec import DetectorSpec, from_json, to_json

LAYERS_FILE = "layers.json"


@dataclass(frozen=True)
class Source:
    """An ONNX export as found on the vehicle.

    Args:
        onnx: the graph.
        spec: of the detector.
        precision: of the graph.
        pillars: the fixed pillar count, or ``None``.
        parity: what the export's own gate found; empty for a lone file.
        sha256: of the file.
        int8: of an int8 graph, the share of its layers with weights that compute in 8 bits.
    """

    onnx: Path
    spec: DetectorSpec
    precision: str
    pillars: int | None
    parity: dict[str, Any]
    sha256: str
    int8: float = 0.0


@dataclass(frozen=True)
class EngineResult:
    """What ``export_trt`` made: the engine, its precision as read back, and the record beside it."""

    artifact: Path
    precision: str
    record: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The stable keys of ``kd3d export trt --json``."""
        return {"artifact": str(self.artifact), **self.record}


def read_source(path: Path) -> Source:
    """Recognise an export folder, or an ``.onnx`` that carries its specification.

    Raises:
        DataError: it is neither, or damaged.
        GraphError: it is an int8 graph for a CPU.
        SpecError: the specification is not valid.
    """
    path = Path(path)
    if path.is_dir() and is_autoware(path):
        raise DataError(
            f"{path}: two networks in Autoware's layout, whose engines its node builds by itself (build_only:=true). "
            "To time them here through TensorRT: kd3d bench --provider tensorrt."
        )
    onnx = path / ONNX_FILE if path.is_dir() else path
    told = metadata(onnx)
    if SPEC_KEY not in told:
        raise DataError(f"{onnx}: does not say which detector it is. Export it with: kd3d export onnx")
    try:
        spec = from_json(DetectorSpec, parse_json(told[SPEC_KEY]))
    except ValueError as error:
        raise DataError(f"{onnx}: its specification is not JSON ({error}). Export it again.") from error
    record = read_json(onnx.parent / EXPORT_FILE) if (onnx.parent / EXPORT_FILE).is_file() else {}
    sha256 = _sha256(onnx.read_bytes())
    if record and record.get("sha256") != sha256:
        raise DataError(f"{onnx}: is not the file that {EXPORT_FILE} beside it describes. Copy the whole folder again.")
    return Source(
        onnx,
        spec,
        told.get("kd3d.precision", "fp32"),
        record.get("pillars"),
        record.get("parity", {}),
        sha256,
        _int8_share(onnx, told.get(INT8_KEY)),
    )


def _int8_share(onnx: Path, told: str | None) -> float:
    if told is None:
        return 0.0
    try:
        about = parse_json(told)
        device, share = about["device"], about["layers"] / about["weighted"]
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise DataError(
            f"{onnx}: what it says of its int8 layers cannot be read ({error!r}). Export it again."
        ) from error
    if device != "tensorrt":
        raise GraphError(
            f"{onnx}: this int8 graph is for ONNX Runtime on a CPU: TensorRT has no unsigned 8-bit activations. "
            "Export it with: kd3d export onnx --precision int8 --int8-for tensorrt"
        )
    return float(share)


def export_trt(
    source: Source,
    out: Path,
    settings: BuildSettings,
    *,
    runtime: Literal["tensorrt", "tensorrt_rtx"] = "tensorrt",
    timing_cache: Path | None = None,
    frames: Sequence[Frame] = (),
    backend: Callable[[], DeviceBackend] = open_backend,
) -> EngineResult:
    """Build an engine into the folder ``out``: ``model.engine``, ``engine.json``, ``layers.json``, spec and pipeline.

    Before it is kept, gate ``engine`` compares its boxes with those of the ONNX on generated frames and on ``frames``.

    Args:
        source: what to build from.
        out: a new folder, or an earlier engine's, which is replaced.
        settings: precision and limits; its ``graph`` is taken from ``source``.
        runtime: the Python module.
        timing_cache: folder of timing caches, one per version, device and driver; ``None`` keeps none.
        frames: recorded frames for the gate.
        backend: opens the device for the gate.

    Raises:
        BackendError: TensorRT is not installed.
        GraphError: TensorRT refuses the graph.
        PrecisionError: the engine's precision is not what was asked for; nothing is written.
        GateError: the engine's boxes are not those of the ONNX; nothing is written.
        OutputError: ``out`` holds something else, or cannot be written.
    """
    out = Path(out)
    _check_out(out)
    trt: Any = require(runtime, extra="gpu" if runtime == "tensorrt" else "trt-rtx")
    settings = replace(settings, graph=source.precision)
    device = _device(runtime, settings, backend)
    cache_file = (
        None if timing_cache is None else Path(timing_cache) / _cache_name(runtime, str(trt.__version__), device)
    )
    cache = cache_file.read_bytes() if cache_file is not None and cache_file.is_file() else b""
    built = build(trt, source.onnx, settings, cache=cache)
    if cache_file is not None and built.cache:
        write_bytes(cache_file, built.cache)
    read_back = _read_back(trt, built, settings, int8=source.int8)
    record = _record(source, built, settings, version=str(trt.__version__), device=device, runtime=runtime)
    record["read_back"] = read_back[0]
    with atomic_folder(out) as folder:
        write_bytes(folder / ENGINE_FILE, built.engine)
        write_json(folder / LAYERS_FILE, {"Layers": read_back[1]})
        write_json(folder / SPEC_FILE, to_json(source.spec))
        write_json(
            folder / PIPELINE_FILE, pipeline_json(source.spec, kind="engine", file=ENGINE_FILE, pillars=source.pillars)
        )
        write_json(folder / RECORD_FILE, record)
        gate = engine_gate(source.onnx, folder, settings, frames=frames, backend=backend)
        record["gates"] = [gate.to_json()]
        write_json(folder / RECORD_FILE, record)
    return EngineResult(out / ENGINE_FILE, settings.precision, record)


def _read_back(
    trt: Any, built: Built, settings: BuildSettings, *, int8: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if settings.capabilities:  # built for other devices, by strong typing only: this machine cannot load it
        return {"skipped": "built ahead of time; strong typing leaves no choice of precision"}, []
    found = layers(trt, built.engine, make_logger(trt))
    return dict(check_precision(found, settings.precision, int8=int8)), found


def _record(
    source: Source, built: Built, settings: BuildSettings, *, version: str, device: dict[str, Any], runtime: str
) -> dict[str, Any]:
    spec = source.spec
    return {
        "format": 1,
        "kd3d": __version__,
        "runtime": runtime,
        "version": version,
        "device": device,
        "machine": machine(),
        "precision": settings.precision,
        "typing": built.typing,
        "fallback": built.fallback,
        "settings": {
            **asdict(settings),
            "pillars": list(settings.pillars),
            "capabilities": list(settings.capabilities),
        },
        "onnx": {"file": source.onnx.name, "sha256": source.sha256, "precision": source.precision},
        "engine": {"file": ENGINE_FILE, "bytes": len(built.engine), "sha256": _sha256(built.engine)},
        "parity": source.parity,
        "detector": {
            "name": spec.name,
            "classes": list(spec.head.classes),
            "range_m": [getattr(spec.grid, f"{axis}_{end}_m") for end in ("min", "max") for axis in "xyz"],
            "cell_m": spec.grid.cell_m,
            "decode": asdict(spec.decode),
            "outputs": onnx_names(spec),
        },
        "warnings": built.messages[:20],
    }


def _device(runtime: str, settings: BuildSettings, backend: Callable[[], DeviceBackend]) -> dict[str, Any]:
    if settings.capabilities:
        return {"name": "+".join(settings.capabilities), "driver": "none"}
    cards = graphics_cards()
    if cards:
        name, *_, driver = [part.strip() for part in cards[0].split(",")]
        return {"name": name, "driver": driver, **_capability(backend)}
    if board := board_name():  # Jetson: the driver is part of the L4T release
        release = Path("/etc/nv_tegra_release")
        text = release.read_text().splitlines()[0] if release.is_file() else "unknown"
        return {"name": board, "driver": text, **_capability(backend)}
    raise BackendError(
        f"{runtime} needs an NVIDIA GPU to build an engine, and none is visible here. Build on the target device"
        + (", or give --capability." if runtime == "tensorrt_rtx" else ".")
    )


def _capability(backend: Callable[[], DeviceBackend]) -> dict[str, Any]:
    """What decides whether the engine runs on another device; absent where no CUDA binding can tell."""
    try:
        device = backend()
    except BackendError:
        return {}
    try:
        return {"compute_capability": list(device.info().compute_capability)}
    finally:
        device.close()


def _cache_name(runtime: str, version: str, device: dict[str, Any]) -> str:
    text = f"{runtime}-{version}-{device['name']}-{device['driver']}"
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-") + ".cache"


def _check_out(out: Path) -> None:
    with output_errors(out):
        if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / RECORD_FILE).is_file()):
            raise OutputError(
                f"{out}: holds something else than an engine, so it is not replaced. Choose another folder."
            )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
