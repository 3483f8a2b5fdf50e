"""The Pareto page of a search: one HTML file that needs nothing else, with an interactive scatter and a table.

Its parts (markup, style, scripts) are files of this package, in ``page/``. What a run folder says is passed as JSON
that cannot end its element, and the scripts show it as text only; a content security policy allows the page's own
style and script by their digests and nothing from outside.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from kd3d.report.search_record import Point, SearchRecord
from kd3d.report.sections import Sections

COSTS = {
    "macs": "MACs",
    "macs_thop": "MACs (thop)",
    "params": "parameters",
    "acts": "activations",
    "latency_ms": "latency, ms",
}
QUALITIES = {"score": "mAP", "prior": "prior (untrained)"}
STATES = ("trained", "running", "pruned", "failed", "untrained")
NEAR = 1.6  # a teacher that costs more than this many times the dearest student would squeeze them together


def page(record: SearchRecord | None, *, run: Path, request: Mapping[str, Any], around: Sections) -> str:
    """The page as text.

    Args:
        record: what was searched; ``None`` where nothing was.
        run: the folder of the search, as the commands on the page name it.
        request: ``teacher`` and ``data`` of the run, as they were given; a missing one becomes a placeholder.
        around: sections before and after the search.
    """
    style, script = _asset("page.css"), _asset("chart.js") + _asset("app.js")
    script = f'"use strict";\n(() => {{\n{script}}})();\n' if record is not None else ""
    parts = {
        "title": html.escape(around.title),
        "facts": html.escape("" if record is None else facts(record)),
        "before": around.before,
        "search": "" if record is None else _asset("search.html"),
        "after": around.after,
        "footer": html.escape("Written by kd3d report." if record is None else _footer(record)),
        "style": style,
        "style_hash": _digest(style),
        "script_hash": _digest(script),
        "scripts": "" if record is None else _scripts(page_data(record, run=run, request=request), script),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("page.html"))


def _scripts(data: Mapping[str, Any], script: str) -> str:
    return f'<script type="application/json" id="data">{_embedded(data)}</script>\n<script>{script}</script>'


def facts(record: SearchRecord) -> str:
    """The search in one line."""
    counts = {state: sum(point.state == state for point in record.candidates) for state in STATES}
    noun = "student" if len(record.candidates) == 1 else "students"
    said = [f"{len(record.candidates):,} {noun} ({', '.join(f'{n:,} {state}' for state, n in counts.items() if n)})"]
    if record.count is not None and record.count > len(record.candidates):
        said[0] += f" of {record.count:,} that fit"
    said += [f"budget {limit.text} of {COSTS[limit.axis].split(',')[0]}" for limit in record.limits]
    if record.teacher is not None:
        said.append(f"teacher {record.teacher.name}")
    if record.strategy is not None:
        said.append(f"strategy {record.strategy}")
    if record.seed is not None:
        said.append(f"seed {record.seed}")
    return "; ".join(said) + "."


def page_data(record: SearchRecord, *, run: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """What the scripts of the page read."""
    axes = axes_of(record)
    x, y = default_axes(record)
    teacher = record.teacher
    dearest = max((getattr(point, x) or 0 for point in record.candidates), default=0)
    given = {name: request.get(name) for name in ("teacher", "data")}
    return {
        "axes": [
            {"key": key, "label": label, "cost": key in COSTS, "quality": key in QUALITIES}
            for key, label in axes.items()
        ],
        "x": x,
        "y": y,
        "states": [state for state in STATES if any(point.state == state for point in record.candidates)],
        "limits": [vars(limit) for limit in record.limits],
        "teacher": None if teacher is None else {key: getattr(teacher, key) for key in ("name", "score", *COSTS)},
        "teacher_in_view": teacher is not None and (getattr(teacher, x) or 0) <= NEAR * dearest,
        "chosen": record.chosen,
        "command": "kd3d distill" + "".join(_option(name, given[name] or name.upper()) for name in given),
        "placeholders": [name.upper() for name, value in given.items() if not value],
        "points": [_point(point, Path(run)) for point in record.candidates],
    }


def axes_of(record: SearchRecord) -> dict[str, str]:
    """Labels of the values that at least one candidate has, costs first."""
    named = {**COSTS, **QUALITIES, "steps": "steps"}
    if record.convention == "physical":
        named["macs"] = "MACs (physical)"
    return {
        key: label
        for key, label in named.items()
        if any(getattr(point, key) is not None for point in record.candidates)
    }


def default_axes(record: SearchRecord) -> tuple[str, str]:
    """The MACs that a budget binds, against mAP where something was trained."""
    axes = axes_of(record)
    x = "macs_thop" if record.convention == "thop" and "macs_thop" in axes else "macs"
    return x, "score" if "score" in axes else "prior"


def _point(point: Point, run: Path) -> dict[str, Any]:
    shown = {key: getattr(point, key) for key in ("name", "state", "score", "steps", "prior", *COSTS)}
    choice = [[name, _words(value)] for name, value in (point.choice or {}).items()]
    if point.spec is None:
        return {**shown, "choice": choice, "command": None}
    folder = re.sub(r"[^\w.+-]+", "_", point.name)
    command = _option("student", point.spec) + _option("out", run / "students" / folder)
    return {**shown, "choice": choice, "command": command}


def _option(name: str, value: object) -> str:
    return f" \\\n  --{name} {shlex.quote(str(value))}"


def _words(value: Any) -> str:
    return ", ".join(map(_words, value)) if isinstance(value, list) else str(value)


def _footer(record: SearchRecord) -> str:
    meant = "physical" if record.convention == "physical" else "thop, as in the SparseKD tables"
    said = f"One MAC is one multiply-accumulate; budgets on MACs use the {meant} count."
    if any(point.score is not None for point in record.candidates):
        said += " mAP of a student is that after the steps named beside it, on the frames the search scored it on."
    return f"{said} Written by kd3d report."


def _asset(name: str) -> str:
    return files("kd3d.report").joinpath("page", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _embedded(value: Any) -> str:
    # "<" cannot occur, so neither can "</script>" or "<!--".
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
