"""A search without networks: students of the tiny preset, and a runner that writes down what it was asked to train."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from kd3d.compress.search.budget import Budgets
from kd3d.compress.search.cost import PillarStats
from kd3d.compress.search.settings import SearchSettings
from kd3d.compress.search.space import Space
from kd3d.compress.search.students import find_students
from kd3d.compress.search.worker import SearchTask
from kd3d.detectors.presets import preset
from kd3d.errors import DataError, NonFiniteError

TEACHER = preset("world-centerpoint-pillar-tiny")
SPACE = Space(encoder=(1.0,), backbone=(0.25, 0.5, 0.75, 1.0), neck=(0.5, 1.0), head=(0.5, 1.0), cell=(1.0, 2.0))


def stats(spec):
    return PillarStats(400.0, 2000.0)


STUDENTS = find_students(TEACHER, Budgets.parse(flops="70%"), SPACE, stats=stats)


def accuracy(candidate) -> float:
    """Wide backbones and narrow necks are good: a smooth landscape that a sampler can learn."""
    choice = candidate.choice
    return round(0.2 + 0.5 * choice.backbone - 0.1 * choice.neck + 0.02 * sum(choice.layers) - 0.05 * choice.cell, 6)


@dataclass(frozen=True)
class FakeRunner:
    """Trains nothing.

    Args:
        run: receives ``trained.jsonl``, and the process that hangs in ``hanging``.
        diverges: students whose training fails.
        slow_s: how long each job takes.
        hangs: one whose first training, and that alone, never ends.
        breaks: one whose training meets a damaged frame.
        kills: one whose training takes its process with it.
    """

    run: Path
    diverges: tuple[str, ...] = ()
    slow_s: float = 0.0
    device: str = "cpu"
    hangs: str = ""
    breaks: str = ""
    kills: str = ""

    def __call__(self, candidate, steps, progress=None):
        name = candidate.spec.name
        with (self.run / "trained.jsonl").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps([name, steps, os.getpid()]) + "\n")
        if name in self.diverges:
            raise NonFiniteError(f"the loss of {name} is nan")
        if name == self.breaks:
            raise DataError(f"frame 7 of {name} is damaged. Restore it.")
        if name == self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == self.hangs and not (self.run / "hanging").exists():
            (self.run / "hanging").write_text(str(os.getpid()))
            time.sleep(600)
        time.sleep(self.slow_s)
        return {"mAP": accuracy(candidate) + steps * 1e-5, "NDS": None, "steps": steps}


def trained(run: Path) -> list[tuple[str, int]]:
    """What was trained, in order."""
    path = run / "trained.jsonl"
    if not path.exists():
        return []
    return [tuple(json.loads(line)[:2]) for line in path.read_text().splitlines()]


def task(run: Path, strategy="grid", *, storage=None, request=None, runner=None, **settings) -> SearchTask:
    run.mkdir(parents=True, exist_ok=True)
    asked = SearchSettings(strategy, **{"trials": 8, "rungs": (10, 20, 40), **settings})
    return SearchTask(
        asked,
        tuple(STUDENTS.found),
        runner or FakeRunner(run),
        request or {"search": asked.identity()},
        storage or str(run / "study.journal"),
    )
