"""Measure every block of a ``blocks.zip`` on this machine; a killed run continues where it was."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from kd3d.bench.block_file import BlockFile, Item
from kd3d.bench.block_timers import EngineTimer
from kd3d.bench.latency_table import Entry, LatencyTable, MeasuredNetwork, device_name, write_table
from kd3d.bench.partial import Partial
from kd3d.bench.statistics import percentile
from kd3d.errors import BackendError, DataError, UsageError
from kd3d.runs import environment
from kd3d.runtime.runners import OrtRunner, runtime_version

Clock = Callable[[], int]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Effort:
    """How long each graph is timed.

    Args:
        rounds: passes over all graphs, in alternating order, so that a machine that slows down does so for all.
        warmup_s, warmups: untimed runs of each graph in each round: until the time and the number have passed.
        sample_s: timed runs of each graph in each round: until this much time has passed,
        least, most: but no fewer and no more than this many.
    """

    rounds: int = 3
    warmup_s: float = 0.05
    warmups: int = 2
    sample_s: float = 0.2
    least: int = 5
    most: int = 100

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 1 <= self.least <= self.most or min(self.warmup_s, self.warmups, self.sample_s) < 0:
            raise UsageError(f"rounds and timed runs must be at least 1, and times not negative; got {self}.")


class Timed(Protocol):
    """A graph ready to be run."""

    def __call__(self) -> object:
        """Run it once; returns when the result is ready."""


def make_table(
    blocks: Path,
    out: Path,
    *,
    provider: Literal["cpu", "cuda"] = "cpu",
    threads: int | None = None,
    engines: EngineTimer | None = None,
    effort: Effort | None = None,
    clock_ns: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure with ONNX Runtime, or as TensorRT engines, and write the table to ``out``.

    Finished measurements lie in ``<out>.partial`` until the table is whole; the same request continues from there.

    Args:
        blocks: made by ``kd3d search --write-blocks``.
        out: the table.
        provider: ``cpu`` or ``cuda``.
        threads: within an operator; ``None`` leaves the choice to ONNX Runtime.
        engines: entered; measures instead of ONNX Runtime.
        effort: how long.
        clock_ns: a monotonic clock.
        progress: told graphs timed and graphs in all, over all rounds.

    Raises:
        DataError: ``blocks`` is damaged.
        BackendError: ONNX Runtime or the provider is missing.
        GraphError, PrecisionError: TensorRT cannot build a block so.
        UsageError: ``<out>.partial`` belongs to another request, or the graphs are of another precision than
            ``engines`` are for.
        OutputError: ``out`` cannot be written.
    """
    effort = effort or Effort()
    about = _runtime(provider, threads) if engines is None else engines.about
    with BlockFile(blocks) as file:
        if engines is not None and engines.graphs != file.precision:
            raise UsageError(
                f"{blocks}: holds {file.precision} graphs, and engines of {engines.graphs} ones are asked for."
            )
        request = {**about, "blocks": file.sha256, "effort": asdict(effort)}
        with Partial.open(Path(out), request) as partial:
            for done, (turn, item) in enumerate(_plan(file.items, effort.rounds)):
                if not partial.has(item.key, turn):
                    graph, feeds, whole = file.graph(item), item.feeds(), item.role == "network"
                    if engines is None:
                        taken = time_graph(
                            graph,
                            feeds,
                            provider=provider,
                            threads=threads,
                            effort=effort,
                            whole=whole,
                            clock_ns=clock_ns,
                        )
                    else:
                        taken = time_engine(engines, graph, feeds, effort=effort, whole=whole, clock_ns=clock_ns)
                    partial.add(item.key, turn, taken)
                if progress is not None:
                    progress(done + 1, len(file.items) * effort.rounds)
            table = _table(file, partial, about)
            write_table(table, Path(out))
            partial.remove()
    return table


def time_graph(
    content: bytes,
    feeds: dict[str, Any],
    *,
    provider: Literal["cpu", "cuda"] = "cpu",
    threads: int | None = None,
    effort: Effort | None = None,
    whole: bool = True,
    clock_ns: Clock = time.perf_counter_ns,
) -> list[float]:
    """One round of one graph, in milliseconds per run.

    Args:
        content: the ONNX file.
        feeds: inputs by name.
        provider: as in ``make_table``, like the next two and the clock.
        threads: within an operator.
        effort: how long.
        clock_ns: a monotonic clock.
        whole: a network, timed as it is used: from arrays in host memory to arrays in host memory. A block is timed
            where its neighbours in a network would leave its inputs: on the device.
    """
    with tempfile.TemporaryDirectory(prefix="kd3d-block-") as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(content)
        with OrtRunner(path, provider=provider, threads=threads) as runner:
            run = (lambda: runner.infer(feeds)) if whole else runner.bound(feeds)
            return sample(run, effort or Effort(), clock_ns=clock_ns)


