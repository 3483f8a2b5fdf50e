"""Small charts as inline SVG: lines, histograms, stacked bars. Their colours are classes of the page's style."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
COLOURS = 8  # classes c0 to c7 of page.css
Series = Sequence[tuple[float, float]]


def lines(series: Mapping[str, Series], *, x: str, y: str, label: str) -> str:
    """Lines by name over a common x axis, with a legend below; ``label`` is for readers who do not see it."""
    held = {name: points for name, points in series.items() if points}
    if not held:
        return ""
    xs = [at for points in held.values() for at, _ in points]
    ys = [value for points in held.values() for _, value in points]
    frame = _Frame((min(xs), max(xs)), (min(0.0, *ys), max(ys)))
    drawn = []
    for index, points in enumerate(held.values()):
        if len(points) == 1:
            at, value = frame.place(*points[0])
            drawn.append(f'<circle class="dot c{index % COLOURS}" cx="{at:.1f}" cy="{value:.1f}" r="3"/>')
            continue
        path = " ".join("{:.1f},{:.1f}".format(*frame.place(*point)) for point in points)
        drawn.append(f'<polyline class="line c{index % COLOURS}" points="{path}"/>')
    whole = "x" if all(at == int(at) for at in xs) else ""
    return _figure(frame.axes(x, y, whole=whole) + "".join(drawn), list(held), label)


def histograms(samples: Mapping[str, Sequence[float]], *, x: str, label: str, bins: int = 30) -> str:
    """Distributions over common bins that hold every sample, laid over each other."""
    held = {name: values for name, values in samples.items() if len(values)}
    if not held:
        return ""
    low, high = min(map(min, held.values())), max(map(max, held.values()))
    width = (high - low) / bins or 1.0
    counts = {}
    for name, values in held.items():
        counts[name] = [0] * bins
        for value in values:
            counts[name][min(int((value - low) / width), bins - 1)] += 1
    frame = _Frame((low, low + width * bins), (0.0, float(max(map(max, counts.values())))))
    drawn = []
    for index, found in enumerate(counts.values()):
        for at, count in enumerate(found):
            if count:
                x0, y0 = frame.place(low + at * width, count)
                x1, y1 = frame.place(low + (at + 1) * width, 0)
                size = f'width="{max(x1 - x0 - 0.5, 0.5):.1f}" height="{y1 - y0:.1f}"'
                drawn.append(f'<rect class="bar c{index % COLOURS}" x="{x0:.1f}" y="{y0:.1f}" {size}/>')
    return _figure(frame.axes(x, "frames", whole="y") + "".join(drawn), list(held), label)


def stacked(rows: Mapping[str, Mapping[str, float]], *, unit: str, label: str) -> str:
    """One horizontal bar per row, made of its parts."""
    longest = max((sum(parts.values()) for parts in rows.values()), default=0.0)
    if longest <= 0:
        return ""
    names = list(dict.fromkeys(part for parts in rows.values() for part in parts))
    drawn, top = [], 4.0
    for row, parts in rows.items():
        total = sum(parts.values())
        drawn.append(f'<text class="name" x="0" y="{top + 11:.1f}">{html.escape(short(row))}</text>')
        drawn.append(f'<text class="end" x="{WIDTH}" y="{top + 11:.1f}">{total:.4g} {html.escape(unit)}</text>')
        at = 0.0
        for name, value in parts.items():
            wide = value / longest * WIDTH
            place = f'x="{at:.1f}" y="{top + 17:.1f}" width="{wide:.1f}" height="16"'
            said = html.escape(f"{name} {value:.4g} {unit}")
            drawn.append(f'<rect class="part c{names.index(name) % COLOURS}" {place}><title>{said}</title></rect>')
            at += wide
        top += 44
    return _figure("".join(drawn), names, label, height=top)


def short(name: str, most: int = 34) -> str:
    """A name that fits above a bar; its end says more than its start."""
    return name if len(name) <= most else f"…{name[-most + 1 :]}"


class _Frame:
    """A plot's axes: from values to places."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x = x if x[1] > x[0] else (x[0] - 0.5, x[0] + 0.5)
        self.y = y if y[1] > y[0] else (y[0], y[0] + 1.0)

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def axes(self, x: str, y: str, *, whole: str = "") -> str:
        """Grid, ticks and names; the axes in ``whole`` (``x``, ``y``) count something, so they have no fractions."""
        drawn = []
        for value in ticks(*self.y):
            if "y" in whole and value != int(value):
                continue
            at = self.place(self.x[0], value)[1]
            drawn.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
            drawn.append(f'<text class="end" x="{LEFT - 4}" y="{at + 4:.1f}">{value:g}</text>')
        for value in ticks(*self.x):
            if "x" in whole and value != int(value):
                continue
            at = self.place(value, self.y[0])[0]
            drawn.append(f'<text class="mid" x="{at:.1f}" y="{HEIGHT - BOTTOM + 14}">{value:g}</text>')
        drawn.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
        drawn.append(f'<text class="end" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}">{html.escape(x)}</text>')
        drawn.append(f'<text x="0" y="{HEIGHT - 4}">{html.escape(y)}</text>')
        return "".join(drawn)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most ``most`` + 1 round values within a range."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(by for by in (1, 2, 5, 10) if (high - low) / (step * by) <= most)
    return [
        round(index * step, 12) for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def _figure(drawn: str, names: Sequence[str], label: str, height: float = HEIGHT) -> str:
    keys = "".join(f'<li class="c{index % COLOURS}">{html.escape(name)}</li>' for index, name in enumerate(names))
    return (
        f'<figure class="chart"><svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{html.escape(label)}">'
        f"{drawn}</svg><ul>{keys}</ul><figcaption>{html.escape(label)}</figcaption></figure>"
    )
