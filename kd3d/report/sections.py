"""Sections of a run's page, in HTML; a part that is missing is a line with the command that makes it."""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.errors import DataError
from kd3d.report import birdseye
from kd3d.report.curves import curves
from kd3d.report.frames_of_run import frames_of
from kd3d.report.parts import RunParts, read_object
from kd3d.report.speed import speed
from kd3d.report.table import Table, comparison

MODELS = ("teacher", "student", "control")
VIEWS = 3  # frames in which the models differ most


@dataclass(frozen=True)
class Sections:
    """HTML around the search of a page.

    Args:
        title: of the page: the command that made the run, and its folder.
        before, after: of the search.
        missing: parts that the run does not have, as sentences with a command.
    """

    title: str
    before: str
    after: str
    missing: tuple[str, ...]


def sections(parts: RunParts, metrics: Mapping[str, Any] | None, *, data: str | None = None) -> Sections:
    """All that a run shows beside its search.

    Args:
        parts: of the run.
        metrics: ``metrics.json`` of the run, or ``None``.
        data: where the frames of the bird's-eye views are; otherwise what the run recorded.

    Raises:
        DataError: a file of the run is damaged.
    """
    missing: list[str] = []
    before = [
        _compared(parts, metrics),
        _views(parts, data, missing),
        _speeds(parts, missing),
        _curves(parts, missing),
    ]
    after = [_environment(parts), _commands(parts)]
    if parts.search is None:
        missing.append(f"the search: kd3d search --teacher M --data DIR --budget-flops 25% --out {_quoted(parts.run)}")
    if missing:
        lines = "".join(f"<li>{html.escape(text)}</li>" for text in missing)
        after.append(f'<section id="missing"><h2>Not in this run</h2><ul>{lines}</ul></section>')
    title = f"kd3d {parts.settings.get('command') or 'run'}: {parts.run.resolve().name}"
    return Sections(title, "\n".join(filter(None, before)), "\n".join(filter(None, after)), tuple(missing))


def table_html(table: Table) -> str:
    """A table as a section with its title."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    caption = html.escape(table.title)
    return (
        f'<section class="summary"><h2>{caption}</h2><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{caption}"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def _compared(parts: RunParts, metrics: Mapping[str, Any] | None) -> str:
    file, source = (parts.run / "demo.json", parts.demo) if parts.demo else (parts.run / "metrics.json", metrics or {})
    models = {name: source[name] for name in MODELS if source.get(name)}
    for name, values in models.items():
        if not isinstance(values, dict):
            raise DataError(f"{file}: {name} must be an object. Restore the file or run again.")
    if not models:
        return ""
    try:
        return table_html(comparison("Teacher and student", models))
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: a value is not a number ({error}). Restore the file or run again.") from error


def _views(parts: RunParts, data: str | None, missing: list[str]) -> str:
    if set(parts.boxes) != {"teacher", "student"}:
        missing.append("boxes of teacher and student from above: kd3d compress scores both on a nuScenes split")
        return ""
    if max(path.stat().st_size for path in parts.boxes.values()) > birdseye.LARGEST:
        missing.append("boxes from above: the results files are too large to read here; score fewer frames")
        return ""
    boxes = {name: birdseye.read_boxes(parts.boxes[name]) for name in ("teacher", "student")}
    chosen = dict(birdseye.most_different(boxes, VIEWS))
    frames = frames_of(parts, list(chosen), data=data)
    if not frames:
        missing.append(f"boxes from above: name the data set, kd3d report {_quoted(parts.run)} --data DIR")
        return ""
    drawn = [
        birdseye.view(
            frame,
            {name: found[frame.token] for name, found in boxes.items()},
            number=number,
            differing=chosen[frame.token],
        )
        for number, frame in enumerate(frames)
    ]
    said = (
        f"The {min(VIEWS, len(drawn))} frames in which teacher and student differ most, and one in the middle where "
        f"there are enough; boxes from score {birdseye.SCORE:g}, partners of a class within {birdseye.NEAR_M:g} m, "
        f"{2 * birdseye.REACH_M:g} m across, the line points forward."
    )
    return f'<section id="views"><h2>From above</h2><p class="said">{html.escape(said)}</p>{"".join(drawn)}</section>'


def _speeds(parts: RunParts, missing: list[str]) -> str:
    if not parts.benches:
        out = _quoted(parts.run / "bench")
        missing.append(f"speed: kd3d bench MODEL... --frames FRAMES --out {out}")
        return ""
    tables, charts, said = speed(parts.benches[0])
    if not any(isinstance(one, dict) and one.get("mAP") is not None for one in (parts.demo or {}).values()) and not any(
        table.title.startswith("accuracy") for table in tables
    ):
        missing.append("accuracy of what was timed: kd3d bench ... --data DIR")
    lines = "".join(f'<p class="said">{html.escape(text)}</p>' for text in said)
    inner = "".join(table_html(table) for table in tables)
    return f'<section id="speed"><h2>Speed</h2>{lines}<div class="charts">{"".join(charts)}</div>{inner}</section>'


def _curves(parts: RunParts, missing: list[str]) -> str:
    drawn = curves(parts.trainings)
    if not drawn:
        missing.append("training curves: kd3d distill or kd3d compress writes metrics.jsonl while it trains")
        return ""
    return f'<section id="training"><h2>Training</h2><div class="charts">{"".join(drawn)}</div></section>'


def _environment(parts: RunParts) -> str:
    found = parts.environment
    if not found:
        return ""
    machine = found.get("machine") if isinstance(found.get("machine"), dict) else {}
    packages = found.get("packages") if isinstance(found.get("packages"), dict) else {}
    values = {
        **{key: found.get(key) for key in ("date", "kd3d", "commit", "python", "os")},
        **dict(machine or {}),
        **dict(packages or {}),
    }
    table = Table("Environment", ("", "value"))
    table.rows += [(str(key), _said(value)) for key, value in values.items() if value not in (None, [], "")]
    return f'<div id="environment">{table_html(table)}</div>'


def _commands(parts: RunParts) -> str:
    commands = [parts.environment.get("command")]
    for folder in parts.benches:
        record = read_object(folder / "bench.json") or {}
        commands.append(record.get("command"))
    lines = [shlex.join(map(str, command)) for command in commands if isinstance(command, list) and command]
    if not lines:
        return ""
    shown = "".join(f"<pre>{html.escape(line)}</pre>" for line in dict.fromkeys(lines))
    return f'<section id="commands"><h2>Commands</h2>{shown}</section>'


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
