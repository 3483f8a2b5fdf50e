"""The section of docs/results.md on a teacher of another framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd3d.report.table import Table, number

Record = Mapping[str, Any]


def imported_teacher(record: Record) -> list[str]:
    """From an OpenPCDet checkpoint to a student, by one command."""
    table = Table("", ("model", "mAP", "NDS", "MACs", "latency p50", "boxes equal to torch's"))
    for name in ("teacher", "student"):
        one = record[name]
        scores = (f"{100 * one[key]:.2f}" for key in ("mAP", "NDS"))
        parity = f"{one['parity']['matched']} of {one['parity']['boxes']}"
        table.rows.append((name, *scores, f"{one['macs'] / 1e9:.3f} G", f"{one['latency_ms_p50']:.1f} ms", parity))
    maps, native, imported = record["maps"], record["native"], record["imported"]
    speedup, share = number(record["speedup_p50"], "{:.2f}"), f"{100 * record['macs_share']:.1f} %"
    said = (
        "The shipped teacher, written as an OpenPCDet checkpoint with its configuration and imported again: mAP "
        f"{100 * imported['mAP']:.2f}, as itself {100 * native['mAP']:.2f}; head maps differ by "
        f"{maps['largest_relative_difference']:.1e} of the largest value at most. Then one command, "
        f"`{record['command']}`, took {record['compress_minutes']:.1f} minutes: the student has {share} of the MACs "
        f"and is {speedup} times as fast. Its training is short: it says that the way is whole, not what a student "
        f"can reach. {record['frames']['validation']} validation frames."
    )
    return [said, table.markdown()]
