"""ONNX to a serialised engine through TensorRT's Python API, 8.6 to 11.x and TensorRT-RTX. No torch, no onnx.

``trt`` is the imported module, ``tensorrt`` or ``tensorrt_rtx``. What a version can do is asked of the module itself
(``hasattr``), never of its version number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kd3d.errors import BackendError, DeviceMemoryError, GraphError, PrecisionError, UsageError
from kd3d.runtime.shortage import out_of_memory
from kd3d.runtime.trt_logger import make_logger, said

Typing = Literal["auto", "strong", "flags"]
HARDWARE = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same-capability": "SAME_COMPUTE_CAPABILITY"}


@dataclass(frozen=True)
class BuildSettings:
    """What to build.

    Args:
        precision: ``fp32``, ``fp16`` or ``int8``.
        graph: precision of the ONNX graph itself.
        typing: ``strong`` takes precision from the graph, ``flags`` from builder flags, ``auto`` tries them in order.
        pillars: smallest, typical and largest pillar count of the profile, where the graph leaves it free.
        workspace_mib: memory for tactics; ``None`` is the device's.
        tf32: lets fp32 layers compute in TensorFloat-32.
        version_compatible: the engine also runs on newer TensorRT of the same major version.
        hardware: a key of ``HARDWARE``.
        capabilities: TensorRT-RTX only: compute capabilities such as ``SM89``, built without a device.
    """

    precision: str = "fp16"
    graph: str = "fp16"
    typing: Typing = "auto"
    pillars: tuple[int, int, int] = (1, 10_000, 30_000)
    workspace_mib: int | None = None
    tf32: bool = False
    version_compatible: bool = False
    hardware: str = "none"
    capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        low, usual, high = self.pillars
        if not 1 <= low <= usual <= high:
            raise UsageError(
                f"pillar counts must be ascending and at least 1 (smallest,typical,largest); got {self.pillars}."
            )
        if self.hardware not in HARDWARE:
            raise UsageError(f"hardware compatibility must be {', '.join(HARDWARE)}, not {self.hardware!r}.")
        if self.typing not in ("auto", "strong", "flags"):
            raise UsageError(f"typing must be auto, strong or flags, not {self.typing!r}.")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"the workspace must be at least 1 MiB, not {self.workspace_mib}.")


@dataclass
class Built:
    """An engine.

    Args:
        engine: serialised.
        typing: ``strong`` or ``flags``: how it got its precision.
        fallback: why strong typing was given up, if it was.
        cache: the timing cache afterwards; empty where the version has none.
    """

    engine: bytes
    typing: str
    fallback: str | None = None
    cache: bytes = b""
    messages: list[str] = field(default_factory=list)


def typings(trt: Any, settings: BuildSettings) -> list[str]:
    """Ways to the precision, best first.

    Raises:
        PrecisionError: this version takes precision from the graph, and the graph has another one.
        UsageError: the version lacks the way that was asked for.
    """
    flags, strong = has_flags(trt), has_strong(trt)
    same = settings.precision == settings.graph
    if settings.typing == "flags" and not flags:
        raise UsageError(f"TensorRT {trt.__version__} has no precision flags. Leave --typing out, or take strong.")
    if settings.typing == "strong" and not strong:
        raise UsageError(f"TensorRT {trt.__version__} has no strong typing. Leave --typing out, or take flags.")
    if (settings.typing == "strong" or not flags) and not same:
        raise PrecisionError(
            f"TensorRT takes the precision from the graph here, and the graph is {settings.graph}, not "
            f"{settings.precision}. Export it with: kd3d export onnx --precision {settings.precision}"
        )
    if not same and (settings.precision == "fp32" or "int8" in (settings.precision, settings.graph)):
        raise PrecisionError(
            f"an {settings.graph} graph cannot become an {settings.precision} engine. "
            f"Export it with: kd3d export onnx --precision {settings.precision}"
        )
    wanted = ["strong"] if strong and same and settings.typing != "flags" else []
    return wanted + (["flags"] if flags and settings.typing != "strong" else [])


def has_flags(trt: Any) -> bool:
    """Whether precision can be asked of the builder (up to 10.x)."""
    return hasattr(trt.BuilderFlag, "FP16")


def has_strong(trt: Any) -> bool:
    """Whether precision can come from the graph (10.x by a flag, 11.x and TensorRT-RTX always)."""
    return not has_flags(trt) or hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def build(trt: Any, onnx: Path, settings: BuildSettings, *, cache: bytes = b"") -> Built:
    """Build an engine.

    Args:
        trt: the module.
        onnx: the graph.
        settings: what to build.
        cache: a timing cache of the same version, device and driver; empty for none.

    Raises:
        GraphError: TensorRT refuses the graph in every way; its messages are given.
        DeviceMemoryError: the device has too little memory to build it.
        PrecisionError, UsageError: as ``typings``.
    """
    ways, first = typings(trt, settings), None
    for index, way in enumerate(ways):
        try:
            built = _build(trt, onnx, settings, typing=way, cache=cache)
        except GraphError as error:
            if index + 1 == len(ways):
                raise
            first = str(error)
            continue
        built.fallback = first
        return built
    raise AssertionError("there is always a way")


def _build(trt: Any, onnx: Path, settings: BuildSettings, *, typing: str, cache: bytes) -> Built:
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, typing))
    parse(trt, network, onnx, logger)
    config = builder.create_builder_config()
    _configure(trt, config, settings, typing=typing)
    _set_compatibility(trt, config, settings)
    if _has_free_input(network):
        _add_profile(builder, config, network, settings.pillars)
    timing = _attach_cache(config, cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refusal(f"TensorRT {trt.__version__} cannot build {onnx.name}: {said(logger)}")
    after = bytes(config.get_timing_cache().serialize()) if timing else b""
    return Built(bytes(plan), typing, cache=after, messages=logger.warnings)


def _refusal(text: str) -> Exception:
    if out_of_memory(text):
        return DeviceMemoryError(f"{text}. Free the device's memory, give a smaller --workspace, or fewer --pillars.")
    return GraphError(text)


def parse(trt: Any, network: Any, onnx: Path, logger: Any) -> None:
    """Read ``onnx`` into ``network``.

    Raises:
        GraphError: with the parser's first messages.
    """
    parser = trt.OnnxParser(network, logger)
    if parser.parse(onnx.read_bytes()):
        return
    found = [parser.get_error(index).desc() for index in range(min(parser.num_errors, 3))]
    raise GraphError(f"TensorRT {trt.__version__} cannot parse {onnx.name}: {'; '.join(found) or said(logger)}")


def _network_flags(trt: Any, typing: str) -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    if not has_flags(trt):
        return 0
    if typing == "strong":
        return 1 << int(kinds.STRONGLY_TYPED)
    return 1 << int(kinds.EXPLICIT_BATCH)


def _configure(trt: Any, config: Any, settings: BuildSettings, *, typing: str) -> None:
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if typing == "flags" and settings.precision in ("fp16", "int8"):
        config.set_flag(trt.BuilderFlag.FP16)
    if typing == "flags" and settings.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)  # the scales are in the graph: no calibrator
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for index, name in enumerate(settings.capabilities):
        if not hasattr(getattr(trt, "ComputeCapability", None), name):
            raise BackendError(f"TensorRT {trt.__version__} does not build for {name} without that device.")
        config.num_compute_capabilities = len(settings.capabilities)
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)


def _set_compatibility(trt: Any, config: Any, settings: BuildSettings) -> None:
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware != "none":
        level = HARDWARE[settings.hardware]
        if not hasattr(trt.HardwareCompatibilityLevel, level):
            raise UsageError(f"TensorRT {trt.__version__} has no hardware compatibility {settings.hardware!r}.")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)


def _has_free_input(network: Any) -> bool:
    return any(-1 in tuple(network.get_input(index).shape) for index in range(network.num_inputs))


def _add_profile(builder: Any, config: Any, network: Any, pillars: Sequence[int]) -> None:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        item = network.get_input(index)
        shapes = [tuple(count if side == -1 else side for side in tuple(item.shape)) for count in pillars]
        profile.set_shape(item.name, *shapes)
    config.add_optimization_profile(profile)


def _attach_cache(config: Any, cache: bytes) -> bool:
    if not hasattr(config, "create_timing_cache"):
        return False
    timing = config.create_timing_cache(cache)
    return timing is not None and bool(config.set_timing_cache(timing, ignore_mismatch=False))
