"""Options and steps about measured latency that `kd3d search`, `kd3d compress` and `kd3d bench` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd3d.cli.console import TerminalProgress, emit, note, say
from kd3d.errors import UsageError

if TYPE_CHECKING:
    from kd3d.cli.pipelines import Running

OptionalData = Annotated[
    Path | None,
    typer.Option("--data", "--data-root", help="A nuScenes, KITTI or Waymo folder; --write-blocks can do without."),
]
BudgetLatency = Annotated[
    str | None,
    typer.Option(
        "--budget-latency",
        help="Predicted latency of the student's network: 20ms, or 50% of the teacher's. Needs --latency-table.",
    ),
]
Table = Annotated[
    Path | None, typer.Option("--latency-table", help="Measured blocks of the device (kd3d bench --make-table).")
]
Runtime = Annotated[
    str | None, typer.Option("--runtime", help="Refuse a --latency-table of another runtime: onnxruntime-cpu, ...")
]
TableDevice = Annotated[
    str | None, typer.Option("--latency-device", help="Refuse a --latency-table of another device: a part of its name.")
]
TablePrecision = Annotated[
    str,
    typer.Option(
        "--latency-precision",
        help="As which students will be exported: written by --write-blocks; a --latency-table of another is refused.",
    ),
]
WriteBlocks = Annotated[
    Path | None,
    typer.Option(
        "--write-blocks", help="Write the space's blocks as ONNX files to this .zip, to be measured elsewhere."
    ),
]
RooflineText = Annotated[
    str | None,
    typer.Option("--roofline", metavar="TFLOPS,GBPS", help="Also list a roofline estimate; it is not a latency."),
]


def open_table(path: Path | None, wanted: tuple[str | None, str | None, str], budget: str | None) -> Any:
    """The latency table, checked, or ``None``.

    Args:
        path: of the table.
        wanted: its runtime, device and precision, as ``check_table`` takes them.
        budget: what ``--budget-latency`` said.

    Raises:
        UsageError: a budget or a check without a table, or a table of another runtime, device or precision.
        DataError: the table is damaged.
    """
    runtime, device, precision = wanted
    if path is None:
        for option, value in (("--budget-latency", budget), ("--runtime", runtime), ("--latency-device", device)):
            if value is not None:
                raise UsageError(
                    f"{option} needs --latency-table FILE. Make one with kd3d search --write-blocks and, on the "
                    "device, kd3d bench --make-table."
                )
        return None
    from kd3d.bench.latency_table import read_table
    from kd3d.compress.search.verify import check_table

    return check_table(read_table(path), runtime=runtime, device=device, precision=precision)


def latency_model(table: Any, stats: Any) -> Any:
    """A ``LatencyModel`` on the data's pillars, or ``None`` without a table."""
    if table is None:
        return None
    from kd3d.compress.search.latency import LatencyModel

    return LatencyModel(table, stats=stats)


def of_frames(table: Any, frames: Any, count: int) -> Any:
    """A ``LatencyModel`` on the pillars of ``count`` of the frames, or ``None`` without a table."""
    if table is None:
        return None
    from kd3d.compress.search.stats import StatsTable

    return latency_model(table, StatsTable(frames, count))


def verified(model: Any, spec: Any, *, graph: bytes | None = None) -> dict[str, Any]:
    """Predict and, where the device is here, measure; told to the reader. JSON values."""
    from kd3d.compress.search.verify import verify

    found = verify(model, spec, graph=graph)
    told = f"latency of {spec.name}: predicted {found.predicted_ms:.3g} ms"
    if found.measured_ms is not None and found.error is not None:
        told += f", measured {found.measured_ms:.3g} ms (prediction {found.error:+.1%})"
    say(f"{told}; {found.table}")
    if found.interpolated:
        say(f"interpolated between measured widths: {', '.join(found.interpolated)}")
    if found.note:
        say(f"note: {found.note}")
    return found.to_json()


def parse_roofline(text: str | None) -> Any:
    """The device's ceilings, or ``None``."""
    if text is None:
        return None
    from kd3d.compress.search.roofline import parse_roofline as parse

    return parse(text)


def of_the_best(model: Any, found: Any, record: dict[str, Any], ceiling: Any) -> dict[str, Any]:
    """What `kd3d search` adds: ``latency`` of its best student, and ``roofline_ms`` of every candidate."""
    by_name = {candidate.spec.name: candidate for candidate in found}
    best = by_name[record["best"]["name"]]
    added: dict[str, Any] = {}
    if model is not None:
        added["latency"] = verified(model, best.spec)
    if ceiling is not None:
        for row in record["candidates"]:
            row["roofline_ms"] = ceiling.estimate_ms(by_name[row["name"]].cost)
        estimate = ceiling.estimate_ms(best.cost)
        added["roofline_ms"] = estimate
        say(
            f"roofline estimate of {best.spec.name}: {estimate:.3g} ms at {ceiling.tflops:g} TFLOPS, {ceiling.gbps:g} "
            f"GB/s and {ceiling.bits} bits. Nothing was measured; expect more."
        )
    return added


