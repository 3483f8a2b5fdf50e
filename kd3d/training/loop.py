"""The training loop: data in, one step after another, and a run that can be killed at any moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kd3d.datasets.augment import Augmentation
from kd3d.datasets.base import SampleDataset
from kd3d.detectors.model import CenterPoint
from kd3d.errors import DataError, UsageError
from kd3d.spec import DetectorSpec
from kd3d.training.interrupt import Interrupts
from kd3d.training.labels import check_classes
from kd3d.training.loader import Draws, FrameSource
from kd3d.training.log import MetricsLog
from kd3d.training.objective import DetectionObjective, Objective
from kd3d.training.result import TrainResult, TrainUpdate
from kd3d.training.session import METRICS, Session, Validate
from kd3d.training.settings import TrainSettings
from kd3d.training.unlabelled import Unlabelled

__all__ = ["TrainResult", "TrainUpdate", "Validate", "train"]


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
    stop_at: int | None = None,
    draws: Draws | None = None,
    unlabelled: Unlabelled | None = None,
    progress: Callable[[TrainUpdate], None] | None = None,
) -> TrainResult:
    """Train ``module`` in place, on the device it is on.

    If ``run`` holds a checkpoint of the same run, training goes on from there, and (on a CPU, with as many
    threads) ends with the same weights, bit for bit, as if it had never stopped.

    Args:
        module: the student; ends with its last weights, while the result holds their moving average.
        dataset: frames with labels.
        settings: see ``TrainSettings``.
        run: receives ``checkpoints/last.pt``, ``metrics.jsonl`` and, at the end, ``model/``.
        objective: what to minimise; the detection losses if ``None``. One that has ``teacher_input``, a specification,
            gets ``TrainBatch.teacher`` made for it.
        augmentation: of every frame, or ``None``.
        database: objects that the augmentation pastes.
        validate: called every ``eval_every`` steps and at the end.
        stop_at: leave off after this many steps of the whole schedule, with a checkpoint from which a later call goes
            on. The result is then the moving average so far, and no ``model/`` is written.
        draws: recorded augmentations, and a teacher's answers to them for ``TrainBatch.recorded``; ``None`` draws a new
            augmentation every time.
        unlabelled: frames without labels in every batch, for an objective that has a teacher for them; a step counts
            in epochs by its labelled frames.
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
    if not any(parameter.requires_grad for parameter in module.parameters()):
        module.requires_grad_(True)  # the averaged network of an earlier run comes frozen
    objective = objective or DetectionObjective(module.spec)
    if unlabelled is not None:
        _check_unlabelled(unlabelled, objective, settings)
    theirs: DetectorSpec | None = getattr(objective, "teacher_input", None)
    source = FrameSource(dataset, module.spec, theirs, augmentation, database, settings.seed, draws, unlabelled)
    session = Session(module, source, objective=objective, settings=settings, run=run, stop_at=stop_at)
    with torch.random.fork_rng(devices=_cuda_devices(session.device)), Interrupts() as interrupts:
        session.resume()
        with MetricsLog(run / METRICS, keep=session.state.step) as log:
            session.work(log, interrupts, validate=validate, progress=progress or _silent)
    return session.finish()


def _check_unlabelled(unlabelled: Unlabelled, objective: Objective, settings: TrainSettings) -> None:
    frames = len(unlabelled.dataset)
    if not frames:
        raise DataError("there are no frames without labels. Check --unlabelled and its split.")
    if getattr(objective, "unlabelled", 0) != frames:
        raise UsageError("frames without labels need an objective whose teacher teaches on them: distil.")
    if not 0 < unlabelled.per_batch < settings.batch_size:
        raise UsageError(
            f"a batch of {settings.batch_size} frames cannot have {unlabelled.per_batch} without labels beside others."
        )


def _silent(update: TrainUpdate) -> None:
    """Progress that nobody watches."""


def _cuda_devices(device: torch.device) -> list[int]:
    if device.type != "cuda":
        return []
    return [device.index if device.index is not None else torch.cuda.current_device()]
