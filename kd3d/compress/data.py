"""What the steps of a compression read: training and validation frames, and how a network is scored on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kd3d.datasets.augment import Augmentation
from kd3d.datasets.base import SampleDataset
from kd3d.datasets.sample import Sample
from kd3d.detectors.batch import prepare
from kd3d.detectors.decode import decode_batch
from kd3d.detectors.model import CenterPoint
from kd3d.evaluation.evaluate import evaluate
from kd3d.geometry.boxes import Boxes3D
from kd3d.spec import to_json
from kd3d.training.unlabelled import Unlabelled, per_batch


@dataclass(frozen=True)
class CompressData:
    """Frames.

    Args:
        train: with labels.
        val: scored on; ``None`` leaves scores out.
        augmentation: of every training frame, or ``None``.
        database: objects that the augmentation pastes.
        max_range_m: scores count nothing farther from the car than this (nuScenes); ``None`` for the official ranges.
        unlabelled: further frames for the teacher alone to teach on; labels that they bring are never looked at. Trials
            of a search and the control do not see them.
        unlabelled_share: of the frames of a batch that are such frames.
    """

    train: SampleDataset
    val: SampleDataset | None = None
    augmentation: Augmentation | None = None
    database: Any = None
    max_range_m: float | None = None
    unlabelled: SampleDataset | None = None
    unlabelled_share: float = 0.5

    def beside(self, batch_size: int) -> Unlabelled | None:
        """The frames without labels, and how many of them a batch of ``batch_size`` has; ``None`` without any.

        Raises:
            UsageError: the batch has no room for both kinds.
        """
        if self.unlabelled is None:
            return None
        return Unlabelled(self.unlabelled, per_batch(self.unlabelled_share, batch_size))

    def identity(self) -> dict[str, Any]:
        """What a resumed run must find again, as JSON values: which frames, and how they are augmented.

        Of the folder only the name counts, so that a data set may be moved.
        """
        return {
            "train": _identity(self.train),
            "val": None if self.val is None else _identity(self.val),
            "augmentation": None if self.augmentation is None else to_json(self.augmentation),
            "paste": self.database is not None,
            **({} if self.max_range_m is None else {"max_range_m": self.max_range_m}),
            **self._unlabelled(),
        }

    def _unlabelled(self) -> dict[str, Any]:
        if self.unlabelled is None:
            return {}
        return {"unlabelled": {**_identity(self.unlabelled), "share": self.unlabelled_share}}


def _identity(dataset: SampleDataset) -> dict[str, Any]:
    root = getattr(dataset, "root", getattr(dataset, "nusc_root", None))
    tokens = hashlib.sha256("\n".join(dataset.tokens).encode()).hexdigest()[:16]
    found = {"kind": dataset.kind, "split": dataset.split, "frames": len(dataset), "tokens": tokens}
    return {"folder": None if root is None else Path(root).resolve().name, **found}


def predictor(module: CenterPoint) -> Callable[[Sample], Boxes3D]:
    """A function from a sample to the network's boxes, on the device of the network."""
    device = next(module.parameters()).device

    def predict(sample: Sample) -> Boxes3D:
        with torch.inference_mode():
            output = module(prepare([sample], module.spec).to(device))
            return decode_batch(output.heads, module.spec)[0]

    return predict


def score(
    module: CenterPoint,
    dataset: SampleDataset,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    max_range_m: float | None = None,
) -> dict[str, Any]:
    """The official metrics of ``module`` on ``dataset`` as JSON values (``mAP``, ``NDS``, per class).

    Args:
        module: left in the mode it was in.
        dataset: a whole split.
        out: receives the results files.
        progress: called with frames done and their number.
        max_range_m: see ``CompressData``.
    """
    training = module.training
    module.eval()
    try:
        return evaluate(
            predictor(module),
            dataset,
            classes=module.spec.head.classes,
            out_dir=out,
            progress=progress,
            max_range_m=max_range_m,
        ).to_json()
    finally:
        module.train(training)
