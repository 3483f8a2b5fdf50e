"""One worker of a search: takes work from the board until there is none, and gives signs of life meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kd3d.compress.search.grid import Candidate
from kd3d.compress.search.halving import Ranking, by_front, by_score, next_todo, standings
from kd3d.compress.search.owner import Owner
from kd3d.compress.search.sampler import Sampler
from kd3d.compress.search.settings import SearchSettings
from kd3d.compress.search.storage import StudyStorage
from kd3d.compress.search.study import Board, Job
from kd3d.compress.search.trial import TrialRunner
from kd3d.errors import BackendError, Kd3dError, NonFiniteError
from kd3d.training.result import TrainUpdate

POLL_S = 1.0
BEAT_S = 30.0


@dataclass(frozen=True)
class SearchTask:
    """All that a worker needs; it can be sent to another process.

    Args:
        settings: of the search.
        found: the students that fit, best prior first.
        runner: trains one.
        request: what the study is asked for.
        storage: path or URL.
        latency: whether latency is an objective of the front.
    """

    settings: SearchSettings
    found: tuple[Candidate, ...]
    runner: TrialRunner
    request: dict[str, Any]
    storage: str
    latency: bool = False

    @property
    def directions(self) -> list[str]:
        """Of the objectives: mAP, and for a front MACs and, where it is predicted, latency."""
        if self.settings.strategy != "nsga2":
            return ["maximize"]
        return ["maximize", "minimize", *(["minimize"] if self.latency else [])]

    @property
    def ranking(self) -> Ranking:
        """Who goes on: the most accurate, or the best fronts."""
        return by_front if self.settings.strategy == "nsga2" else by_score

    def values(self, candidate: Candidate, score: float) -> list[float]:
        """The objectives of a student."""
        costs = [float(candidate.cost.macs), float(candidate.latency_ms or 0.0)]
        return [score, *costs][: len(self.directions)]

    def board(self) -> Board:
        """Open the study.

        Raises:
            UsageError, DataError, BackendError, OutputError: as ``StudyStorage`` and ``Board``.
        """
        name, stale_s = self.settings.study_name, self.settings.stale_s
        return Board(
            StudyStorage(self.storage), name, directions=self.directions, request=self.request, stale_s=stale_s
        )


JobUpdate = Callable[[Job, TrainUpdate | None], None]
"""Told after every step of a training, and (without an update) when a job has ended."""


class Worker:
    """See the module.

    Args:
        task: of the search.
        board: the study.
        told: how far it is.
    """

    def __init__(self, task: SearchTask, board: Board, told: JobUpdate) -> None:
        self.task, self.board, self.told = task, board, told
        self.sampler = Sampler(task.found, task.settings, task.directions)
        self._candidates = {candidate.spec.name: candidate for candidate in task.found}

    def work(self) -> None:
        """Work until the search is done.

        Raises:
            Kd3dError: whatever ends a search; what this worker had begun is free for others.
            KeyboardInterrupt: likewise.
        """
        with Owner() as owner:
            while True:
                students = standings(self.board.jobs())
                todo = next_todo(students, self.sampler.total, self.task.settings, self.task.ranking)
                if todo.kind == "done":
                    return
                if todo.kind == "wait":
                    time.sleep(POLL_S)
                    continue
                if todo.kind == "new":
                    candidate, attrs = self.sampler.propose(students)
                    job = self._claim(owner, candidate.spec.name, 0, attrs)
                else:
                    job = self._claim(owner, todo.name, todo.rung, {})
                if job is not None:
                    self._train(job)

    def _claim(self, owner: Owner, name: str, rung: int, sampled: dict[str, Any]) -> Job | None:
        candidate = self._candidates[name]
        attrs = {"sampler": sampled, "choice": vars(candidate.choice), "macs": candidate.cost.macs}
        return self.board.claim(owner, name, rung, params=self.sampler.params(name), attrs=attrs)

    def _train(self, job: Job) -> None:
        candidate, settings = self._candidates[job.name], self.task.settings
        try:
            with _beating(self.board, job, min(BEAT_S, settings.stale_s / 4)):
                result = self.task.runner(candidate, settings.rungs[job.rung], lambda update: self.told(job, update))
            notes = {"steps": settings.rungs[job.rung], "NDS": result.get("NDS")}
            self.board.finish(job, self.task.values(candidate, float(result["mAP"])), notes)
        except NonFiniteError as error:
            self.board.close(job, "failed", " ".join(str(error).split()))
        except BaseException as error:
            self._leave(job, error)
            raise
        self.told(job, None)

    def _leave(self, job: Job, error: BaseException) -> None:
        """Free a job that this worker cannot end."""
        if isinstance(error, BackendError):
            return  # the storage itself may be what is gone; the job is seen to have no owner
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else f"stopped by {type(error).__name__}"
        try:
            self.board.close(job, "lost", reason)
        except Kd3dError:
            return


@contextmanager
def _beating(board: Board, job: Job, every_s: float) -> Iterator[None]:
    """Signs of life for ``job`` while the body runs."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(every_s):
            try:
                board.beat(job)
            except Exception:  # noqa: BLE001  whatever is wrong, the worker itself meets it when it has a result
                continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
