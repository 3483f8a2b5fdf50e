"""The items of every part."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from items import ROOT, Item, script
from kill_commands import COMMANDS
from plan import LIMIT_S, STUDENTS
from plan import presets as planned

MUTATIONS_AT_ONCE = 100


def kills(state: Path, seed: int) -> Iterator[Item]:
    """One kill each; the kinds in turns, so that a short run has met them all."""
    base = str(state / "kills")
    for number in range(max(command.kills for command in COMMANDS)):
        for command in COMMANDS:
            if number < command.kills:
                words = (script("kills.py"), command.name, str(number), "--seed", str(seed), "--base", base)
                yield Item("kills", f"{command.name} {number}", words, timeout_s=2400)


def mutations(state: Path, seed: int) -> Iterator[Item]:
    """The inputs of one kind, a hundred at once."""
    from targets import TARGETS

    for target in TARGETS.values():
        for first in range(0, target.count, MUTATIONS_AT_ONCE):
            count = min(MUTATIONS_AT_ONCE, target.count - first)
            words = (
                script("mutations.py"),
                target.name,
                "--seed",
                str(seed),
                "--first",
                str(first),
                "--count",
                str(count),
            )
            yield Item("mutations", f"{target.name} {first}-{first + count - 1}", words, timeout_s=2400)


def students(state: Path, seed: int) -> Iterator[Item]:
    """One random student each."""
    for teacher, count in STUDENTS.items():
        for number in range(count):
            words = (script("students.py"), teacher, str(number), "--seed", str(seed))
            yield Item("students", f"{teacher} {number}", words, timeout_s=1800)


def presets(state: Path, seed: int) -> Iterator[Item]:
    """One preset in one precision each."""
    for name, precision in planned():
        yield Item("presets", f"{name} {precision}", (script("presets.py"), name, precision), LIMIT_S)


def slow(state: Path, seed: int) -> Iterator[Item]:
    """One file of slow tests each."""
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow and not gpu", "tests"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    # A line is `file: count` or `file::test`: that depends on how quiet the project's own settings make pytest.
    found = re.findall(r"^(tests/\S+?\.py)(?:::|: \d)", done.stdout, re.MULTILINE)
    if not found:
        raise SystemExit(f"pytest lists no slow tests: {done.stdout[-300:]}{done.stderr[-300:]}")
    for name in dict.fromkeys(found):
        yield Item("slow", name, ("-m", "pytest", "-q", "-m", "slow and not gpu", name), 5400, json_line=False)


PARTS: dict[str, Callable[[Path, int], Iterator[Item]]] = {
    "kills": kills,
    "mutations": mutations,
    "students": students,
    "presets": presets,
    "slow": slow,
}
