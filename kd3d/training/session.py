"""One process's part of a run: from its checkpoint, or from the beginning, to the end or an interrupt."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd3d.datasets.base import SampleDataset
from kd3d.detectors.checkpoint import save_model
from kd3d.detectors.model import CenterPoint
from kd3d.spec import to_json
from kd3d.training.batch import TrainBatch
from kd3d.training.ema import Ema
from kd3d.training.interrupt import Interrupts
from kd3d.training.loader import FrameSource, batches
from kd3d.training.log import MetricsLog, read_metrics
from kd3d.training.norms import set_norm_momentum
from kd3d.training.objective import Objective
from kd3d.training.precision import resolve_precision
from kd3d.training.result import Pace, TrainResult, TrainUpdate
from kd3d.training.schedule import adamw, grouped, one_cycle
from kd3d.training.settings import TrainSettings
from kd3d.training.state import TrainState, load_state, remove_leftovers, save_state
from kd3d.training.step import Stepper, StepReport
from kd3d.training.unlabelled import Drawing, Period, Unlabelled, period_steps

CHECKPOINT, METRICS, MODEL = "checkpoints/last.pt", "metrics.jsonl", "model"

Validate = Callable[[CenterPoint, int], Mapping[str, float]]
"""Scores the averaged network (in evaluation mode) after a number of steps."""


class Session:
    """See the module.

    Args:
        module: trained in place.
        source: of the frames.
        objective: what to minimise.
        settings: of the run.
        run: its folder.
        stop_at: steps after which to leave off; ``None`` goes to the end.
    """

    def __init__(
        self,
        module: CenterPoint,
        source: FrameSource,
        *,
        objective: Objective,
        settings: TrainSettings,
        run: Path,
        stop_at: int | None = None,
    ) -> None:
        self.source, self.settings, self.run = source, settings, run
        self.device = next(module.parameters()).device
        self.steps = settings.total_steps(len(source.dataset), unlabelled=source.unlabelled_per_batch)
        self.drawing: Drawing | None = getattr(objective, "drawing", None)
        self.until = self.steps if stop_at is None else min(stop_at, self.steps)
        if settings.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if settings.norm_momentum is not None:
            set_norm_momentum(module, settings.norm_momentum)
        precision = resolve_precision(settings.precision, self.device)
        adapters = getattr(objective, "adapters", None)
        optimiser = adamw(_learning(module, adapters, settings), settings)
        self.state = TrainState(module, Ema(module, settings.ema_decay), optimiser, precision.scaler(), adapters)
        self.identity = _identity(source, objective, settings, precision.name)
        schedule = one_cycle(settings, self.steps)
        self.stepper = Stepper(self.state, objective, settings=settings, precision=precision, schedule=schedule)

    @property
    def average(self) -> CenterPoint:
        """The moving average, in evaluation mode."""
        module = self.state.ema.module
        assert isinstance(module, CenterPoint)
        return module.eval()

    def resume(self) -> None:
        """Go to where the run's checkpoint left off, if it has one."""
        remove_leftovers(self.run / CHECKPOINT)
        if (self.run / CHECKPOINT).exists():
            load_state(self.run / CHECKPOINT, self.state, self.identity)

    def save(self) -> None:
        """Write the run's checkpoint."""
        save_state(self.run / CHECKPOINT, self.state, self.identity)

    def work(
        self,
        log: MetricsLog,
        interrupts: Interrupts,
        *,
        validate: Validate | None,
        progress: Callable[[TrainUpdate], None],
    ) -> None:
        """Take the remaining steps, up to where the run is to leave off.

        Raises:
            KeyboardInterrupt: Ctrl-C. The checkpoint is of the last whole step; if a second Ctrl-C cut a step short, it
                stays the earlier one, because the network is then between two steps.
        """
        pace = Pace(self.state.step, self.until)
        try:
            if validate is not None and self._missed_validation():
                self._validate(validate, log)
            with closing(self._stream()) as stream:  # an error must not wait for the workers, nor they for it
                while self.state.step < self.until:
                    update = self._advance(stream, log, interrupts, pace)
                    progress(update)
                    if validate is not None and self._due(self.settings.eval_every):
                        metrics = self._validate(validate, log)
                        progress(update.with_metrics(metrics, pace.eta_s(self.state.step)))
                    if self._due(self.settings.checkpoint_every) or self.state.step == self.until:
                        log.sync()  # the log is never behind the checkpoint
                        self.save()
        except KeyboardInterrupt:
            if not interrupts.held:
                self.save()
            raise

    def _advance(
        self, stream: Iterator[TrainBatch], log: MetricsLog, interrupts: Interrupts, pace: Pace
    ) -> TrainUpdate:
        asked = time.perf_counter()
        micro_batches = [next(stream).to(self.device) for _ in range(self.settings.accumulate)]
        began = time.perf_counter()
        interrupts.hold()
        report = self.stepper.step(micro_batches)
        done = self.state.step
        if done % self.settings.log_every == 0 or done == self.steps:
            times = {"step_s": time.perf_counter() - began, "data_s": began - asked}
            log.write({**self._line(report), **times})
        interrupts.release()  # not before its line is written: the checkpoint that follows counts the step as logged
        return TrainUpdate(done, self.steps, report.loss, report.lr, pace.eta_s(done))

    def _validate(self, validate: Validate, log: MetricsLog) -> dict[str, float]:
        metrics = dict(validate(self.average, self.state.step))
        log.write({"step": self.state.step, "val": metrics})
        return metrics

    def _missed_validation(self) -> bool:
        """Whether Ctrl-C came between the last step and the end of the validation that was due after it."""
        done = self.state.step
        validated = [line["step"] for line in read_metrics(self.run / METRICS) if "val" in line]
        return done > 0 and self._due(self.settings.eval_every) and done not in validated

    def _stream(self) -> Generator[TrainBatch, None, None]:
        unlabelled = self.source.unlabelled
        if unlabelled is None or self.drawing is None:
            yield from self._batches(self.source, self.state.step, self.until)
            return
        accumulate = self.settings.accumulate
        length = period_steps(len(unlabelled.dataset), unlabelled.per_batch * accumulate)
        while self.state.step < self.until:  # the next period is drawn when the last step of this one has been taken
            number, into = divmod(self.state.step, length)
            if into == 0:
                self.drawing.renew()
            first = number * length
            period = Period(number, first * accumulate, length * accumulate, self.drawing.probabilities())
            source = replace(self.source, unlabelled=replace(unlabelled, period=period))
            yield from self._batches(source, self.state.step, min(first + length, self.until))

    def _batches(self, source: FrameSource, start: int, end: int) -> Generator[TrainBatch, None, None]:
        """Those of the steps from ``start`` up to ``end``."""
        accumulate = self.settings.accumulate
        return batches(
            source,
            batch_size=self.settings.batch_size,
            start=start * accumulate,
            count=(end - start) * accumulate,
            workers=self.settings.workers,
            pin=self.device.type == "cuda",
        )

    def _due(self, every: int) -> bool:
        done = self.state.step
        return done == self.steps or (every > 0 and done % every == 0)

    @property
    def _labelled_per_step(self) -> int:
        return (self.settings.batch_size - self.source.unlabelled_per_batch) * self.settings.accumulate

    def _line(self, report: StepReport) -> dict[str, Any]:
        done = self.state.step
        return {
            "step": done,
            "epoch": done * self._labelled_per_step / len(self.source.dataset),
            "loss": report.loss,
            "terms": report.terms,
            "lr": report.lr,
            "momentum": report.momentum,
            "grad_norm": report.grad_norm,
            **({"blend": report.blend} if report.blend else {}),
            **({"skipped": list(report.skipped)} if report.skipped else {}),
        }

    def finish(self) -> TrainResult:
        """Save the averaged network, if the run is at its end, and read back what was measured."""
        history = read_metrics(self.run / METRICS)
        validated = [line["val"] for line in history if "val" in line]
        metrics = dict(validated[-1]) if validated else {}
        if self.state.step == self.steps:
            training = {"steps": self.steps, "settings": to_json(self.settings), "frames": len(self.source.dataset)}
            save_model(self.run / MODEL, self.average, {"training": training, "metrics": metrics})
        return TrainResult(self.average, self.run / MODEL, self.state.step, metrics, history)


