"""Search by training: students within the budgets, scored by short distillation, the best of them trained on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.compress.data import CompressData
from kd3d.compress.distilling import DistillSettings, fingerprint, measured, plain
from kd3d.compress.search.halving import next_todo, standings
from kd3d.compress.search.holdout import hold_out
from kd3d.compress.search.processes import run_workers
from kd3d.compress.search.record import Trial, best_of, trials_of, write_search
from kd3d.compress.search.settings import SearchSettings
from kd3d.compress.search.students import Students
from kd3d.compress.search.study import Board, Job
from kd3d.compress.search.trial import TrialRunner, brief
from kd3d.compress.search.worker import SearchTask, Worker
from kd3d.compress.stages import Progress, StageUpdate, silent
from kd3d.detectors.checkpoint import Model
from kd3d.errors import NonFiniteError
from kd3d.training.result import TrainUpdate

JOURNAL = "study.journal"
_ENDED = ("complete", "failed")


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Args:
        best: the most accurate student at the last rung.
        trials: all that were tried, in the order in which they were begun.
        record: as in ``search.json``.
    """

    best: Trial
    trials: list[Trial]
    record: dict[str, Any]


def optimise(
    teacher: Model,
    data: CompressData,
    students: Students,
    *,
    settings: SearchSettings,
    distill: DistillSettings,
    run: Path,
    device: str = "cpu",
    progress: Progress = silent,
) -> SearchResult:
    """Find the best of ``students`` by training some of them shortly.

    Trials are trained on a part of the training scenes and scored on the rest; validation frames are never read. The
    same seed gives the same result with one worker, killed and resumed or not (``grid`` and ``random``: with any
    number). Other processes that call it with the same arguments, storage and a shared ``run`` work along.

    Args:
        teacher: left unchanged.
        data: its training frames count.
        students: to choose from.
        settings: of the search.
        distill: how a student is taught; its steps are replaced by the rungs.
        run: receives ``trials/``, ``trials.jsonl``, ``candidates/``, ``importance.json``, ``search.json``.
        device: such as ``cpu`` or ``cuda``.
        progress: told how far it is.

    Raises:
        UsageError: the study was begun with another request.
        BackendError: Optuna is missing, the storage went away, or all workers died; what was finished is kept.
        DataError: too few frames, or a damaged study.
        NonFiniteError: every training diverged.
        KeyboardInterrupt: Ctrl-C; calling again goes on.
    """
    held = hold_out(data)
    short = brief(distill, settings.rungs[-1], settings.rungs[0])
    known = measured(teacher, distill, data=held.data, device=device, run=run)
    runner = TrialRunner(teacher, held.data, short, run, device, known)
    request = {
        "teacher": fingerprint(teacher),
        "budgets": plain(students.budgets),
        "space": plain(students.space),
        "search": settings.identity(),
        "distill": short.identity(),
        "data": held.data.identity(),
    }
    storage = settings.storage or str(run / JOURNAL)
    latency = students.teacher_latency_ms is not None
    task = SearchTask(settings, tuple(students.found), runner, request, storage, latency)
    watcher = _Watcher(task, task.board(), students, progress)
    progress(StageUpdate("search", 0, watcher.planned, note=held.note))
    watcher.begin()
    if settings.workers == 1:
        Worker(task, watcher.board, watcher.told).work()
    else:
        run_workers(task, settings.workers, watch=watcher.look, note=watcher.say)
    return watcher.result()