def time_engine(
    engines: EngineTimer, content: bytes, feeds: dict[str, Any], *, effort: Effort, whole: bool, clock_ns: Clock
) -> list[float]:
    """As ``time_graph``, of the graph's engine."""
    with engines.opened(content, feeds) as runner:
        run = (lambda: runner.infer(feeds)) if whole else runner.bound(feeds)
        return sample(run, effort, clock_ns=clock_ns)


def sample(run: Timed, effort: Effort, *, clock_ns: Clock) -> list[float]:
    """Durations of ``run`` in milliseconds after its warm-up; none is left out."""
    began, count = clock_ns(), 0
    while count < effort.warmups or (clock_ns() - began < effort.warmup_s * 1e9 and count < effort.most):
        run()
        count += 1
    times: list[float] = []
    began = clock_ns()
    while len(times) < effort.least or (clock_ns() - began < effort.sample_s * 1e9 and len(times) < effort.most):
        before = clock_ns()
        run()
        times.append((clock_ns() - before) / 1e6)
    return times


def provider_of(runtime: str, device: str) -> Literal["cpu", "cuda"]:
    """The provider of ONNX Runtime that ``--runtime`` and ``--device`` name.

    Raises:
        BackendError: a runtime that tables cannot be made with.
        UsageError: not a device.
    """
    if runtime not in ("onnxruntime", "onnxruntime-cpu", "onnxruntime-cuda"):
        raise BackendError(
            f"latency tables cannot be made with {runtime!r}. Supported are onnxruntime-cpu, onnxruntime-cuda, "
            "tensorrt and tensorrt_rtx."
        )
    wanted = runtime.removeprefix("onnxruntime").removeprefix("-") or ("cuda" if device.startswith("cuda") else device)
    if wanted not in ("cpu", "cuda") or (wanted == "cpu" and device.startswith("cuda")):
        raise UsageError(f"--device {device} does not go with --runtime {runtime}. Use cpu or cuda.")
    return cast(Literal["cpu", "cuda"], wanted)


def _plan(items: tuple[Item, ...], rounds: int) -> list[tuple[int, Item]]:
    return [(turn, item) for turn in range(rounds) for item in (items if turn % 2 == 0 else items[::-1])]


def _runtime(provider: str, threads: int | None) -> dict[str, Any]:
    runtime = f"onnxruntime-{provider}"
    return {"device": device_name(runtime), "runtime": runtime, "version": runtime_version(), "threads": threads}


def summarise(rounds: list[list[float]]) -> dict[str, Any]:
    """``p50_ms``, ``p90_ms``, ``spread``, ``samples`` of the durations of each round.

    The median of the rounds' medians: a disturbance that lasts for one of three rounds leaves no trace.
    """
    medians = [percentile(one, 50) for one in rounds]
    middle = float(np.median(medians))
    pooled = [time for one in rounds for time in one]
    return {
        "p50_ms": middle,
        "p90_ms": percentile(pooled, 90),
        "spread": (max(medians) - min(medians)) / middle if middle > 0 else 0.0,
        "samples": len(pooled),
    }


def _table(file: BlockFile, partial: Partial, about: dict[str, Any]) -> LatencyTable:
    found = {item.key: summarise(partial.rounds(item.key)) for item in file.items}
    try:
        return LatencyTable(
            **{"precision": file.precision, **about},
            entries={item.key: Entry(**item.about, **found[item.key]) for item in file.items if item.role == "block"},
            networks=tuple(
                MeasuredNetwork(**item.about, **found[item.key]) for item in file.items if item.role == "network"
            ),
            overhead_ms=max((found[item.key]["p50_ms"] for item in file.items if item.role == "overhead"), default=0.0),
            environment=environment.record(),
            pillars=file.pillars,
        )
    except TypeError as error:
        raise DataError(f"{file.path}: its index is not one this kd3d understands ({error}).") from error
