"""Whether a latency table is the right one, and whether its prediction of the chosen student is true. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from kd3d.bench.block_file import Item
from kd3d.bench.latency_table import LatencyTable, device_name
from kd3d.bench.make_table import Effort, summarise, time_graph
from kd3d.compress.search.block_graphs import network_graph, network_inputs
from kd3d.compress.search.half_blocks import lowered
from kd3d.compress.search.latency import LatencyModel
from kd3d.errors import BackendError, UsageError
from kd3d.runtime.runners import runtime_version
from kd3d.spec import DetectorSpec

PRECISION = "fp32"  # of what `kd3d export onnx` writes unless it is told otherwise


@dataclass(frozen=True)
class Verification:
    """A prediction and, where the device is here, the measurement.

    Args:
        predicted_ms: p50 of the network.
        measured_ms: the same, measured; ``None`` where it could not be.
        error: predicted / measured - 1, or ``None``.
        table: what was predicted: device, runtime, precision.
        interpolated: families of blocks that were not measured at the student's widths.
        note: why nothing was measured, or what may spoil the comparison; else empty.
    """

    predicted_ms: float
    measured_ms: float | None
    error: float | None
    table: str
    interpolated: tuple[str, ...]
    note: str

    def to_json(self) -> dict[str, Any]:
        """The stable keys ``predicted_ms``, ``measured_ms``, ``error`` and the rest."""
        return {**vars(self), "interpolated": list(self.interpolated)}


def check_table(
    table: LatencyTable, *, runtime: str | None = None, device: str | None = None, precision: str = PRECISION
) -> LatencyTable:
    """``table``, if it is of the runtime and device that are wanted, and of the precision that the student will have.

    Args:
        table: to check.
        runtime: such as ``onnxruntime-cpu``; ``None`` takes any.
        device: a part of the device's name, in any case; ``None`` takes any.
        precision: such as ``fp16``.

    Raises:
        UsageError: it is of another; says which.
    """
    again = "Give that device's own table, or make one there: kd3d bench --make-table."
    if runtime is not None and table.runtime != runtime:
        raise UsageError(f"the latency table is of the runtime {table.runtime}, not {runtime}. {again}")
    if device is not None and device.lower() not in table.device.lower():
        raise UsageError(f"the latency table is of the device {table.device!r}, not {device!r}. {again}")
    if table.precision != precision:
        raise UsageError(
            f"the latency table is of precision {table.precision}, but students are {precision}. {again} "
            f"A student that will be exported as {table.precision}: --latency-precision {table.precision}."
        )
    return table


def verify(
    model: LatencyModel, spec: DetectorSpec, *, graph: bytes | None = None, effort: Effort | None = None
) -> Verification:
    """Predict ``spec`` and, where the table's device is this machine, measure it as the table was measured.

    Args:
        model: of the table.
        spec: the student.
        graph: its ONNX file; without, a graph with the same nodes and constant weights.
        effort: of the measurement.
    """
    table, found = model.table, model.explain(spec)
    measured, note = None, _elsewhere(table)
    if not note:
        try:
            measured = _measure(model, spec, graph, effort or Effort())
            if runtime_version() != table.version:
                note = f"the table is of version {table.version} of its runtime, this machine has {runtime_version()}"
        except BackendError as missing:
            note = f"not measured: {missing}"
    error = None if measured is None else found.ms / measured - 1
    return Verification(found.ms, measured, error, table.title, found.interpolated, note)


def _elsewhere(table: LatencyTable) -> str:
    if not table.runtime.startswith("onnxruntime-"):
        return f"not measured: students are measured with ONNX Runtime only, and the table is of {table.runtime}"
    here = device_name(table.runtime)
    return "" if here == table.device else f"not measured: the table is of {table.device}, this machine is {here}"


def _measure(model: LatencyModel, spec: DetectorSpec, graph: bytes | None, effort: Effort) -> float:
    table = model.table
    provider = cast(Literal["cpu", "cuda"], table.runtime.removeprefix("onnxruntime-"))
    inputs = tuple(network_inputs(spec, model.pillars(spec)))
    feeds = Item("", "network", "", "", inputs, {}).feeds()
    content = lowered(network_graph(spec) if graph is None else graph, "network", table.precision)
    rounds = [
        time_graph(content, feeds, provider=provider, threads=table.threads, effort=effort)
        for _ in range(effort.rounds)
    ]
    return float(summarise(rounds)["p50_ms"])
