"""``kd3d report``: the page and the pictures of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.errors import DataError
from kd3d.report.pareto_page import page
from kd3d.report.pareto_plot import draw_pareto
from kd3d.report.search_record import SearchRecord, read_metrics, read_search
from kd3d.report.table import Table, comparison
from kd3d.runs.atomic import read_json, write_text
from kd3d.runs.folder import SETTINGS

MODELS = ("teacher", "student", "control")


@dataclass(frozen=True)
class Report:
    """What ``write_report`` wrote.

    Args:
        html: the page.
        png, svg: the scatter as a picture.
        record: what they show.
    """

    html: Path
    png: Path
    svg: Path
    record: SearchRecord


def write_report(run: Path, *, teacher: str | None = None, data: str | None = None) -> Report:
    """Write ``report.html``, ``pareto.png`` and ``pareto.svg`` into the folder of a search or a compress run.

    Args:
        run: the folder; commands on the page name it as it is given here.
        teacher: for those commands; otherwise what the run's ``settings.json`` says.
        data: likewise.

    Raises:
        DataError: the folder holds no search, or a file in it is damaged.
        BackendError: matplotlib is not installed.
        OutputError: the folder is not writable.
    """
    run = Path(run)
    record, metrics = read_search(run), read_metrics(run)
    request = {**_request(run), **{key: value for key, value in (("teacher", teacher), ("data", data)) if value}}
    summary = [] if metrics is None else _summary(run / "metrics.json", metrics)
    text = page(record, run=run, request=request, summary=summary)
    png, svg = draw_pareto(record, run)
    write_text(run / "report.html", text)
    return Report(run / "report.html", png, svg, record)


def _request(run: Path) -> dict[str, Any]:
    path = run / SETTINGS
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: must be an object. Restore the file or run again.")
    return {key: found[key] for key in ("teacher", "data") if isinstance(found.get(key), str)}


def _summary(path: Path, metrics: Mapping[str, Any]) -> list[Table]:
    models = {name: metrics[name] for name in MODELS if metrics.get(name)}
    for name, values in models.items():
        if not isinstance(values, dict):
            raise DataError(f"{path}: {name} must be an object. Restore the file or run again.")
    if not models:
        return []
    try:
        return [comparison("Teacher and student", models)]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: a value is not a number ({error}). Restore the file or run again.") from error