def of_the_student(model: Any, student: Any, out: Path) -> dict[str, Any]:
    """What `kd3d compress` adds: ``latency`` of the student that it made, from its exported network."""
    if model is None:
        return {}
    import tempfile

    from kd3d.export.graph import write_graph
    from kd3d.runs.atomic import write_json

    with tempfile.TemporaryDirectory(prefix="kd3d-latency-") as folder:
        path = Path(folder) / "student.onnx"
        write_graph(student.module, student.spec, path, opset=20, pillars=None, weights_sha256="")
        found = verified(model, student.spec, graph=path.read_bytes())
    write_json(out / "latency.json", found)
    return {"latency": found}


def write_blocks(path: Path, model: Any, space: Any, stats: Any | None, *, of: tuple[str, str], as_json: bool) -> None:
    """`kd3d search --write-blocks`; ``of`` is --latency-precision and --precision: nothing is trained here."""
    from kd3d.compress.search.stats import PillarStats
    from kd3d.compress.search.write_blocks import write_blocks as write

    if stats is None:
        note(
            f"no --data: the encoder's blocks are for {model.spec.pillar_encoder.max_pillars} pillars per frame, the "
            "most that the detector keeps. With --data they are for what the data's frames hold."
        )
        stats = PillarStats.full
    precision = next((one for one in of if one != "fp32"), "fp32")
    with TerminalProgress().phase("blocks") as step:
        written = write(path, model.spec, space, stats=stats, precision=precision, progress=step)
    say(
        f"{written.path}: {written.blocks} blocks of {written.families} families and {written.networks} whole "
        f"networks in {written.precision}, {written.bytes / 1e6:.1f} MB"
    )
    say(f"measure them on the device: kd3d bench --make-table {written.path.name} --out table.json")
    emit(written.to_json(), as_json=as_json)


def _measured(blocks: Path, out: Path, how: Running, *, runtime: str, precision: str | None, progress: Any) -> Any:
    from kd3d.bench import make_table as measuring
    from kd3d.bench.block_file import BlockFile
    from kd3d.bench.block_timers import EngineTimer
    from kd3d.cli.pipelines import device_backend

    engine = runtime in ("tensorrt", "tensorrt_rtx")
    if engine and how.device == "cpu":
        raise UsageError(f"--runtime {runtime} measures on a GPU only. Leave --device cpu out.")
    provider = None if engine else measuring.provider_of(runtime, "cpu" if how.device == "auto" else how.device)
    with BlockFile(blocks) as file:
        graphs = file.precision
    wanted = precision or graphs
    if provider is None:
        backend = device_backend(how.cuda_backend, how.index)
        with EngineTimer(backend, precision=wanted, graphs=graphs, runtime=runtime) as engines:
            return measuring.make_table(blocks, out, engines=engines, progress=progress)
    if wanted != graphs:
        raise UsageError(
            f"{blocks}: holds {graphs} graphs, which ONNX Runtime cannot measure as {wanted}. Write them with: "
            f"kd3d search --write-blocks {blocks.name} --latency-precision {wanted}"
        )
    return measuring.make_table(blocks, out, provider=provider, threads=how.threads or None, progress=progress)


def make_table(
    blocks: Path, out: Path | None, how: Running, *, runtime: str, precision: str | None, as_json: bool
) -> None:
    """`kd3d bench --make-table`."""
    if out is None:
        raise UsageError("--make-table needs --out FILE.json for the table.")
    with TerminalProgress().phase("table") as step:
        table = _measured(blocks, out, how, runtime=runtime, precision=precision, progress=step)
    say(f"{out}: {len(table.entries)} blocks and {len(table.networks)} whole networks; {table.title}")
    noisy = table.noisy()
    if noisy:
        say(
            f"warning: rounds differ by more than 10 % in {len(noisy)} of "
            f"{len({entry.family for entry in table.entries.values()})} families (first: {noisy[0]}). "
            "Close other programs, let the machine settle, and measure again."
        )
    emit(
        {
            "table": str(out),
            "device": table.device,
            "runtime": table.runtime,
            "version": table.version,
            "precision": table.precision,
            "threads": table.threads,
            "blocks": len(table.entries),
            "networks": len(table.networks),
            "overhead_ms": table.overhead_ms,
            "noisy": noisy,
        },
        as_json=as_json,
    )
