"""The training loop: data in, one step after another, and a run that can be killed at any moment."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kd3d.datasets.augment import Augmentation
from kd3d.datasets.base import SampleDataset
from kd3d.detectors.checkpoint import save_model
from kd3d.detectors.model import CenterPoint
from kd3d.errors import DataError
from kd3d.spec import DetectorSpec, to_json
from kd3d.training.batch import TrainBatch
from kd3d.training.ema import Ema
from kd3d.training.interrupt import Interrupts
from kd3d.training.labels import check_classes
from kd3d.training.loader import FrameSource, batches
from kd3d.training.log import MetricsLog, read_metrics
from kd3d.training.objective import DetectionObjective, Objective
from kd3d.training.precision import resolve_precision
from kd3d.training.schedule import adamw, one_cycle
from kd3d.training.settings import TrainSettings
from kd3d.training.state import TrainState, load_state, save_state
from kd3d.training.step import Stepper, StepReport

CHECKPOINT, METRICS, MODEL = "checkpoints/last.pt", "metrics.jsonl", "model"

Validate = Callable[[CenterPoint, int], Mapping[str, float]]
"""Scores the averaged network (in evaluation mode) after a number of steps."""


@dataclass(frozen=True)
class TrainUpdate:
    """What the loop tells after every step and validation.

    Args:
        step: steps done.
        steps: of the whole run.
        loss: of the last step.
        lr: of the last step.
        eta_s: estimate of the remaining time, from this session's pace (validation included).
        metrics: of a validation that has just ended, else ``None``.
    """

    step: int
    steps: int
    loss: float
    lr: float
    eta_s: float
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Args:
        module: the averaged network, in evaluation mode: what was validated and saved.
        model: its model folder.
        steps: optimiser steps.
        metrics: of the last validation, empty without one.
        history: all lines of ``metrics.jsonl``.
    """

    module: CenterPoint
    model: Path
    steps: int
    metrics: dict[str, float]
    history: list[dict[str, Any]]


def train(
    module: CenterPoint,
    dataset: SampleDataset,
    *,
    settings: TrainSettings,
    run: Path,
    objective: Objective | None = None,
    augmentation: Augmentation | None = None,
    database: Any = None,
    validate: Validate | None = None,
    teacher_spec: DetectorSpec | None = None,
    progress: Callable[[TrainUpdate], None] | None = None,
) -> TrainResult:
    """Train ``module`` in place, on the device it is on.

    If ``run`` holds a checkpoint of the same run, training goes on from there, and (on a CPU, with as many threads) ends
    with the same weights, bit for bit, as if it had never stopped.

    Args:
        module: the student; ends with its last weights, while the result holds their moving average.
        dataset: frames with labels.
        settings: see ``TrainSettings``.
        run: receives ``checkpoints/last.pt``, ``metrics.jsonl`` and, at the end, ``model/``.
        objective: what to minimise; the detection losses if ``None``.
        augmentation: of every frame, or ``None``.
        database: objects that the augmentation pastes.
        validate: called every ``eval_every`` steps and at the end.
        teacher_spec: makes ``TrainBatch.teacher`` for the objective.
        progress: called after every step.

    Raises:
        DataError: the data set is empty, has none of the classes, or a frame is damaged.
        NonFiniteError: a loss or gradient is not finite; the last checkpoint stays.
        CheckpointError: the checkpoint is corrupt.
        UsageError: the checkpoint was made with other settings.
        OutputError: ``run`` is not writable or the disk is full.
        KeyboardInterrupt: Ctrl-C; a checkpoint has been written.
    """
    if not len(dataset):
        raise DataError("the training set has no frames. Check --data and the split.")
    check_classes(dataset.classes, module.spec.head.classes)
    objective = objective or DetectionObjective(module.spec)
    source = FrameSource(dataset, module.spec, teacher_spec, augmentation, database, settings.seed)
    session = _Session(module, source, objective, settings, run)
    with torch.random.fork_rng(devices=_cuda_devices(session.device)), Interrupts() as interrupts:
        session.resume()
        with MetricsLog(run / METRICS, keep=session.state.step) as log:
            session.work(log, interrupts, validate, progress or (lambda update: None))
    return session.finish()


