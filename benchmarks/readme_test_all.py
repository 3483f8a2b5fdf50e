"""The section of docs/results.md on ``make test-all``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd3d.report.table import Table

WHAT = {
    "kills": "commands killed at a random moment and given again",
    "mutations": "groups of damaged inputs",
    "students": "random students exported in fp32 and fp16",
    "presets": "exports of presets through every gate",
    "slow": "files of slow tests",
}


def test_all(record: Mapping[str, Any]) -> list[str]:
    """What passed in each part, and what did not."""
    table = Table("", ("part", "what", "passed", "refused", "failed", "minutes"))
    for name, part in record["parts"].items():
        counts = [f"{part[key]:,}" for key in ("passed", "refused", "failed")]
        table.rows.append((name, WHAT.get(name, name), *counts, f"{part['seconds'] / 60:.0f}"))
    inputs = record["parts"].get("mutations", {})
    codes = inputs.get("codes", {})
    read = codes.get("0", 0)
    said = (
        f"Of {inputs.get('inputs', 0):,} damaged inputs {read:,} were read as something sane, the others refused with "
        f"an error of their own. Seed {record['seed']}; every item has a command that repeats it alone."
    )
    failures = [f"Failed: {one['part']} {one['item']} (`{one['command']}`)." for one in record["failures"]]
    return [table.markdown(), said, *failures]
