"""``kd3d export trt``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli.console import emit, say
from kd3d.cli.options import CudaBackend, Json, Out


def trt(
    model: Annotated[Path, typer.Option("--model", help="Export folder, or .onnx file, of kd3d export onnx.")],
    out: Out,
    precision: Annotated[str, typer.Option("--precision", help="fp32, fp16 or int8; auto is the graph's.")] = "auto",
    typing: Annotated[str, typer.Option("--typing", help="auto, strong (from the graph) or flags (builder).")] = "auto",
    rtx: Annotated[bool, typer.Option("--rtx", help="Use TensorRT-RTX.")] = False,
    capability: Annotated[
        list[str] | None,
        typer.Option("--capability", help="With --rtx: build without a GPU for SM80, SM86, SM89, SM120."),
    ] = None,
    pillars: Annotated[
        str | None, typer.Option("--pillars", help="Smallest,typical,largest pillar count of the profile.")
    ] = None,
    workspace: Annotated[int | None, typer.Option("--workspace", help="MiB for tactics; free if not given.")] = None,
    timing_cache: Annotated[
        Path | None, typer.Option("--timing-cache", help="Folder of timing caches per version, device and driver.")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Also for newer TensorRT of the same major version.")
    ] = False,
    hardware: Annotated[
        str, typer.Option("--hardware-compatibility", help="none, ampere+ or same-capability.")
    ] = "none",
    tf32: Annotated[bool, typer.Option("--tf32", help="Let fp32 layers compute in TensorFloat-32.")] = False,
    frames: Annotated[
        Path | None,
        typer.Option("--frames", help="Of the engine gate: portable frames, a .bin, or a folder of them."),
    ] = None,
    columns: Annotated[str | None, typer.Option("--columns", help="Columns, where --frames is a .bin.")] = None,
    parity_frames: Annotated[int, typer.Option("--parity-frames", min=1, help="Frames compared.")] = 8,
    cuda_backend: CudaBackend = "auto",
    print_trtexec: Annotated[
        str | None, typer.Option("--print-trtexec", help="Only print the trtexec command for this TensorRT version.")
    ] = None,
    json_line: Json = False,
) -> None:
    """Build a TensorRT engine from an ONNX export, on the device that will run it.

    Its precision is read back, and its boxes are compared with those of the ONNX.
    """
    from kd3d.cli.pipelines import device_backend
    from kd3d.cli.points import chosen_frames
    from kd3d.errors import UsageError
    from kd3d.export.trt import export_trt, read_source
    from kd3d.export.trt_build import BuildSettings
    from kd3d.export.trtexec import trtexec_command
    from kd3d.runtime.engine_file import ENGINE_FILE

    if capability and not rtx:
        raise UsageError("--capability needs --rtx: TensorRT itself builds on the target device only.")
    source = read_source(model)
    wanted = source.precision if precision == "auto" else precision
    if wanted not in ("fp32", "fp16", "int8"):
        raise UsageError(f"--precision must be fp32, fp16, int8 or auto, not {wanted}.")
    settings = BuildSettings(
        precision=wanted,
        graph=source.precision,
        typing=typing,  # type: ignore[arg-type]  # checked by the settings
        pillars=_pillars(pillars, source.spec),
        workspace_mib=workspace,
        tf32=tf32,
        version_compatible=version_compatible,
        hardware=hardware,
        capabilities=tuple(capability or ()),
    )
    if print_trtexec is not None:
        line = trtexec_command(
            source.onnx, out / ENGINE_FILE, settings, spec=source.spec, version=print_trtexec, fixed=source.pillars
        )
        say(line)
        emit({"trtexec": line}, as_json=json_line)
        return
    made = export_trt(
        source,
        out,
        settings,
        runtime="tensorrt_rtx" if rtx else "tensorrt",
        timing_cache=timing_cache,
        frames=chosen_frames(frames, parity_frames, spec=source.spec, columns=columns),
        backend=device_backend(cuda_backend, 0),
    )
    say(f"{made.artifact}: {made.precision} by {made.record['typing']} typing, TensorRT {made.record['version']}")
    for gate in made.record["gates"]:
        if gate["state"] == "skipped":
            say(f"gate {gate['name']} was skipped: {gate['reason']}")
    emit(made.to_json(), as_json=json_line)


def _pillars(text: str | None, spec: Any) -> tuple[int, int, int]:
    """The profile: by default one pillar, half of what the detector keeps, and all of it."""
    from kd3d.errors import UsageError

    most = spec.encoder.rows
    if text is None:
        return 1, max(1, most // 2), most
    try:
        low, usual, high = (int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--pillars takes three numbers such as 1,10000,30000, not {text!r}.") from error
    return low, usual, high
