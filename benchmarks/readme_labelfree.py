"""The section of docs/results.md on frames without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd3d.report.table import Table

Record = Mapping[str, Any]

TOLD = {
    "control-part": "the part's labels",
    "control-all": "all labels",
    "auto": "`auto`, the teacher's boxes as labels elsewhere",
    "ssad": "`ssad`, its soft labels elsewhere",
    "dense": "the same, all cells and frames alike",
    "part-only": "`ssad` on the part alone",
    "labelfree": "`labelfree`, no label read",
    "full-teacher": "`ssad`, by a teacher of all labels",
}


def labelfree_gain(record: Record) -> list[str]:
    """Part of the labels, all of them, and what the teacher makes of the rest."""
    settings, frames = record["settings"], record["labelled_frames"]
    table = Table("", ("student", "seeds", "mAP", "spread (sd)", "NDS", "of the gap"))
    for line in record["rows"]:
        score, spread = line["mAP"], line["mAP"]["sd"]
        share = (line["gap"] or {}).get("recovered")
        table.rows.append(
            (
                TOLD[line["row"]],
                ", ".join(str(seed) for seed in line["seeds"]),
                f"{100 * score['mean']:.2f}",
                "" if spread is None else f"{100 * spread:.2f}",
                f"{100 * line['NDS']['mean']:.2f}",
                "" if share is None or line["row"].startswith("control") else f"{100 * share:.0f} %",
            )
        )
    teachers = ", ".join(
        f"{100 * found['mAP']:.2f} mAP with {'all labels' if labels == 'all' else 'those of the part'}"
        for labels, found in record["teachers"].items()
    )
    where = "" if record["range_m"] is None else f" within {record['range_m']:g} m"
    said = (
        f"`{settings['student']}`{where} from scratch, {settings['steps']} steps of {settings['batch_size']} frames; "
        f"{settings['labelled']} of {settings['scenes']} scenes labelled: {frames['part']} of {frames['all']} frames. "
        f"The teacher, `{settings['teacher']}`, {settings['teacher_steps']} steps: {teachers}. "
        f"{record['worlds']['validation'][2]} validation scenes. `of the gap`: "
        "between the first two rows, over the seeds of the row."
    )
    return [said, table.markdown()]
