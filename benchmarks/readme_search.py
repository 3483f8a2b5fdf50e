"""The sections of docs/results.md on the search: its cost model, its latency model, and whether it earns its keep."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from comparing import verdict

from kd3d.report.table import Table

Record = Mapping[str, Any]


def cost_speed(record: Record) -> list[str]:
    """Time per costed student."""
    table = Table("", ("teacher", "students", "seconds", "microseconds each"))
    for item in record["teachers"]:
        cells = f"{record['candidates']:,}", f"{item['seconds']:.1f}", f"{item['microseconds_each']:.0f}"
        table.rows.append((item["teacher"], *cells))
    return [table.markdown(), "Random students, made and costed from the specification, one core."]


def latency_prediction(record: Record) -> list[str]:
    """How far predictions are off, per teacher."""
    heads = ("teacher", "students", "median error", "largest", "rank correlation", "that of MACs")
    table = Table("", heads)
    for name, item in record["teachers"].items():
        errors = (f"{100 * item[key]:.1f} %" for key in ("error_median", "error_max"))
        ranks = (f"{item[key]:.3f}" for key in ("rank_correlation", "rank_correlation_of_macs"))
        table.rows.append((name, str(len(item["students"])), *errors, *ranks))
    settings = record["settings"]
    clock = "processor time" if settings["cpu_clock"] else "wall time"
    said = (
        "Students with 15 to 60 % of the teacher's MACs and widths that the table does not know, predicted from "
        f"measured blocks and then measured: ONNX Runtime on the {settings['provider'].upper()}, "
        f"{settings['threads'] or 'all'} thread(s), {clock}, seed {settings['seed']}."
    )
    return [said, table.markdown()]


def search_gain(record: Record) -> list[str]:
    """Arms by seed, and the two comparisons."""
    table = Table("", ("arm", "seed", "students", "steps", "mAP"))
    for arm in ("searched", "uniform", "random"):
        for seed in sorted({item["seed"] for item in record["rows"]}):
            found = [row for row in record["rows"] if row["seed"] == seed and row["name"].partition("-")[0] == arm]
            if found:
                score, steps = mean(row["mAP"][-1] for row in found), round(mean(row["steps"] for row in found))
                table.rows.append((arm, str(seed), str(len(found)), str(steps), f"{score:.2f}"))
    teacher = record.get("of", "the shipped teacher")
    said = (
        f"{100 * record['budget']:g} % of the MACs of {teacher} within {record['range_m']:g} m (mAP "
        f"{record['teacher']['mAP']:.2f}, counted within {record['max_range_m']:g} m). Per seed all "
        "arms have the same training cost in MACs; the search pays for its trials and their scoring out of it, so its "
        "winner is taught for fewer steps. `random`: the mean of students drawn from the search's axes; `uniform`: all "
        f"widths narrowed alike. Channels are kept by the rule `{record.get('inherit', 'l1')}`."
    )
    compared = (
        ("the mean of the random ones", record["searched_over_random_mean"]),
        ("uniform widths", record["searched_over_uniform"]),
    )
    told = [_compared(other, found) for other, found in compared if found["differences"]]
    return [said, table.markdown(), *told, *_tau(record["kendall_tau"])]


def study(record: Record) -> list[str]:
    """Students of one teacher that shrink along one axis each."""
    table = Table("", ("axis", "MACs", "distilled, by seed", "mean", "without the teacher", "CPR"))
    left_out = set()
    for row in record["students"]:
        if not row["kd"]:
            left_out.add(f"{row['axis']} ({100 * row['macs_share']:.0f} %)" if row["kd"] is None else row["axis"])
            continue
        found = [100 * scores[-1] for scores in row["kd"].values()]
        alone = [100 * scores[-1] for scores in row["control"].values()]
        cells = (", ".join(f"{one:.1f}" for one in found), f"{mean(found):.1f}")
        control = f"{mean(alone):.1f} ({len(alone)} seed{'s' if len(alone) > 1 else ''})" if alone else ""
        table.rows.append((row["axis"], f"{100 * row['macs_share']:.1f} %", *cells, control, f"{row['cpr']:.2f}"))
    where = f" within {record['range_m']:g} m" if record["range_m"] else ""
    said = (
        f"mAP of students of the shipped teacher ({100 * record['teacher']['mAP']:.2f}{where}) that shrink along one "
        f"axis each; they inherit, and are distilled for {record['steps']} steps. `without the teacher`: as long, from "
        f"scratch, on the labels alone. CPR: {record['cpr'].partition(':')[0]}, recollected, not verified."
    )
    reach = [f"No smaller student along: {', '.join(sorted(left_out))}."] if left_out else []
    return [said, table.markdown(), *reach, "![accuracy against MACs](images/study_width_depth_resolution.png)"]


def _compared(other: str, found: Record) -> str:
    differences = ", ".join(f"{value:+.2f}" for value in found["differences"])
    said = f"Searched less {other}, mAP points by seed: {differences}."
    if found["beats"] is None:
        return f"{said} Too few seeds to judge."
    gains = ", ".join(f"{value:+.2f}" for value in found["control_gain_last_quarter"])
    return (
        f"{said} Mean {found['mean']:+.2f}, standard error {found['standard_error']:.2f}; the other side gained "
        f"{gains} in its last quarter. Beats: {verdict(found)}."
    )


def _tau(found: Record) -> list[str]:
    if not found["candidates"]:
        return []
    parts = [f"{value['all']:+.2f} after {steps} steps" for steps, value in found.items() if steps != "candidates"]
    return [
        f"Kendall's tau between the score of a short training on held-out scenes and the fully taught mAP, over "
        f"{found['candidates']} random students: {', '.join(parts)}."
    ]
