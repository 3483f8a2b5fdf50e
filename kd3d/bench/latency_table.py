"""Latency tables: what the building blocks of a search space cost on one device with one runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kd3d.errors import DataError
from kd3d.runs.atomic import read_json, write_json
from kd3d.runs.environment import machine

SCHEMA = "kd3d.latency_table/1"


@dataclass(frozen=True)
class Entry:
    """A measured graph.

    Args:
        family: what it has in common with blocks that differ in width only: ``level 128x128 stride 2 further 3``.
        kind: ``encoder``, ``level``, ``up`` or ``head``.
        macs: multiply-accumulates per run.
        macs_padded: the same with channels rounded up to whole vector registers.
        elements: activations read and written per run.
        p50_ms: median of the medians of the rounds.
        p90_ms: of all samples.
        spread: (slowest - fastest round) / ``p50_ms``.
        samples: how many.
    """

    family: str
    kind: str
    macs: int
    macs_padded: int
    elements: int
    p50_ms: float
    p90_ms: float
    spread: float
    samples: int


@dataclass(frozen=True)
class MeasuredNetwork:
    """A whole network that was measured, so that sums of blocks can be corrected.

    Args:
        spec: its ``DetectorSpec`` as JSON values.
        pillars: rows it was fed.
        p50_ms, p90_ms, spread, samples: as in ``Entry``.
    """

    spec: Mapping[str, Any]
    pillars: int
    p50_ms: float
    p90_ms: float
    spread: float
    samples: int


@dataclass(frozen=True)
class LatencyTable:
    """All that one device said.

    Args:
        device: such as ``NVIDIA Jetson AGX Orin``; see ``device_name``.
        runtime: such as ``onnxruntime-cpu``.
        precision: of weights and arithmetic, such as ``fp32``.
        entries: measured blocks by hash.
        overhead_ms: of a call that computes nothing; every entry and every network contains it once.
        environment: ``kd3d.runs.environment.record()`` of the device.
        version: of the runtime.
        threads: within an operator; ``None`` was the runtime's choice.
        networks: measured whole networks.
        pillars: rows per frame by grid, as the blocks were written for.
    """

    device: str
    runtime: str
    precision: str
    entries: Mapping[str, Entry]
    overhead_ms: float
    environment: Mapping[str, Any]
    version: str = ""
    threads: int | None = None
    networks: tuple[MeasuredNetwork, ...] = ()
    pillars: Mapping[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Device, runtime and precision in one line."""
        threads = f", {self.threads} thread(s)" if self.threads else ""
        return f"{self.device}, {self.runtime} {self.version}, {self.precision}{threads}"

    def noisy(self, limit: float = 0.1) -> list[str]:
        """Families with a block whose rounds differ by more than ``limit``."""
        return sorted({entry.family for entry in self.entries.values() if entry.spread > limit})


def device_name(runtime: str) -> str:
    """This machine as a latency table names it: board, or processor with its cores; the card where CUDA computes."""
    found = machine()
    if runtime.endswith("-cuda"):
        return str(found["gpus"][0]).split(",")[0] if found["gpus"] else "unknown CUDA device"
    try:
        board = Path("/proc/device-tree/model").read_bytes().decode(errors="replace").strip("\0 \n")
    except OSError:
        board = ""
    return f"{board or found['cpu']}, {found['cores']} core(s)"


def write_table(table: LatencyTable, path: Path) -> None:
    """Write ``table`` as JSON, atomically."""
    write_json(Path(path), {"schema": SCHEMA, **asdict(table)})


def read_table(path: Path) -> LatencyTable:
    """Read a table.

    Raises:
        DataError: the file is missing, is no latency table, is of another version, or holds values that make no sense.
    """
    value = read_json(path)
    schema = value.get("schema") if isinstance(value, dict) else None
    if not isinstance(schema, str) or not schema.startswith("kd3d.latency_table/"):
        raise DataError(f"{path}: not a latency table. Make one with: kd3d bench --make-table BLOCKS.zip --out {path}")
    if schema != SCHEMA:
        raise DataError(
            f"{path}: a latency table of version {schema.rsplit('/', 1)[1]}, but this kd3d reads version "
            f"{SCHEMA.rsplit('/', 1)[1]}. Write the blocks and measure them again with this version."
        )
    try:
        return _table(value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: the latency table is damaged ({error!r}). Restore it or measure again.") from error


def _table(value: dict[str, Any]) -> LatencyTable:
    known = {one.name for one in fields(LatencyTable)}
    given = {name: item for name, item in value.items() if name in known}
    given["entries"] = {key: Entry(**item) for key, item in value["entries"].items()}
    given["networks"] = tuple(MeasuredNetwork(**item) for item in value["networks"])
    given["pillars"] = {str(key): int(rows) for key, rows in value["pillars"].items()}
    for item in (*given["entries"].values(), *given["networks"]):
        _check_types(item)
    table = LatencyTable(**given)
    for name in ("device", "runtime", "precision"):
        if not isinstance(getattr(table, name), str):
            raise TypeError(f"{name} is {getattr(table, name)!r}")
    times = [item.p50_ms for item in table.entries.values()] + [item.p50_ms for item in table.networks]
    if not table.entries or not all(0 < time < 1e7 for time in times) or not 0 <= table.overhead_ms < 1e7:
        raise ValueError("no entries, or a latency that is not a positive number")
    return table


def _check_types(item: Entry | MeasuredNetwork) -> None:
    """A dataclass takes anything; sums and products of it do not."""
    for one in fields(item):
        value = getattr(item, one.name)
        if one.type == "str":
            right = isinstance(value, str)
        elif one.type in ("int", "float"):
            right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e18
        else:
            right = isinstance(value, dict)
        if not right:
            raise TypeError(f"{one.name} is {value!r}")
