"""A study that several processes work on: who has which student at which rung, and what came of it.

Every training of one student to one rung is one trial of an Optuna study, made whole in one transaction. Two workers
that take the same work see each other: the trial with the lower number stays, the other is withdrawn untrained.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from kd3d.compress.search.owner import Owner, checked, gone
from kd3d.compress.search.storage import Result, StudyStorage
from kd3d.compress.stages import refuse_changes
from kd3d.errors import DataError
from kd3d.optional import require

JobState = Literal["running", "complete", "failed", "lost", "withdrawn"]
_REQUEST = "request"


@dataclass(frozen=True)
class Job:
    """One student on its way to one rung.

    Args:
        number: of the trial in the study.
        name: of the student.
        rung: 0 is the first.
        state: ``failed`` where the training itself failed, ``lost`` where its worker left or died.
        values: one per objective; ``None`` unless complete.
        params: place on each axis of the space.
        attrs: everything else that was noted.
        id: of the trial in the storage.
    """

    number: int
    name: str
    rung: int
    state: JobState
    values: tuple[float, ...] | None
    params: dict[str, int]
    attrs: dict[str, Any] = field(compare=False)
    id: int = field(compare=False)

    @property
    def reason(self) -> str:
        """Why it is failed or lost."""
        return str(self.attrs.get("reason", ""))


class Board:
    """The jobs of a study; safe to use from many processes and machines.

    Args:
        storage: where.
        name: of the study; made if absent.
        directions: ``maximize`` or ``minimize`` per objective.
        request: what the study is asked for, JSON values.
        stale_s: how long a worker on another machine may give no sign of life.
        clock: seconds.

    Raises:
        UsageError: the study was begun with another request; says what differs.
        DataError: the study is not one of kd3d's, or damaged.
        BackendError: the storage does not answer.
    """

    def __init__(
        self,
        storage: StudyStorage,
        name: str,
        *,
        directions: list[str],
        request: dict[str, Any],
        stale_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage, self._stale_s, self._clock = storage, stale_s, clock
        self._seen: dict[int, tuple[Any, float]] = {}
        optuna = require("optuna", extra="search")
        self.study: Any = storage.steady(
            lambda: optuna.create_study(
                storage=storage.storage, study_name=name, directions=directions, load_if_exists=True
            )
        )
        self._check(f"the study {name!r} in {storage.name}", json.loads(json.dumps(request)))

    def jobs(self) -> list[Job]:
        """All jobs by number; those of workers that are gone are marked lost first.

        Raises:
            DataError: a trial is not one of kd3d's.
        """
        found = [self._job(trial) for trial in self._trials()]
        stale = [job for job in found if job.state == "running" and self._stale(job)]
        if not stale:
            return found
        for job in stale:
            self.close(job, "lost", "its worker died")
        return [self._job(trial) for trial in self._trials()]

    def claim(self, owner: Owner, name: str, rung: int, *, params: dict[str, int], attrs: dict[str, Any]) -> Job | None:
        """Take a student to a rung, or ``None`` if another worker has taken it (or done it) already.

        Args:
            owner: who takes it.
            name: the student.
            rung: how far.
            params: place on each axis.
            attrs: kept with it, JSON values.
        """
        optuna = require("optuna", extra="search")
        top = max([*params.values(), 0])
        noted = {**attrs, "name": name, "rung": rung, "owner": owner.to_json()}
        distributions = {axis: optuna.distributions.IntDistribution(0, max(top, 1 << 10)) for axis in params}
        made = optuna.create_trial(
            state=optuna.trial.TrialState.RUNNING, params=params, distributions=distributions, user_attrs=noted
        )
        self._do(lambda: self.study.add_trial(made))
        rivals = [job for job in self.jobs() if (job.name, job.rung) == (name, rung)]
        mine = [job for job in rivals if job.attrs["owner"]["id"] == owner.id and job.state == "running"]
        taken = [job for job in rivals if job.state in ("running", "complete", "failed")]
        got = mine[0] if mine and taken[0] == mine[0] else None
        for job in mine[1:] if got else mine:  # more than one where an answer was lost and the claim was repeated
            self.close(job, "withdrawn", "another worker has it")
        return got

    def finish(self, job: Job, values: list[float], notes: dict[str, Any]) -> bool:
        """Note what came of a job; ``False`` if it had been given to another worker meanwhile."""
        return self._end(job, "COMPLETE", values, notes)

    def close(self, job: Job, state: JobState, reason: str) -> bool:
        """End a job without a result; ``False`` if it had ended already."""
        return self._end(job, "FAIL", None, {"ended": state, "reason": reason})

    def beat(self, job: Job) -> None:
        """A sign of life from the worker of ``job``."""
        stored = self._storage.storage
        self._do(lambda: stored.set_trial_user_attr(job.id, "beat", time.time()))

    def _end(self, job: Job, state: str, values: list[float] | None, notes: dict[str, Any]) -> bool:
        optuna, stored = require("optuna", extra="search"), self._storage.storage

        def end() -> bool:
            try:
                for key, value in notes.items():
                    stored.set_trial_user_attr(job.id, key, value)
                stored.set_trial_state_values(job.id, optuna.trial.TrialState[state], values)
            except optuna.exceptions.UpdateFinishedTrialError:
                return self._is(job.id, state, values)
            return True

        return self._do(end)

    def _is(self, trial_id: int, state: str, values: list[float] | None) -> bool:
        """Whether a trial ended as asked: an answer may be lost where the work was done."""
        trial = self._storage.storage.get_trial(trial_id)
        return bool(trial.state.name == state == "COMPLETE" and list(trial.values) == values)

    def _stale(self, job: Job) -> bool:
        if gone(job.attrs["owner"]):
            return True
        beat = job.attrs.get("beat")
        known = self._seen.get(job.id)
        if known is None or known[0] != beat:  # seen changing on this machine's clock: other clocks do not matter
            self._seen[job.id] = (beat, self._clock())
            return False
        return self._clock() - known[1] > self._stale_s

    def _do(self, operation: Callable[[], Result]) -> Result:
        return self._storage.steady(operation)

    def _trials(self) -> list[Any]:
        return self._do(lambda: list(self.study.get_trials(deepcopy=False)))

    def _check(self, where: str, request: dict[str, Any]) -> None:
        begun = self._do(lambda: self.study.user_attrs.get(_REQUEST))
        if begun is None:
            if self._trials():
                raise DataError(f"{where} is not one of kd3d's. Choose another --study or --storage.")
            self._do(lambda: self.study.set_user_attr(_REQUEST, request))
            begun = request
        refuse_changes(where, begun, request, "Repeat that request to go on with it, or choose another --study.")

    @staticmethod
    def _job(trial: Any) -> Job:
        attrs = trial.user_attrs
        try:
            name, rung = attrs["name"], int(attrs["rung"])
            checked(attrs["owner"])
            values = tuple(map(float, trial.values)) if trial.state.name == "COMPLETE" else None
            if not all(map(math.isfinite, values or ())):
                raise ValueError(f"finite score, but {values}")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"trial {trial.number} of the study has no {error}: it is not one of kd3d's. Choose another --study."
            ) from error
        states = {"RUNNING": "running", "COMPLETE": "complete", "FAIL": attrs.get("ended", "lost")}
        state = states.get(trial.state.name, "lost")
        return Job(trial.number, name, rung, state, values, dict(trial.params), dict(attrs), trial._trial_id)
