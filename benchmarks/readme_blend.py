"""The section of docs/results.md on gradient blending against a swept weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kd3d.report.table import Table

Record = Mapping[str, Any]


def blend_sweep(record: Record) -> list[str]:
    """A line per student and signal: the sweep, and what came of its choice on other seeds."""
    heads = ("student, signal", "sweep, mAP", "chosen weight", "chosen", "blended", "labels alone")
    table = Table("", (*heads, "blended - chosen (SE)", "as good", "time / sweep"))
    for told in record["combinations"]:
        behind, swept = told["over_chosen"], told["sweep_mAP"]
        table.rows.append(
            (
                told["combination"].replace("-", ", `", 1) + "`",
                f"{min(swept):.1f} to {max(swept):.1f}",
                f"{told['chosen_weight']:.3g}",
                *(several(told[f"{name}_mAP"]) for name in ("chosen", "blend", "plain")),
                f"{behind['mean']:+.2f} ({behind['standard_error']:.2f})",
                "yes" if told["as_good"] else "no",
                f"{told['step_time_of_the_sweep']:.3f}",
            )
        )
    below = [told["combination"] for told in record["combinations"] if told["over_plain"]["mean"] < 0]
    setting = record["setting"]
    said = (
        f"The shipped teacher within {setting['range_m']:g} m, {setting['steps']} steps of {setting['batch']} frames, "
        "400 validation frames. Fourteen weights, half a decade apart, are swept with one seed; the best of them, "
        "blending with settings fixed beforehand, and no distillation then run with two other seeds. `as good`: not "
        "lower by more than two standard errors. `time / sweep`: a step of blending beside one of each of the fourteen."
    )
    verdict = (
        f"Blending is as good as the swept weight in {record['as_good']}; its mean is below that of the labels alone "
        f"in {', '.join(below) or 'none'}."
    )
    return [said, table.markdown(), verdict]


def several(values: Sequence[float]) -> str:
    """Scores of the judged seeds."""
    return ", ".join(f"{value:.2f}" for value in values)
