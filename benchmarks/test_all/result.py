"""The record of a run: what passed, what was refused, what failed and how to see it again."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from items import Item
from ledger import Ledger

from kd3d.runs import environment


def summary(ledger: Ledger, wanted: dict[str, list[Item]], *, seed: int) -> dict[str, Any]:
    """Counts per part, every failure and refusal, and on which commits the items ran."""
    entries = [ledger.entries[item.part, item.name] for items in wanted.values() for item in items
               if (item.part, item.name) in ledger.entries]  # fmt: skip
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seed": seed,
        "seconds": round(sum(entry.seconds for entry in entries)),
        "commits": dict(Counter(entry.commit for entry in entries)),
        "parts": {name: _part(ledger, name, items) for name, items in wanted.items()},
        "failures": [
            {"part": one.part, "item": one.item, "command": one.command, "problem": one.problem[:600]}
            for one in entries
            if one.outcome == "failed"
        ],
        "refusals": [
            {"part": one.part, "item": one.item, "reason": one.detail.get("reason", "")}
            for one in entries
            if one.outcome == "refused"
        ],
        "environment": environment.record(),
    }


def _part(ledger: Ledger, name: str, items: list[Item]) -> dict[str, Any]:
    found = [ledger.entries[name, item.name] for item in items if (name, item.name) in ledger.entries]
    outcomes = Counter(entry.outcome for entry in found)
    counts = {outcome: outcomes[outcome] for outcome in ("passed", "refused", "failed")}
    about: dict[str, Any] = {**counts, "left": len(items) - len(found), "seconds": round(sum(e.seconds for e in found))}
    if name == "mutations":
        codes: Counter[str] = Counter()
        for entry in found:
            codes.update(entry.detail.get("codes", {}))
        about |= {"inputs": sum(codes.values()), "codes": dict(sorted(codes.items()))}
    if name == "kills":
        about["ways"] = dict(Counter(str(entry.detail.get("way")) for entry in found))
    return about
