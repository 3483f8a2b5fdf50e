"""The ``trtexec`` command that builds the same engine, for devices whose Python cannot run kd3d (JetPack 5)."""

from __future__ import annotations

import shlex
from pathlib import Path

from kd3d.errors import UsageError
from kd3d.export.trt_build import BuildSettings
from kd3d.spec import DetectorSpec, VoxelEncoderSpec

_LEVELS = {"ampere+": "ampere+", "same-capability": "sameComputeCapability"}


def trtexec_command(
    onnx: Path, engine: Path, settings: BuildSettings, *, spec: DetectorSpec, version: str, fixed: int | None
) -> str:
    """One shell line.

    Args:
        onnx: the graph.
        engine: to write.
        settings: as for the Python API.
        spec: of the detector.
        version: of TensorRT, such as ``8.6`` or ``10.3``: its flags changed in 11.
        fixed: pillar count of the graph, or ``None`` where it is free.

    Raises:
        UsageError: the version is not a number, or cannot give the precision from this graph.
    """
    try:
        major = int(version.split(".", maxsplit=1)[0])
    except ValueError as error:
        raise UsageError(f"a TensorRT version looks like 8.6 or 10.3, not {version!r}.") from error
    words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}"]
    if fixed is None:
        words += [
            f"--{kind}Shapes={_shapes(spec, count)}"
            for kind, count in zip(("min", "opt", "max"), settings.pillars, strict=True)
        ]
    words += _precision(settings, major)
    if settings.workspace_mib is not None:
        words.append(f"--memPoolSize=workspace:{settings.workspace_mib}")
    if settings.version_compatible:
        words.append("--versionCompatible")
    if settings.hardware != "none":
        words.append(f"--hardwareCompatibilityLevel={_LEVELS[settings.hardware]}")
    layers = engine.with_name("layers.json")
    words += [
        f"--timingCacheFile={engine.with_suffix('.cache')}",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={layers}",
        "--skipInference",
    ]
    return shlex.join(words)


def _precision(settings: BuildSettings, major: int) -> list[str]:
    tf32 = [] if settings.tf32 else ["--noTF32"]
    strong = settings.typing == "strong" or (
        settings.typing == "auto" and major >= 10 and settings.precision == settings.graph
    )
    if settings.precision != settings.graph and (major >= 11 or "int8" in (settings.precision, settings.graph)):
        raise UsageError(
            f"TensorRT {major} takes the precision from the graph, which is {settings.graph}. "
            f"Export it with: kd3d export onnx --precision {settings.precision}"
        )
    if major >= 11:
        return tf32
    if major == 10 and strong:
        return ["--stronglyTyped", *tf32]
    return {"fp32": [], "fp16": ["--fp16"], "int8": ["--fp16", "--int8"]}[settings.precision] + tf32


def _shapes(spec: DetectorSpec, rows: int) -> str:
    if isinstance(spec.encoder, VoxelEncoderSpec):
        tables = [f"{name}:{rows}x{3 if name == 'strided_out' else 27}" for name in spec.encoder.tables]
        return ",".join([f"features:{rows}x{spec.point_inputs}", *tables, f"cells:{rows}"])
    features = f"{rows}x{spec.encoder.max_points}x{spec.point_inputs}"
    return f"features:{features},counts:{rows},cells:{rows}"
