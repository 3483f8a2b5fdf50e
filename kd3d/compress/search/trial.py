"""The short training of one student, rung by rung, and its score on held-out training frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from kd3d.compress.data import CompressData, score
from kd3d.compress.distilling import DistillSettings, fingerprint, untaught
from kd3d.compress.inherit.scored import Taylor
from kd3d.compress.stages import begin, once
from kd3d.detectors.batch import Batch, prepare
from kd3d.detectors.checkpoint import Model
from kd3d.spec import DetectorSpec, to_json
from kd3d.training.loop import train
from kd3d.training.norms import recalibrate
from kd3d.training.result import TrainUpdate

CALIBRATION_FRAMES = 32


class Student(Protocol):
    """What is trained: a candidate of a search, or a student that was named."""

    @property
    def spec(self) -> DetectorSpec:
        """Its specification."""
        ...


@dataclass(frozen=True)
class TrialRunner:
    """Trains students shortly.

    The schedule of the training is that of the last rung; at an earlier one it leaves off, with a checkpoint in the
    student's folder, from which any worker that sees the folder goes on. Before a score the batch norms of the averaged
    network are recalibrated; the checkpoint knows nothing of that.

    Args:
        teacher: left unchanged.
        data: ``train`` is trained on, ``val`` (held-out training frames) is scored on.
        distill: recipe and training; its steps are those of the last rung.
        run: receives ``trials/NAME/``.
        device: such as ``cpu``.
        known: importance of the teacher's channels, where students inherit by it.
    """

    teacher: Model
    data: CompressData
    distill: DistillSettings
    run: Path
    device: str
    known: Taylor | None = None

    def __call__(
        self, candidate: Student, steps: int, progress: Callable[[TrainUpdate], None] | None = None
    ) -> dict[str, Any]:
        """Train ``candidate`` up to ``steps`` and score it; ``mAP`` and ``steps``.

        What was trained is not trained again: a result that is in the folder is read.

        Raises:
            NonFiniteError: the training diverged.
            UsageError: the folder holds another training.
            DataError, OutputError: as ``kd3d.training.loop.train``.
        """
        folder = self.run / "trials" / candidate.spec.name
        request = {"teacher": fingerprint(self.teacher), "student": to_json(candidate.spec)}
        begin(folder, {**request, "settings": self.distill.identity(), "data": self.data.identity()})
        return once(folder / f"rung-{steps}.json", lambda: self._train(candidate, folder, steps, progress))

    def score_teacher(self) -> dict[str, Any]:
        """The teacher on the same held-out frames (which it may have been trained on)."""
        assert self.data.val is not None
        val, module = self.data.val, self.teacher.module.to(self.device)
        where, limit = self.run / "teacher_holdout", self.data.max_range_m
        return once(self.run / "teacher_holdout.json", lambda: score(module, val, where, max_range_m=limit))

    def _train(
        self, candidate: Student, folder: Path, steps: int, progress: Callable[[TrainUpdate], None] | None
    ) -> dict[str, Any]:
        settings = self.distill.train
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)  # adapters of features begin alike in every process
            module, _ = untaught(
                self.teacher, candidate.spec, self.distill, data=self.data, device=self.device, known=self.known
            )
            objective = self.distill.recipe.objective(
                self.teacher.module.to(self.device), candidate.spec, running=self.distill.running
            )
        result = train(
            module,
            self.data.train,
            settings=settings,
            run=folder,
            objective=objective,
            augmentation=self.data.augmentation,
            database=self.data.database,
            stop_at=steps,
            progress=progress,
        )
        assert self.data.val is not None
        recalibrate(result.module, self._calibration(candidate))
        metrics = score(result.module, self.data.val, folder / "evaluation", max_range_m=self.data.max_range_m)
        return {"mAP": float(metrics["mAP"] or 0.0), "NDS": metrics.get("NDS"), "steps": result.steps}

    def _calibration(self, candidate: Student) -> Iterator[Batch]:
        """Training frames, spread evenly, as they are: what batch norms are recalibrated on before a score."""
        frames, size = self.data.train, self.distill.train.batch_size
        count = min(len(frames), CALIBRATION_FRAMES)
        chosen = [place * len(frames) // count for place in range(count)]
        for start in range(0, count, size):
            samples = [frames[index] for index in chosen[start : start + size]]
            yield prepare(samples, candidate.spec).to(self.device)


def brief(settings: DistillSettings, steps: int, first: int) -> DistillSettings:
    """The settings of a short training of ``steps`` in all, whose checkpoint is never behind by more than ``first``.

    Without control, and without teacher cache: its frames are fewer, and a short training sees each but a few times.
    """
    every = min(settings.train.checkpoint_every, first)
    short = replace(settings.train, steps=steps, epochs=None, eval_every=0, checkpoint_every=every)
    return replace(settings, train=short, control=False, cache=None)
