"""What ``kd3d bench`` does around the measurement: its options, accuracy, the stored baseline, its tables."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd3d.cli.console import TerminalProgress, note, say
from kd3d.errors import GateError, UsageError

if TYPE_CHECKING:
    from kd3d.bench import BenchReport
    from kd3d.bench.energy import PowerSource

SLOWEST = 10  # layers that the report names

Iterations = Annotated[int, typer.Option("--iterations", min=1, help="Timed frames per model, at the least.")]
Duration = Annotated[float, typer.Option("--duration", min=0, help="Timed seconds per model, at the least.")]
Warmup = Annotated[int, typer.Option("--warmup", min=0, help="Untimed frames per model, at the least.")]
WarmupMs = Annotated[float, typer.Option("--warmup-ms", min=0, help="Untimed milliseconds per model, at the least.")]
Percentiles = Annotated[str, typer.Option("--percentiles", help="Comma-separated.")]
Streams = Annotated[
    int, typer.Option("--streams", min=1, help="Frames in flight of the streaming throughput; 1 leaves it out.")
]
Rate = Annotated[
    float | None, typer.Option("--rate", help="Also let frames arrive at this many per second, as a sensor does.")
]
Deadline = Annotated[
    float | None, typer.Option("--deadline-ms", help="Of --rate, from arrival to boxes; default the period.")
]
Sweep = Annotated[
    str | None, typer.Option("--points-sweep", help="Also time frames thinned to these numbers of points: 10000,20000.")
]
Transfers = Annotated[
    bool,
    typer.Option(
        "--include-transfers/--no-include-transfers",
        help="Count copies to the device; without, the network is also timed with its data left there.",
    ),
]
Power = Annotated[bool, typer.Option("--power/--no-power", help="Read power where the machine measures it.")]
Profile = Annotated[
    bool, typer.Option("--profile", help="Also time every layer, in a pass of its own: profile.json in --out.")
]
LockClocks = Annotated[
    bool, typer.Option("--lock-clocks", help="Lock clocks while timing, and give them back; needs root.")
]
Baseline = Annotated[
    Path | None, typer.Option("--baseline", help="A stored bench.json; slower outside its spread ends with code 4.")
]
Labelled = Annotated[
    Path | None, typer.Option("--data", "--data-root", help="Also score the same artefacts on this data set.")
]
SaveBoxes = Annotated[
    Path | None, typer.Option("--save-boxes", help="Of --data: write the official nuScenes results file here.")
]


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Comma-separated numbers.

    Raises:
        UsageError: something else; names the option.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} must be numbers such as 50,90,99, not {text!r}.") from error


def counts(text: str | None, option: str) -> tuple[int, ...]:
    """Comma-separated whole numbers; none without a text.

    Raises:
        UsageError: something else; names the option.
    """
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise UsageError(f"{option} must be whole numbers such as 10000,20000, not {text!r}.") from error


def check_request(
    *, data: Path | None, save_boxes: Path | None, models: Sequence[str], profile: bool = False, out: Path | None = None
) -> None:
    """Refuse options that contradict each other, before anything is loaded.

    Raises:
        UsageError: they do.
    """
    if profile and out is None:
        raise UsageError("--profile writes a file with the time of every layer; give --out too.")
    if save_boxes is None:
        return
    if data is None:
        raise UsageError("--save-boxes writes the boxes of a data set; give --data too.")
    if len(models) > 1:
        raise UsageError(f"--save-boxes writes the boxes of one model, not of {len(models)}. Name one.")
    from kd3d.datasets.open import recognise

    if (kind := recognise(data)) != "nuscenes":
        raise UsageError(f"--save-boxes writes nuScenes results files; this data set is of the kind {kind}.")


def power_source(wanted: bool, device: str) -> PowerSource | None:
    """What measures power here, if anything does."""
    from kd3d.bench.clocks import find_power_source

    return find_power_source(device) if wanted else None


def artefact(path: Path) -> dict[str, Any]:
    """Digest of an exported file, and what its side-car says of its precision and gates."""
    import hashlib

    from kd3d.runs.atomic import read_json
    from kd3d.runtime.autoware import is_autoware
    from kd3d.runtime.engine_file import is_engine, read_engine_file

    folder, file = (path, path / "model.onnx") if path.is_dir() else (path.parent, path)
    found: dict[str, Any] = {}
    if path.is_dir() and is_autoware(path):
        return _autoware(path)
    if is_engine(path):
        record = read_engine_file(path).record
        kept = {key: record.get(key) for key in ("precision", "version")}
        return {"sha256": record["engine"].get("sha256"), **kept}
    if file.is_file():
        found["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    if (folder / "export.json").is_file():
        said = read_json(folder / "export.json")
        if isinstance(said, dict) and said.get("sha256") == found.get("sha256"):
            found.update({key: said.get(key) for key in ("precision", "opset")})
    return found


def _autoware(folder: Path) -> dict[str, Any]:
    """The same of the two networks of Autoware's layout."""
    import hashlib

    from kd3d.runs.atomic import read_json
    from kd3d.runtime.autoware import network_files

    said = read_json(folder / "export.json") if (folder / "export.json").is_file() else {}
    return {
        "layout": "autoware",
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in network_files(folder)},
        **({key: said.get(key) for key in ("precision", "opset")} if isinstance(said, dict) else {}),
    }


