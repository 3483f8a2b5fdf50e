"""What a search leaves in its run folder: ``trials.jsonl``, ``candidates/NAME.json`` and ``search.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.compress.search.cost import Cost
from kd3d.compress.search.grid import Candidate, pareto
from kd3d.compress.search.halving import Standing, TrialState, state_of
from kd3d.compress.search.settings import SearchSettings
from kd3d.runs.atomic import write_json, write_text
from kd3d.spec import to_json

LISTED = 200  # students that fit and were not tried, best prior first


@dataclass(frozen=True)
class Trial:
    """A student that was tried.

    Args:
        number: 0 is the first that was begun.
        candidate: the student.
        scores: steps trained and mAP (0..1) on the held-out frames, rung by rung.
        state: ``complete`` at the last rung, ``pruned`` before it, ``failed`` where it cannot be trained.
        reason: why it failed, or empty.
    """

    number: int
    candidate: Candidate
    scores: tuple[tuple[int, float], ...]
    state: TrialState
    reason: str = ""

    @property
    def steps(self) -> int | None:
        """Steps of the last score."""
        return self.scores[-1][0] if self.scores else None

    @property
    def score(self) -> float | None:
        """The last score."""
        return self.scores[-1][1] if self.scores else None


def trials_of(
    students: Sequence[Standing], found: Sequence[Candidate], settings: SearchSettings, *, ended: bool
) -> list[Trial]:
    """The trials of a study, in the order in which they were begun."""
    by_name = {candidate.spec.name: candidate for candidate in found}
    return [
        Trial(
            number,
            by_name[student.name],
            tuple((settings.rungs[rung], values[0]) for rung, values in sorted(student.values.items())),
            state_of(student, settings, ended=ended),
            student.failed,
        )
        for number, student in enumerate(students)
    ]


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the highest score among those trained longest; of equals the one with the fewest MACs."""
    scored = [trial for trial in trials if trial.scores]
    return max(scored, key=lambda trial: (trial.steps, trial.score, -trial.candidate.cost.macs), default=None)


def front_of(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that no other beats in accuracy, MACs and (where predicted) latency together, cheapest first.

    Two trials are compared at the last rung that both reached, because scores after more steps are higher; a trial that
    went on is not beaten by one that did not.
    """
    scored = [trial for trial in trials if trial.scores]
    front = [one for one in scored if not any(_beats(other, one) for other in scored)]
    return sorted(front, key=lambda trial: trial.candidate.cost.macs)


def _beats(one: Trial, other: Trial) -> bool:
    common = other.scores[-1][0]
    if one.scores[-1][0] < common:
        return False
    mine, theirs = _objectives(one, common), _objectives(other, common)
    return all(a >= b for a, b in zip(mine, theirs, strict=True)) and mine != theirs


def _objectives(trial: Trial, steps: int) -> tuple[float, float, float]:
    return dict(trial.scores)[steps], -float(trial.candidate.cost.macs), -(latency_of(trial.candidate) or 0.0)


def latency_of(candidate: Candidate) -> float | None:
    """Predicted milliseconds, if a latency model was given."""
    return candidate.latency_ms


def cost_json(price: Cost) -> dict[str, int]:
    """The totals of a cost."""
    return {"params": price.params, "macs": price.macs, "macs_thop": price.macs_thop, "acts": price.acts}


def candidate_rows(found: Sequence[Candidate], trials: Sequence[Trial] = ()) -> list[dict[str, Any]]:
    """One JSON object per student: where its specification is, how it differs, what it costs, and its score if tried.

    The front is that of the tried ones; before anything was tried, that of the prior.
    """
    tried = {trial.candidate.spec.name: trial for trial in trials}
    best = [trial.candidate for trial in front_of(trials)] if trials else pareto(found, lambda one: one.prior)
    front = {candidate.spec.name for candidate in best}
    rows = []
    for candidate in found:
        trial = tried.get(candidate.spec.name)
        rows.append(
            {
                "name": candidate.spec.name,
                "spec": f"candidates/{candidate.spec.name}.json",
                "choice": to_json(candidate.choice),
                **cost_json(candidate.cost),
                "latency_ms": latency_of(candidate),
                "prior": round(candidate.prior, 6),
                "score": None if trial is None else trial.score,
                "steps": None if trial is None else trial.steps,
                "state": "untrained" if trial is None else trial.state,
                "pareto": candidate.spec.name in front,
            }
        )
    return rows


def listed(found: Sequence[Candidate], trials: Sequence[Trial] = ()) -> list[Candidate]:
    """The students that are recorded: the tried ones, best first, then others by prior."""
    order = sorted(trials, key=lambda trial: (-(trial.steps or 0), -(trial.score or 0.0), trial.number))
    tried = {trial.candidate.spec.name for trial in trials}
    rest = [candidate for candidate in found if candidate.spec.name not in tried]
    return [*(trial.candidate for trial in order), *rest[:LISTED]]


def write_search(
    run: Path, found: Sequence[Candidate], trials: Sequence[Trial], *, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the three, and return what is in ``search.json``.

    Args:
        run: the folder.
        found: students that fit, best prior first.
        trials: those that were tried.
        about: everything else in ``search.json``: ``teacher``, ``budget``, ``strategy`` ...
    """
    for candidate in listed(found, trials):
        path = run / "candidates" / f"{candidate.spec.name}.json"
        if not path.exists():
            write_json(path, to_json(candidate.spec))
    write_text(run / "trials.jsonl", "".join(json.dumps(_line(trial)) + "\n" for trial in trials))
    content = search_record(found, trials, about=about)
    write_json(run / "search.json", content)
    return content


def search_record(found: Sequence[Candidate], trials: Sequence[Trial], *, about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``search.json``; arguments as of ``write_search``."""
    rows = candidate_rows(listed(found, trials), trials)
    return {
        **about,
        "candidates": rows,
        "count": len(found),
        "pareto": [row for row in rows if row["pareto"]],
        "best": next((row for row in rows if row["name"] == about.get("chosen")), rows[0]),
    }


def _line(trial: Trial) -> dict[str, Any]:
    scores = [{"steps": steps, "mAP": score} for steps, score in trial.scores]
    found = {"number": trial.number, "name": trial.candidate.spec.name, "state": trial.state, "scores": scores}
    return {**found, **({"reason": trial.reason} if trial.reason else {})}
