"""The picture of the width, depth and resolution study: accuracy against MACs, one line per axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from kd3d.errors import DataError
from kd3d.optional import require
from kd3d.runs.atomic import atomic_file

LOOKS = {"width": ("#0b6bcb", "o"), "depth": ("#b45f06", "s"), "resolution": ("#1b7f4b", "^")}
POINTS = 100  # mAP is drawn in points


def draw_study(record: Mapping[str, Any], out: Path) -> Path:
    """Draw a record of ``benchmarks/study_width_depth_resolution.py`` as a PNG.

    Filled marks and solid lines are distilled students, hollow ones and dotted lines their controls; bars are two
    standard errors over the seeds.

    Raises:
        DataError: no training is in the record.
        BackendError: matplotlib is not installed.
        OutputError: ``out`` cannot be written.
    """
    require("matplotlib", extra="plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not any(row.get(arm) for row in record["students"] for arm in ("kd", "control")):
        raise DataError(
            "the study has no finished training to draw. Run benchmarks/study_width_depth_resolution.py run."
        )
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for axis in LOOKS:
        for arm in ("kd", "control"):
            _line(panel, [row for row in record["students"] if row["axis"] == axis and row.get(arm)], axis, arm)
    teacher = POINTS * record["teacher"]["mAP"]
    panel.axhline(teacher, color="#5b6570", linestyle=":", label=f"teacher, {teacher:.1f} at 100 %")
    panel.set_xlabel("MACs, % of the teacher's")
    panel.set_ylabel(f"mAP after {record['steps']} steps")
    panel.grid(alpha=0.3)
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize=9, frameon=False)
    with atomic_file(Path(out)) as temporary:
        figure.savefig(temporary, format="png")
    return Path(out)


def _line(panel: Any, rows: list[Mapping[str, Any]], axis: str, arm: str) -> None:
    if not rows:
        return
    colour, marker = LOOKS[axis]
    rows = sorted(rows, key=lambda row: row["macs_share"])
    finals = [[POINTS * scores[-1] for scores in row[arm].values()] for row in rows]
    errors = [2 * stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0 for values in finals]
    taught = arm == "kd"
    panel.errorbar(
        [100 * row["macs_share"] for row in rows],
        [mean(values) for values in finals],
        yerr=errors,
        color=colour,
        marker=marker,
        markerfacecolor=colour if taught else "none",
        linestyle="-" if taught else ":",
        capsize=3,
        label=axis if taught else f"{axis}, without the teacher",
    )