class _Session:
    """One process's part of a run."""

    def __init__(
        self, module: CenterPoint, source: FrameSource, objective: Objective, settings: TrainSettings, run: Path
    ) -> None:
        self.source, self.settings, self.run = source, settings, run
        self.device = next(module.parameters()).device
        self.steps = settings.total_steps(len(source.dataset))
        if settings.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        precision = resolve_precision(settings.precision, self.device)
        adapters = getattr(objective, "adapters", None)
        trained = [*module.parameters(), *(adapters.parameters() if adapters is not None else ())]
        optimiser = adamw([parameter for parameter in trained if parameter.requires_grad], settings)
        self.state = TrainState(module, Ema(module, settings.ema_decay), optimiser, precision.scaler(), adapters)
        self.identity = _identity(source, objective, settings, precision.name)
        schedule = one_cycle(settings, self.steps)
        self.stepper = Stepper(self.state, objective, settings=settings, precision=precision, schedule=schedule)

    @property
    def average(self) -> CenterPoint:
        module = self.state.ema.module
        assert isinstance(module, CenterPoint)
        return module

    def resume(self) -> None:
        if (self.run / CHECKPOINT).exists():
            load_state(self.run / CHECKPOINT, self.state, self.identity)

    def save(self) -> None:
        save_state(self.run / CHECKPOINT, self.state, self.identity)

    def work(
        self,
        log: MetricsLog,
        interrupts: Interrupts,
        validate: Validate | None,
        progress: Callable[[TrainUpdate], None],
    ) -> None:
        """All remaining steps. An interrupt between steps saves; one within a step leaves the last checkpoint."""
        pace, stream, whole = _Pace(self.state.step, self.steps), self._stream(), True
        try:
            while self.state.step < self.steps:
                asked = time.perf_counter()
                micro_batches = [next(stream).to(self.device) for _ in range(self.settings.accumulate)]
                began = time.perf_counter()
                interrupts.hold()
                whole = False
                report = self.stepper.step(micro_batches)
                whole = True
                interrupts.release()
                done = self.state.step
                if done % self.settings.log_every == 0 or done == self.steps:
                    times = {"step_s": time.perf_counter() - began, "data_s": began - asked}
                    log.write(self._line(report, times))
                progress(TrainUpdate(done, self.steps, report.loss, report.lr, pace.eta_s(done)))
                if validate is not None and self._due(self.settings.eval_every):
                    metrics = dict(validate(self.average.eval(), done))
                    log.write({"step": done, "val": metrics})
                    progress(TrainUpdate(done, self.steps, report.loss, report.lr, pace.eta_s(done), metrics))
                if self._due(self.settings.checkpoint_every):
                    log.sync()  # the log is never behind the checkpoint
                    self.save()
        except KeyboardInterrupt:
            if whole:
                self.save()
            raise

    def _stream(self) -> Iterator[TrainBatch]:
        accumulate = self.settings.accumulate
        return batches(
            self.source,
            batch_size=self.settings.batch_size,
            start=self.state.step * accumulate,
            count=(self.steps - self.state.step) * accumulate,
            workers=self.settings.workers,
        )

    def _due(self, every: int) -> bool:
        done = self.state.step
        return done == self.steps or (every > 0 and done % every == 0)

    def _line(self, report: StepReport, times: Mapping[str, float]) -> dict[str, Any]:
        done = self.state.step
        return {
            "step": done,
            "epoch": done * self.settings.frames_per_step / len(self.source.dataset),
            "loss": report.loss,
            "terms": report.terms,
            "lr": report.lr,
            "momentum": report.momentum,
            "grad_norm": report.grad_norm,
            **times,
        }

    def finish(self) -> TrainResult:
        """Save the averaged network and read back what was measured."""
        history = read_metrics(self.run / METRICS)
        validated = [line["val"] for line in history if "val" in line]
        metrics = dict(validated[-1]) if validated else {}
        meta = {
            "training": {"steps": self.steps, "settings": to_json(self.settings), "frames": len(self.source.dataset)},
            "metrics": metrics,
        }
        save_model(self.run / MODEL, self.average, meta)
        return TrainResult(self.average.eval(), self.run / MODEL, self.steps, metrics, history)


class _Pace:
    """Remaining time from this session's own steps."""

    def __init__(self, first: int, steps: int) -> None:
        self._first, self._steps, self._began = first, steps, time.perf_counter()

    def eta_s(self, done: int) -> float:
        return (time.perf_counter() - self._began) / (done - self._first) * (self._steps - done)


def _identity(source: FrameSource, objective: Objective, settings: TrainSettings, precision: str) -> dict[str, Any]:
    """What decides the result of a run, as JSON values; compared when it is resumed."""
    tokens = "\n".join(source.dataset.tokens)
    describe = getattr(objective, "identity", None)
    return {
        "settings": {**settings.identity(), "precision": precision},
        "detector": to_json(source.spec),
        "teacher": None if source.teacher_spec is None else to_json(source.teacher_spec),
        "augmentation": None if source.augmentation is None else to_json(source.augmentation),
        "paste": source.database is not None,
        "data": {"frames": len(source.dataset), "tokens": hashlib.sha256(tokens.encode()).hexdigest()[:16]},
        "objective": describe() if describe is not None else type(objective).__name__,
    }


def _cuda_devices(device: torch.device) -> list[int]:
    if device.type != "cuda":
        return []
    return [device.index if device.index is not None else torch.cuda.current_device()]
