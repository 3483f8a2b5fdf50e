"""What a benchmark found beside latency, as tables: throughput, deadlines, power, accuracy, points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd3d.report.table import DASH, Table, number


def more_tables(record: Mapping[str, Any]) -> list[Table]:
    """Tables of what was measured; those of what was not are left out."""
    made = (
        _throughput(record),
        _deadlines(record),
        _power(record),
        _points(record),
        _layers(record),
        _accuracy(record),
        _versus(record),
    )
    return [table for table in made if table.rows]


def conditions(record: Mapping[str, Any]) -> str:
    """Machine, clocks and memory in one line."""
    machine = record["env"].get("machine", {})
    cpu = record.get("clocks", {}).get("before", {}).get("cpu", {})
    said = [f"{machine.get('cpu')}, {machine.get('cores')} core(s)"]
    if cpu.get("mhz"):
        said.append(f"{cpu['mhz']:.0f} MHz" + (f" of {cpu['mhz_max']:.0f}" if cpu.get("mhz_max") else ""))
    said.append(f"governor {cpu.get('governor') or 'not shown by this machine'}")
    gpu = record.get("clocks", {}).get("before", {}).get("gpu")
    if gpu:
        said.append(f"{gpu['name']} at {gpu['mhz']['sm']} MHz, driver {gpu['driver']}")
    memory = record.get("memory", {})
    if memory.get("process_peak_rss_mb"):
        said.append(f"peak memory {memory['process_peak_rss_mb']:.0f} MB")
    if memory.get("device_peak_mb"):
        said.append(f"device memory {memory['device_peak_mb']:.0f} MB")
    return "; ".join(said) + "."


def _throughput(record: Mapping[str, Any]) -> Table:
    table = Table("throughput, frames per second", ("model", "one in flight", "streaming", "in flight"))
    for model in record["models"]:
        found = model.get("streaming")
        if found:
            table.rows.append(
                (model["name"], number(model["fps"], "{:.1f}"), number(found["fps"], "{:.1f}"), str(found["in_flight"]))
            )
    return table


def _deadlines(record: Mapping[str, Any]) -> Table:
    table = Table("frames at the sensor's rate", ("model", "Hz", "deadline", "p50", "p99", "late", "dropped", "missed"))
    for model in record["models"]:
        found = model.get("periodic")
        if found:
            response = found["response_ms"]
            times = (
                number(value, "{:.1f} ms") for value in (found["deadline_ms"], response.get("p50"), response.get("p99"))
            )
            counts = (str(found["late"]), str(found["dropped"]), number(found["miss_rate"], "{:.1%}"))
            table.rows.append((model["name"], f"{found['rate_hz']:g}", *times, *counts))
    return table


def _power(record: Mapping[str, Any]) -> Table:
    table = Table("power and energy", ("model, phase", "W", "J per frame", "FPS per W", "readings"))
    for model in record["models"]:
        for phase, found in model.get("power", {}).items():
            if found is None:
                table.rows.append((f"{model['name']}, {phase}", DASH, DASH, DASH, "too few"))
                continue
            cells = (number(found["mean_w"], "{:.2f}"), number(found["j_per_frame"], "{:.3f}"))
            table.rows.append(
                (f"{model['name']}, {phase}", *cells, number(found["fps_per_w"], "{:.2f}"), str(found["readings"]))
            )
    return table


def _points(record: Mapping[str, Any]) -> Table:
    table = Table("latency against points, ms", ("model, points", "pillars or voxels", "p50", "p99"))
    for model in record["models"]:
        for entry in model.get("points_sweep", ()):
            times = (number(entry["e2e_ms"].get(key), "{:.2f}") for key in ("p50", "p99"))
            pillars = number(entry["pillars_mean"], "{:,.0f}")
            table.rows.append((f"{model['name']}, {entry['points']:,}", pillars, *times))
    return table


def _layers(record: Mapping[str, Any]) -> Table:
    table = Table("slowest layers", ("layer", "ms", "share"))
    for model in record["models"]:
        of = f"{model['name']}, " if len(record["models"]) > 1 else ""
        for row in model.get("profile", {}).get("slowest", ()):
            share = number(row["percentage"], "{:.1f} %")
            table.rows.append((f"{of}{row['name']}", number(row["medianMs"], "{:.3f}"), share))
    return table


def _accuracy(record: Mapping[str, Any]) -> Table:
    table = Table("accuracy of the same artefacts", ("model", "mAP", "NDS", "frames"))
    for model in record["models"]:
        found = model.get("accuracy")
        if found:
            scores = (number(found.get(key), "{:.4f}") for key in ("mAP", "NDS"))
            table.rows.append((model["name"], *scores, str(found.get("frames", DASH))))
    return table


def _versus(record: Mapping[str, Any]) -> Table:
    table = Table("speed against the first model, frame by frame", ("model", "times as fast", "95 % interval"))
    for row in record.get("comparison", ()):
        low, high = row["paired_ci95"]
        table.rows.append((row["model"], f"{row['paired']:.2f}", f"{low:.2f} to {high:.2f}"))
    return table
