"""``make test-all``: what is too long for every commit, in parts that resume where they were stopped.

    python benchmarks/test_all                        all parts; hours
    python benchmarks/test_all --parts kills,slow     some of them
    python benchmarks/test_all --state FOLDER         where finished items are kept (default: runs/test-all)

Parts: ``kills`` (100 commands killed at random moments), ``mutations`` (10,000 damaged inputs), ``students`` (50 random
students exported), ``presets`` (every preset exported), ``slow`` (the slow tests). Run again after a stop and only what
is not finished, or failed, is run. When all parts are done, the result goes to ``--out``; the exit code is 1 if
anything failed or is missing.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from items import ROOT, Item
from ledger import Ledger, alone
from parts import PARTS
from result import summary

from kd3d.runs.atomic import write_json

RESULT = ROOT / "benchmarks" / "results" / "test_all.json"


def main() -> None:
    """Run what is not finished, and record the result if everything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--state", type=Path, default=ROOT / "runs" / "test-all")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--hours", type=float, default=3.0, help="begin nothing new after this long")
    parser.add_argument("--list", action="store_true", help="only say what would run")
    options = parser.parse_args()
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        raise SystemExit(f"no part is called {', '.join(sorted(unknown))}; they are {', '.join(PARTS)}.")
    for number in (signal.SIGINT, signal.SIGTERM):  # what an item started is ended with it
        signal.signal(number, signal.default_int_handler)
    state = options.state.resolve()
    with alone(state):
        ledger = Ledger(state, {"seed": options.seed})
        chosen = {name: list(PARTS[name](state, options.seed)) for name in options.parts.split(",")}
        todo = [item for items in chosen.values() for item in items if not ledger.finished(item.part, item.name)]
        say(f"{sum(map(len, chosen.values()))} items, {len(todo)} to run; finished ones are in {ledger.path}")
        if options.list:
            print("\n".join(f"{item.part} {item.name}: {item.command}" for item in todo))
            return
        try:
            run(todo, ledger, until=time.monotonic() + 3600 * options.hours)
        except KeyboardInterrupt:
            say("stopped; run this again to go on.")
            raise SystemExit(130) from None
        raise SystemExit(conclude(ledger, chosen, options))


def run(todo: list[Item], ledger: Ledger, *, until: float) -> None:
    """One item after another, each written down when it ends."""
    for place, item in enumerate(todo, 1):
        if time.monotonic() > until:
            say(f"time is up; {len(todo) - place + 1} items are left. Run this again.")
            return
        entry = item.run(commit())
        ledger.write(entry)
        told = f": {' '.join(entry.problem[:600].split())}" if entry.outcome == "failed" else ""
        say(f"[{place}/{len(todo)}] {entry.part} {entry.item}: {entry.outcome}, {entry.seconds:.0f} s{told}")


def conclude(ledger: Ledger, chosen: dict[str, list[Item]], options: argparse.Namespace) -> int:
    """Write the result if all parts were chosen and are done; the exit code."""
    record = summary(ledger, chosen, seed=options.seed)
    failed = sum(part["failed"] for part in record["parts"].values())
    left = sum(part["left"] for part in record["parts"].values())
    for name, part in record["parts"].items():
        say(f"{name}: {part['passed']} passed, {part['refused']} refused, {part['failed']} failed, {part['left']} left")
    for one in record["failures"]:
        say(f"failed: {one['part']} {one['item']}; again with: {one['command']}")
    if left == 0 and set(chosen) == set(PARTS):
        write_json(options.out, record)
        say(f"written: {options.out}")
    return 1 if failed or left else 0


def commit() -> str:
    """Of the working tree, with a mark where files differ from it."""
    told = [["git", "rev-parse", "--short", "HEAD"], ["git", "status", "--porcelain", "-uno"]]
    quiet: Any = {"cwd": ROOT, "capture_output": True, "text": True}
    head, changed = (subprocess.run(one, check=False, **quiet).stdout.strip() for one in told)
    return head + ("+changes" if changed else "")


def say(text: str) -> None:
    """A line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    main()