def _learning(module: nn.Module, adapters: nn.Module | None, settings: TrainSettings) -> list[Any]:
    """What the optimiser is given: one list, or groups of learning rates where some differ."""
    parts = {"": module, "adapters.": adapters}
    named = [
        (prefix + name, parameter)
        for prefix, part in parts.items()
        if part is not None
        for name, parameter in part.named_parameters()
        if parameter.requires_grad
    ]
    return grouped(named, settings) if settings.lr_scales else [parameter for _, parameter in named]


def _identity(source: FrameSource, objective: Objective, settings: TrainSettings, precision: str) -> dict[str, Any]:
    """What decides the result of a run, as JSON values; compared when it is resumed."""
    describe = getattr(objective, "identity", None)
    return {
        "settings": {**settings.identity(), "precision": precision},
        "detector": to_json(source.spec),
        "teacher": None if source.teacher_spec is None else to_json(source.teacher_spec),
        "augmentation": None if source.augmentation is None else to_json(source.augmentation),
        "paste": source.database is not None,
        "data": _frames(source.dataset),
        **_unlabelled(source.unlabelled),
        **({} if source.draws is None else {"draws": source.draws.count}),
        "objective": describe() if describe is not None else type(objective).__name__,
    }


def _unlabelled(unlabelled: Unlabelled | None) -> dict[str, Any]:
    if unlabelled is None:
        return {}
    return {"unlabelled": {**_frames(unlabelled.dataset), "per_batch": unlabelled.per_batch}}


def _frames(dataset: SampleDataset) -> dict[str, Any]:
    tokens = "\n".join(dataset.tokens)
    return {"frames": len(dataset), "tokens": hashlib.sha256(tokens.encode()).hexdigest()[:16]}
