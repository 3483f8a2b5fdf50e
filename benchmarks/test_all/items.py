"""An item is a command of its own: it ends with a JSON object on its last line, and is killed when its time is up."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger import OUTCOMES, Entry

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
_SHOWN = 1500  # characters of a failed command that are kept


@dataclass(frozen=True)
class Item:
    """One thing to run.

    Args:
        part: of the run.
        name: unique in its part.
        arguments: of Python; relative to the repository's root.
        timeout_s: it failed if it takes longer.
        json_line: whether it ends with a JSON object; otherwise its exit code alone counts.
    """

    part: str
    name: str
    arguments: tuple[str, ...]
    timeout_s: float
    json_line: bool = True

    @property
    def command(self) -> str:
        """That repeats it, from the repository's root."""
        return shlex.join(["python", *self.arguments])

    def run(self, commit: str) -> Entry:
        """Run it to its end, or until its time is up."""
        began = time.monotonic()
        code, out, err = _run([sys.executable, *self.arguments], self.timeout_s)
        outcome, detail, problem = "passed", {}, ""
        lines = out.strip().splitlines()
        try:
            detail = dict(json.loads(lines[-1])) if self.json_line else {}
            outcome = str(detail.pop("outcome", "passed"))
            problem = str(detail.pop("problem", ""))
        except (ValueError, TypeError, IndexError):
            outcome = "failed"
        if code is None:
            outcome, problem = "failed", f"took longer than {self.timeout_s:.0f} s"
        elif code or outcome not in OUTCOMES:
            outcome = "failed"
        if outcome == "failed" and not problem:
            problem = f"ended with code {code}: {(out + err)[-_SHOWN:]}"
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        seconds = round(time.monotonic() - began, 1)
        return Entry(self.part, self.name, outcome, seconds, now, commit, self.command, detail, problem)


def script(name: str) -> str:
    """The path of one of these scripts, relative to the root."""
    return str((HERE / name).relative_to(ROOT))


def _run(command: Sequence[str], timeout_s: float) -> tuple[int | None, str, str]:
    """Exit code (``None`` where time was up), standard output and error; what it started is ended with it."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(_paths())}
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout_s)
        return process.returncode, out, err
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        return None, out, err
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _paths() -> list[str]:
    return [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
