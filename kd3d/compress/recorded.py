"""The teacher cache of one training: which it is, its first pass, and how often it was of use."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kd3d.compress.data import CompressData
from kd3d.compress.distill.cache import CacheSettings, TeacherCache, database_hash, weights_hash
from kd3d.compress.distill.features import level_places, neck_place
from kd3d.compress.distill.filling import Filled, fill
from kd3d.compress.distill.objective import DistillationObjective
from kd3d.compress.stages import Progress, StageUpdate, silent
from kd3d.detectors.checkpoint import Model
from kd3d.errors import UsageError
from kd3d.runs.atomic import write_json
from kd3d.spec import to_json
from kd3d.training.loader import Draws, FrameSource
from kd3d.training.precision import resolve_precision
from kd3d.training.settings import TrainSettings


def draws_of(data: CompressData, settings: CacheSettings) -> int:
    """Recorded augmentations per frame: one where nothing is augmented."""
    return 1 if data.augmentation is None else settings.augmentations


@dataclass(frozen=True)
class CachedTeacher:
    """A teacher's answers to the frames of one training.

    Args:
        teacher: of the objective.
        objective: has the signals.
        data: ``train`` is answered.
        train: of the training that will use them.
        settings: how many, and where.
    """

    teacher: Model
    objective: DistillationObjective
    data: CompressData
    train: TrainSettings
    settings: CacheSettings

    def fill(self, run: Path, device: torch.device, progress: Progress = silent) -> tuple[TeacherCache, Filled]:
        """Open the cache and do its first pass.

        Args:
            run: holds the cache unless the settings name a folder.
            device: of the teacher.
            progress: told how far it is.

        Raises:
            UsageError: a signal cannot be cached, or the folder is another cache.
            OutputError: the folder is not writable or its disk full; nothing of the training has begun.
        """
        draws, frames = draws_of(self.data, self.settings), len(self.data.train) + len(self.data.unlabelled or ())
        check_cacheable(self.objective, frames * draws)
        self._warn_if_needless(frames * draws)
        folder = self.settings.folder or run / "teacher-cache"
        cache = TeacherCache(folder, self.objective.layout, frames=frames, draws=draws)
        precision = resolve_precision(self.train.precision, device)
        name = self.objective.running.resolve(device, mixed=precision.name != "fp32")
        cache.open({**self._identity(), "precision": name})

        def told(done: int, total: int, eta: float | None) -> None:
            progress(StageUpdate("teacher cache", done, total, eta))

        filled = fill(
            cache,
            self._source(draws),
            self.objective,
            device=device,
            autocast=precision.autocast,
            workers=self.train.workers,
            told=told,
        )
        note = (
            f"{filled.records} answers, {filled.made} of them new, {filled.seconds:.0f} s, {filled.bytes / 1e6:.1f} MB"
        )
        progress(StageUpdate("teacher cache", filled.records, filled.records, note=note))
        return cache, filled

    def report(self, run: Path, cache: TeacherCache, filled: Filled) -> dict[str, Any]:
        """What the cache cost and how often it answered, also written to ``teacher_cache.json``."""
        asked, recorded = self.objective.answers.asked, self.objective.answers.recorded
        found = {
            "folder": str(cache.folder),
            "augmentations": cache.draws,
            **to_json(filled),
            "bytes_per_record": filled.bytes / filled.records,
            "hit_rate": recorded / (asked + recorded) if asked + recorded else None,
        }
        write_json(run / "teacher_cache.json", found)
        return found

    def _source(self, draws: int) -> FrameSource:
        objective, data = self.objective, self.data
        return FrameSource(
            data.train,
            objective.student_spec,
            objective.teacher_input,
            data.augmentation,
            data.database,
            self.train.seed,
            Draws(draws),
            data.beside(self.train.batch_size),
        )

    def _identity(self) -> dict[str, Any]:
        """What decides the answers, as JSON values: not the weights of losses, of the student only its classes."""
        data, objective = self.data.identity(), self.objective
        label_kd = objective.label_kd
        return {
            "teacher": {"name": self.teacher.spec.name, "weights": weights_hash(self.teacher.module)},
            "signals": {signal.name: _unweighted(signal) for signal in objective.signals},
            "label_kd": None if label_kd is None else {"suppress": label_kd.suppress},
            "classes": list(objective.student_spec.head.classes),
            "frames": data["train"],
            "augmentation": data["augmentation"],
            "paste": database_hash(self.data.database),
            "seed": self.train.seed,
            **({"unlabelled": data["unlabelled"]} if "unlabelled" in data else {}),
            **({} if objective.frames is None else {"frames": "weighted"}),
        }

    def _warn_if_needless(self, records: int) -> None:
        beside = self.data.beside(self.train.batch_size)
        steps = self.train.total_steps(len(self.data.train), unlabelled=0 if beside is None else beside.per_batch)
        frames = steps * self.train.frames_per_step
        if records > frames:
            warnings.warn(
                f"the teacher is asked {records} times for a cache that a training on {frames} frames uses: run it at "
                "every step (leave --teacher-cache out), or record fewer augmentations (--cache-augmentations).",
                stacklevel=3,
            )


def _unweighted(signal: Any) -> str:
    return repr(replace(signal, weight=1.0)) if hasattr(signal, "weight") else repr(signal)


def check_cacheable(objective: DistillationObjective, records: int) -> None:
    """Refuse signals and settings whose answers cannot be kept.

    Args:
        objective: has the signals.
        records: that would be kept.

    Raises:
        UsageError: says which and why.
    """
    advice = "Leave --teacher-cache out: the teacher is then run at every step, at inference speed."
    if objective.running.norm == "train":
        raise UsageError(f"a teacher normalised by batch statistics answers differently in every batch. {advice}")
    spec = objective.teacher_spec
    places = {place.name: place for place in (*level_places(spec), neck_place(spec))}
    for signal in objective.signals:
        sizes = {name: 2 * _numbers(objective, places[name]) for name in signal.reads.maps}
        if sizes:
            each = sum(sizes.values())
            raise UsageError(
                f"{signal.name} reads the teacher's whole feature map ({', '.join(sizes)}): {each / 1e6:.1f} MB for "
                f"each of {records} recorded frames, {each * records / 1e9:.1f} GB in all. {advice}"
            )


def _numbers(objective: DistillationObjective, place: Any) -> int:
    grid = objective.teacher_spec.grid
    cells = (grid.x_max_m - grid.x_min_m) * (grid.y_max_m - grid.y_min_m) / place.cell_m**2
    return int(place.channels * round(cells))