def with_accuracy(
    report: BenchReport, pipelines: Mapping[str, Any], *, data: Path, split: str, save_boxes: Path | None
) -> BenchReport:
    """Score the pipelines that were timed on every frame of a data set.

    Raises:
        DataError, UsageError: as ``kd3d eval``.
    """
    from kd3d.cli.pipelines import truncation
    from kd3d.runtime.inputs import dropped_text, unit_of

    found = {}
    for name, pipeline in pipelines.items():
        before = truncation(pipeline)
        with tempfile.TemporaryDirectory(prefix="kd3d-bench-") as scratch:
            found[name] = _score(pipeline, data, split, Path(scratch))
            if save_boxes is not None:
                from kd3d.runs.atomic import write_bytes

                write_bytes(save_boxes, (Path(scratch) / "results.json").read_bytes())
                found[name]["results"] = str(save_boxes)
        lost = {key: count - before[key] for key, count in truncation(pipeline).items()}
        if lost.get("dropped_pillars"):
            note(f"warning: {name}: while it was scored {dropped_text(**lost, unit=unit_of(pipeline.spec))}")
        found[name].update(lost)
    return report.with_accuracy(found)


def with_profiles(
    report: BenchReport, pipelines: Mapping[str, Any], frames: Sequence[Any], *, out: Path, count: int
) -> BenchReport:
    """Time the layers of every model: ``profile.json`` in ``out``, ``profile-2.json`` and so on of further models.

    Raises:
        UsageError: a model's runtime cannot tell.
    """
    from kd3d.bench.profile import profile, profile_json
    from kd3d.runs.atomic import write_json

    found = {}
    for number, (name, pipeline) in enumerate(pipelines.items(), 1):
        rows = profile_json(profile(pipeline, frames, count=count))
        file = "profile.json" if number == 1 else f"profile-{number}.json"
        write_json(out / file, rows)
        slowest = sorted(rows[1:], key=lambda row: -row["timeMs"])[:SLOWEST]
        found[name] = {"file": file, "layers": len(rows) - 1, "runs": rows[0]["count"], "slowest": slowest}
    return report.with_profiles(found)


def _score(pipeline: Any, data: Path, split: str, folder: Path) -> dict[str, Any]:
    from kd3d.cli.console import finite
    from kd3d.datasets.frames import to_frame
    from kd3d.datasets.open import open_dataset
    from kd3d.evaluation.evaluate import evaluate

    if split not in ("train", "val"):
        raise UsageError(f"--split must be train or val, not {split}.")
    dataset = open_dataset(data, split=split, sweeps=pipeline.spec.points.sweeps)  # type: ignore[arg-type]
    with TerminalProgress().phase("evaluate") as step:
        metrics = evaluate(
            lambda sample: pipeline(to_frame(sample)),
            dataset,
            classes=pipeline.spec.head.classes,
            out_dir=folder,
            progress=step,
        ).to_json()
    about = {"data": str(data), "split": split, "frames": len(dataset)}
    return {**about, **finite({key: metrics[key] for key in ("mAP", "NDS", "per_class")})}  # type: ignore[no-any-return]


def open_baseline(path: Path | None, described: Mapping[str, Any], held: Any) -> dict[str, Any] | None:
    """A stored benchmark that this one can be compared with.

    Raises:
        DataError: it is damaged.
        UsageError: it is of another machine, other frames or another runtime.
    """
    if path is None:
        return None
    from kd3d.bench.baseline import check_comparable, read_baseline
    from kd3d.bench.report import frames_digest
    from kd3d.runs.environment import machine

    stored = read_baseline(path)
    check_comparable(stored, described, machine=machine(), digest=frames_digest(held))
    return stored


def refuse_slower(report: BenchReport) -> None:
    """End with a failed gate where a model is slower than its baseline outside the spread.

    Raises:
        GateError: ``baseline``.
    """
    from kd3d.bench.baseline import verdict_line

    found = report.record.get("baseline")
    if found is None:
        return
    for row in found["models"]:
        say(f"baseline: {verdict_line(row)}")
    if not found["ok"]:
        slower = "; ".join(verdict_line(row) for row in found["models"] if row["verdict"] == "slower")
        raise GateError(f"slower than the baseline: {slower}. Look at warnings and clocks first.", gate="baseline")


def show_report(record: Mapping[str, Any], *, synthetic: bool) -> None:
    """Tables and warnings for the reader."""
    from kd3d.report.bench_tables import conditions, more_tables
    from kd3d.report.table import bench_table, show

    if synthetic:
        note("SYNTHETIC FRAMES: random points, not sensor data. These latencies do not predict those on real frames.")
    show(bench_table(record))
    for table in more_tables(record):
        show(table)
    say(conditions(record))
    for warning in record["warnings"]:
        say(f"warning: {warning}")
