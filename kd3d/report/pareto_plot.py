"""The scatter of a search as a picture, for slides and pages that cannot hold the interactive one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd3d.optional import require
from kd3d.report.pareto_page import axes_of, default_axes
from kd3d.report.search_record import Point, SearchRecord, front
from kd3d.runs.atomic import atomic_file

LOOKS: dict[str, dict[str, Any]] = {
    "untrained": {"marker": "o", "facecolors": "none", "edgecolors": "#7a8490", "linewidths": 0.8},
    "failed": {"marker": "x", "c": "#b3261e"},
    "pruned": {"marker": "D", "facecolors": "none", "edgecolors": "#b45f06"},
    "running": {"marker": "^", "facecolors": "none", "edgecolors": "#7b3fb5"},
    "trained": {"marker": "o", "c": "#0b6bcb"},
}
UNITS = {"macs": (1e9, "G"), "macs_thop": (1e9, "G"), "params": (1e6, "M"), "acts": (1e6, "M"), "latency_ms": (1, "ms")}
DENSE = 150  # from so many points on, they are drawn smaller


def draw_pareto(record: SearchRecord, out: Path) -> tuple[Path, Path]:
    """Write ``pareto.png`` and ``pareto.svg`` into ``out``; the same search gives the same bytes of SVG.

    Raises:
        BackendError: matplotlib is not installed.
        OutputError: ``out`` is not writable.
    """
    require("matplotlib", extra="plot")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    _panel(figure.subplots(), record)
    paths = (Path(out) / "pareto.png", Path(out) / "pareto.svg")
    with matplotlib.rc_context({"svg.hashsalt": "kd3d", "svg.fonttype": "none"}):
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            with atomic_file(path) as temporary:
                figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)
    return paths


def _panel(panel: Any, record: SearchRecord) -> None:
    x, y = default_axes(record)
    size, unit = UNITS[x]
    held = [point for point in record.candidates if getattr(point, x) is not None and getattr(point, y) is not None]
    for state, look in LOOKS.items():
        group = [point for point in held if point.state == state]
        if group:
            area = 12 if len(held) > DENSE and state != "trained" else 34
            places = [[getattr(point, key) / scale for point in group] for key, scale in ((x, size), (y, 1))]
            panel.scatter(*places, s=area, label=f"{state} ({len(group)})", zorder=3, **look)
    best = front(tuple(held), x, y)
    steps = [getattr(point, x) / size for point in best], [getattr(point, y) for point in best]
    panel.plot(*steps, drawstyle="steps-post", color="#0b6bcb", linewidth=1.4, alpha=0.75, label="front", zorder=2)
    for limit in record.limits:
        if limit.axis == x:
            panel.axvline(limit.value / size, color="#a3195b", linestyle="--", label=f"budget {_plain(limit.text)}")
    if record.teacher is not None:
        _teacher(panel, record.teacher, (x, y))
    for point in held:
        if point.name == record.chosen:
            panel.scatter(
                [getattr(point, x) / size],
                [getattr(point, y)],
                s=190,
                facecolors="none",
                edgecolors="#a3195b",
                linewidths=1.8,
                label="chosen",
                zorder=4,
            )
    if len(held) < len(record.candidates):
        panel.plot([], [], " ", label=f"without {axes_of(record)[y]}: {len(record.candidates) - len(held)}")
    panel.set_xlabel(f"{axes_of(record)[x]}, {unit}")
    panel.set_ylabel(axes_of(record)[y])
    panel.grid(alpha=0.3)
    # Beside the axes: students fill the plot, and no corner of it is sure to be empty.
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize=9, frameon=False)


def _teacher(panel: Any, teacher: Point, axes: tuple[str, str]) -> None:
    size, unit = UNITS[axes[0]]
    price = getattr(teacher, axes[0])
    where = "" if price is None else f", {price / size:.3g} {unit}"
    if axes[1] == "score" and teacher.score is not None:
        panel.axhline(
            teacher.score, color="#1b7f4b", linestyle=":", linewidth=1.8, label=f"teacher {teacher.score:.3f}{where}"
        )
    elif price is not None:
        panel.plot([], [], " ", label=f"teacher{where}")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")
