"""Tables: on a terminal by rich, in files as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DASH = "-"


@dataclass
class Table:
    """Rows of text under column names; the first column is left-aligned, the others right."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def markdown(self) -> str:
        """The table as GitHub Markdown, without its title."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in [self.columns, rule, *self.rows])


def show(table: Table) -> None:
    """Print ``table`` on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    rich = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for index, column in enumerate(table.columns):
        rich.add_column(column, justify="right" if index else "left", no_wrap=index > 0)
    for row in table.rows:
        rich.add_row(*row)
    width = None if sys.stdout.isatty() else 120
    Console(file=sys.stdout, width=width, highlight=False, markup=False).print(rich)


COMPARED: tuple[tuple[str, str, str, float], ...] = (
    ("mAP", "mAP", "{:.3f}", 1),
    ("NDS", "NDS", "{:.3f}", 1),
    ("MACs", "macs", "{:.3f} G", 1e-9),
    ("parameters", "params", "{:,.0f}", 1),
    ("size", "size_mb", "{:.2f} MB", 1),
    ("latency p50", "latency_ms_p50", "{:.1f} ms", 1),
    ("latency p99", "latency_ms_p99", "{:.1f} ms", 1),
    ("FPS", "fps", "{:.1f}", 1),
)

MEAN_ERRORS = {"trans_err": "mATE", "scale_err": "mASE", "orient_err": "mAOE", "vel_err": "mAVE", "attr_err": "mAAE"}


def comparison(title: str, models: Mapping[str, Mapping[str, Any]]) -> Table:
    """Models beside each other: accuracy, cost, size and speed.

    Args:
        title: above the table.
        models: per name the keys ``mAP, NDS, macs, params, size_mb, latency_ms_p50, latency_ms_p99, fps``; a missing
            one is shown as a dash, never guessed, and one that no model has is left out.
    """
    held = [entry for entry in COMPARED if any(entry[1] in values for values in models.values())]
    table = Table(title, ("model", *(name for name, *_ in held)))
    for name, values in models.items():
        cells = [number(values.get(key), form, scale) for _, key, form, scale in held]
        table.rows.append((name, *cells))
    return table


def number(value: Any, form: str, scale: float = 1) -> str:
    """A number in its form, or a dash where there is none."""
    if value is None or value != value:  # noqa: PLR0124  NaN is not equal to itself
        return DASH
    return form.format(value * scale)


def bench_table(record: Mapping[str, Any]) -> Table:
    """Latency per model in milliseconds: end to end, and the median of each stage; models may have different ones."""
    stages = list(dict.fromkeys(stage for model in record["models"] for stage in model["stages"]))
    table = Table("latency, ms", ("model", "p50", "p90", "p99", "mean", "std", *stages, "FPS"))
    for model in record["models"]:
        e2e = model["e2e_ms"]
        found = [number(e2e.get(name), "{:.2f}") for name in ("p50", "p90", "p99", "mean", "std")]
        medians = [number(model["stages"].get(stage, {}).get("p50"), "{:.2f}") for stage in stages]
        table.rows.append((model["name"], *found, *medians, number(model["fps"], "{:.1f}")))
    return table


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """``mAP`` and ``NDS``, the average precision of each class, and nuScenes' mean errors of true positives."""
    table = Table("metrics", ("", "value"))
    for name in ("mAP", "NDS"):
        table.rows.append((name, number(metrics.get(name), "{:.4f}")))
    for name, value in metrics.get("per_class", {}).items():
        table.rows.append((name, _metric(value)))
    errors = metrics.get("tp_errors", {})
    table.rows += [(title, number(errors[key], "{:.4f}")) for key, title in MEAN_ERRORS.items() if key in errors]
    return table


def kitti_table(extras: Mapping[str, Any]) -> Table:
    """KITTI's average precision in per cent, by class and metric, in three difficulties, with the labels counted.

    Args:
        extras: ``ap_r40[metric][class][difficulty]`` in 0..1 and ``objects[class][difficulty]``.
    """
    levels = ("easy", "moderate", "hard")
    table = Table("AP R40, % (labels)", ("class, metric", *levels))
    for name, counts in extras["objects"].items():
        for metric, title in (("bev", "BEV"), ("3d", "3D")):
            values = extras["ap_r40"][metric][name]
            cells = [f"{number(values[level], '{:.1f}', 100)} ({counts[level]})" for level in levels]
            table.rows.append((f"{name}, {title}", *cells))
    return table


def waymo_table(extras: Mapping[str, Any]) -> Table:
    """Waymo's average precision in per cent, plain and weighted by heading, at both levels, with the labels counted.

    Args:
        extras: ``waymo_ap[class][level]["AP" or "APH"]`` and ``levels[level]["mAP" or "mAPH"]`` in 0..1, and
            ``objects[class][level]``.
    """
    levels = ("LEVEL_1", "LEVEL_2")
    table = Table(
        "3D AP and APH, % (labels)", ("class", *(f"{level} {name}" for level in levels for name in ("AP", "APH")))
    )
    for name, counts in extras["objects"].items():
        cells = []
        for level in levels:
            value = extras["waymo_ap"][name][level]
            cells += [f"{number(value['AP'], '{:.2f}', 100)} ({counts[level]})", number(value["APH"], "{:.2f}", 100)]
        table.rows.append((name, *cells))
    means = [number(extras["levels"][level][name], "{:.2f}", 100) for level in levels for name in ("mAP", "mAPH")]
    table.rows.append(("mean", *means))
    return table


def cost_table(title: str, cost: Any) -> Table:
    """Parameters, MACs and activations of each stage, and their sums."""
    table = Table(title, ("stage", "parameters", "MACs", "MACs (thop)", "activations"))
    for stage in [*cost.stages, cost]:
        name = getattr(stage, "name", "total")
        table.rows.append((name, *(f"{getattr(stage, key):,.0f}" for key in ("params", "macs", "macs_thop", "acts"))))
    return table


def students_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Search candidates, best first; by their prior where none has a score, with latency where it was predicted."""
    by = "score" if any(row.get("score") is not None for row in rows) else "prior"
    timed = any(row.get("latency_ms") is not None for row in rows)
    table = Table(title, ("student", by, "MACs", "parameters", *(["latency"] if timed else [])))
    for row in rows:
        cells = (
            number(row.get(by), "{:.4f}"),
            number(row.get("macs"), "{:.3f} G", 1e-9),
            number(row.get("params"), "{:,.0f}"),
            *([number(row.get("latency_ms"), "{:.2f} ms")] if timed else []),
        )
        table.rows.append((str(row.get("name", DASH)), *cells))
    return table


def _metric(value: Any) -> str:
    if isinstance(value, Mapping):
        return "  ".join(f"{key} {_metric(item)}" for key, item in value.items())
    return number(value, "{:.4f}") if isinstance(value, (int, float)) else str(value)
