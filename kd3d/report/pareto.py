"""``kd3d report``: the page and the pictures of a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kd3d.report.pareto_page import page
from kd3d.report.pareto_plot import draw_pareto
from kd3d.report.parts import RunParts, find_parts
from kd3d.report.search_record import SearchRecord, read_metrics, read_search
from kd3d.report.sections import sections
from kd3d.runs.atomic import write_text


@dataclass(frozen=True)
class Report:
    """What ``write_report`` wrote.

    Args:
        html: the page.
        png, svg: the scatter as a picture; ``None`` where nothing was searched.
        record: the search they show, likewise.
        missing: parts that the run does not have, each with the command that makes it.
    """

    html: Path
    png: Path | None
    svg: Path | None
    record: SearchRecord | None
    missing: tuple[str, ...] = ()


def write_report(run: Path, *, teacher: str | None = None, data: str | None = None) -> Report:
    """Write ``report.html`` into a run's folder, and for a search ``pareto.png`` and ``pareto.svg``.

    Args:
        run: of compress, demo, search, distill, train or bench; commands on the page name it as it is given here.
        teacher: for those commands; otherwise what the run's ``settings.json`` says.
        data: likewise; the frames seen from above are read from it.

    Raises:
        DataError: the folder holds nothing to show, or a file in it is damaged.
        BackendError: matplotlib is not installed.
        OutputError: the folder is not writable.
    """
    run = Path(run)
    parts = find_parts(run)
    searched = parts.search or run
    record = read_search(searched) if parts.search is not None or parts.empty else None
    around = sections(parts, read_metrics(run), data=data)
    text = page(record, run=searched, request=_request(parts, teacher, data), around=around)
    png, svg = draw_pareto(record, run) if record is not None else (None, None)
    write_text(run / "report.html", text)
    return Report(run / "report.html", png, svg, record, around.missing)


def _request(parts: RunParts, teacher: str | None, data: str | None) -> dict[str, str]:
    given = {"teacher": teacher, "data": data}
    recorded = {key: parts.settings.get(key) for key in given}
    found = {key: given[key] or recorded[key] for key in given}
    return {key: value for key, value in found.items() if isinstance(value, str)}
