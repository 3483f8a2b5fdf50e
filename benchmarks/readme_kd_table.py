"""The section of docs/results.md on every distillation method beside its controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd3d.report.table import MEAN_ERRORS, Table

Record = Mapping[str, Any]


def kd_table(record: Record) -> list[str]:
    """A line per row: accuracy with spread, errors, time, and the paired difference to the student that inherits."""
    errors = {
        key: name for key, name in MEAN_ERRORS.items() if any(key in line["tp_errors"] for line in record["rows"])
    }
    heads = ("row", "seeds", "mAP", "sd", "NDS", *errors.values(), "ms/step", "over `inherit`, by seed", "mean", "SE")
    table = Table("", heads)
    for line in record["rows"]:
        ahead = line["versus"]["inherit"]
        beside = line["row"] != "inherit"
        judged = beside and ahead["beats"] is not None
        table.rows.append(
            (
                f"`{line['row']}`",
                ", ".join(str(seed) for seed in line["seeds"]),
                f"{100 * line['mAP']['mean']:.2f}",
                "" if line["mAP"]["sd"] is None else f"{100 * line['mAP']['sd']:.2f}",
                f"{100 * line['NDS']['mean']:.2f}",
                *(f"{line['tp_errors'][key]['mean']:.3f}" if key in line["tp_errors"] else "" for key in errors),
                f"{1000 * line['step_s']['mean']:.0f}",
                ", ".join(f"{value:+.2f}" for value in ahead["differences"]) if beside else "",
                f"{ahead['mean']:+.2f}" if judged else "",
                f"{ahead['standard_error']:.2f}" if judged else "",
            )
        )
    said = (
        f"Student `{record['student']}`, {record['steps']} steps, {record['worlds']['validation_frames']} validation "
        f"frames; teacher mAP {100 * record['teacher']['mAP']:.2f}. `control` starts from nothing and learns from the "
        "labels alone, `inherit` starts from the teacher's weights; every other row also inherits, and hears the "
        "teacher through one signal at its default weight, or through a recipe. Data, order, augmentation, steps and "
        "schedule are equal within a seed. Whether the controls have converged was not looked at, so no row is called "
        "better by our rule."
    )
    return [said, table.markdown(), "![mAP by row](images/kd_table.png)"]
