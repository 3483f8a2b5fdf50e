"""The sections of docs/results.md on what the teacher's weights and answers bring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comparing import verdict

from kd3d.report.table import Table

Record = Mapping[str, Any]

TAUGHT = {
    "plain": "labels alone",
    "kd": "recipe `sparsekd`",
    "cached": "recipe `sparsekd`, answers cached",
    "crossscale": "recipe `crossscale`",
    "auto": "recipe `auto`",
    "fleet": "recipe `auto`, and scenes without labels",
}


def kd_gain(record: Record) -> list[str]:
    """Three students: what they begin with, and what they are taught."""
    table = Table("", ("student", "MACs", "inherits", "taught", "seeds", "mAP", "mean"))
    rows: dict[str, list[Record]] = {}
    for item in record["rows"]:
        rows.setdefault(item["row"], []).append(item)
    for name, items in rows.items():
        axis, rule, taught = name.split("-")
        found = sorted(items, key=lambda item: item["seed"])
        finals, seeds = [item["mAP"][-1] for item in found], ", ".join(str(item["seed"]) for item in found)
        said = TAUGHT[taught]
        mean = f"{sum(finals) / len(finals):.2f}"
        each = ", ".join(f"{value:.2f}" for value in finals)
        table.rows.append((axis, f"{100 * found[0]['macs_share']:.1f} %", rule, said, seeds, each, mean))
    setting = record["setting"]
    told = (
        f"The shipped teacher within {setting['range_m']:g} m (mAP {record['teacher']['mAP']:.2f}, counted within "
        f"{setting['max_range_m']:g} m), and students that are narrower, shallower or on larger cells; "
        f"{setting['steps']} steps of {setting['batch']} frames for every row, 400 validation frames."
    )
    return [
        told,
        table.markdown(),
        "Paired differences by seed. `of the gap`: the closed part of what is between labels alone and the teacher.",
        pairs(record).markdown(),
    ]


def pairs(record: Record) -> Table:
    """A line per comparison of two rows that has a seed in common; beside labels alone also the part of the gap."""
    heads = ("row", "control", "difference in mAP", "mean", "SE", "of the gap", "control's last gain", "beats")
    table, teacher = Table("", heads), record["teacher"]["mAP"]
    for item in record["compared"]:
        if not item["differences"]:
            continue
        judged, gain = item["beats"] is not None, sum(item["differences"])
        plain = item["control"].endswith("-plain")
        below = [row["mAP"][-1] for row in record["rows"] if (row["row"], row["seed"]) in control_runs(item)]
        cells = (
            ", ".join(f"{value:+.2f}" for value in item["differences"]),
            f"{item['mean']:+.2f}" if judged else "",
            f"{item['standard_error']:.2f}" if judged else "",
            f"{100 * gain / sum(teacher - value for value in below):.0f} %" if plain else "",
            ", ".join(f"{value:.2f}" for value in item["control_gain_last_quarter"]) if judged else "",
            verdict(item),
        )
        table.rows.append((f"`{item['row']}`", f"`{item['control']}`", *cells))
    return table


def control_runs(item: Record) -> set[tuple[str, int]]:
    """The controls' runs of a comparison."""
    return {(item["control"], seed) for seed in item["seeds"]}