class _Watcher:
    """Tells and writes how a search goes."""

    def __init__(self, task: SearchTask, board: Board, students: Students, progress: Progress) -> None:
        self.task, self.board, self.students, self.progress = task, board, students, progress
        self.total = min(task.settings.trials, len(students.found))
        self.planned = task.settings.planned_steps(self.total)
        self._jobs: list[Job] = []
        self._told: set[tuple[str, int]] = set()
        self._first, self._began = -1, time.monotonic()

    def begin(self) -> None:
        """Tell what was done before, and write it."""
        self._jobs = self.board.jobs()
        before = [job for job in self._jobs if job.state in _ENDED]
        self._told.update((job.name, job.rung) for job in before)
        if before:
            self.say(f"{len(before)} trainings ({self.spent} steps) were finished before; going on")
        self._tell(self.spent)
        self.write()

    def told(self, job: Job, update: TrainUpdate | None) -> None:
        """A worker in this process took a step, or ended a job."""
        if update is None:
            self.look()
            return
        rungs = self.task.settings.rungs
        before = rungs[job.rung - 1] if job.rung else 0
        self._tell(self.spent + update.step - before)

    def look(self) -> bool:
        """Read the study, tell and write what is new; whether the search is done."""
        self._jobs = self.board.jobs()
        new = [job for job in self._jobs if job.state in _ENDED and (job.name, job.rung) not in self._told]
        for job in sorted(new, key=lambda job: job.number):
            self._told.add((job.name, job.rung))
            self.say(self._news(job))
        if new:
            self.write()
        self._tell(self.spent)
        return next_todo(standings(self._jobs), self.total, self.task.settings, self.task.ranking).kind == "done"

    def say(self, note: str) -> None:
        """One line."""
        self.progress(StageUpdate("search", min(self.spent, self.planned), self.planned, self._eta(self.spent), note))

    def write(self, *, ended: bool = False) -> tuple[list[Trial], dict[str, Any]]:
        """Bring the files of the run up to date."""
        self._jobs = self._jobs or self.board.jobs()
        trials = trials_of(standings(self._jobs), self.students.found, self.task.settings, ended=ended)
        best = best_of(trials)
        about = self._about() | {"chosen": best.candidate.spec.name if best and ended else None}
        return trials, write_search(self.task.runner.run, self.students.found, trials, about=about)

    def result(self) -> SearchResult:
        """The end of the search.

        Raises:
            NonFiniteError: no student could be trained.
        """
        self._jobs = self.board.jobs()
        trials, record = self.write(ended=True)
        best = best_of(trials)
        if best is None:
            raise NonFiniteError(
                f"none of the {len(trials)} students could be trained; the first: {trials[0].reason}. Use a lower --lr."
            )
        return SearchResult(best, trials, record)

    @property
    def spent(self) -> int:
        """Training steps of all finished jobs."""
        settings = self.task.settings
        return sum(settings.steps_to(job.rung) for job in self._jobs if job.state == "complete")

    def _about(self) -> dict[str, Any]:
        runner, settings = self.task.runner, self.task.settings
        about = self.students.about(runner.teacher.spec.name)
        return {
            **about,
            "teacher": {**about["teacher"], "mAP": runner.score_teacher()["mAP"]},
            "strategy": settings.strategy,
            "seed": settings.seed,
            "rungs": list(settings.rungs),
            "eta": settings.eta,
            "steps_spent": self.spent,
            "scored_on": "held-out training frames",
        }

    def _news(self, job: Job) -> str:
        begun = {student.name: number for number, student in enumerate(standings(self._jobs))}
        where = f"trial {begun[job.name] + 1}/{self.total} {self._short(job.name)}"
        if job.values is None:
            return f"{where}: failed ({job.reason})"
        trials = trials_of(standings(self._jobs), self.students.found, self.task.settings, ended=False)
        best = best_of(trials)
        assert best is not None
        steps = self.task.settings.rungs[job.rung]
        found = f"{self._short(best.candidate.spec.name)} {best.score:.4f}"
        return f"{where}: mAP {job.values[0]:.4f} after {steps} steps; best so far {found}"

    def _short(self, name: str) -> str:
        """A student's name without its teacher's."""
        return name.removeprefix(f"{self.task.runner.teacher.spec.name}-")

    def _tell(self, done: int) -> None:
        self.progress(StageUpdate("search", min(done, self.planned), self.planned, self._eta(done)))

    def _eta(self, done: int) -> float | None:
        if self._first < 0:
            self._first = done
        if done <= self._first:
            return None
        return (time.monotonic() - self._began) / (done - self._first) * max(0, self.planned - done)
