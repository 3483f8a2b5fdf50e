"""From a detector, as a function of one sample, to the official metrics of its data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kd3d.datasets.base import SampleDataset
from kd3d.datasets.kitti import KittiDataset
from kd3d.datasets.kitti_boxes import camera_annotation
from kd3d.datasets.nuscenes import NuScenesDataset
from kd3d.datasets.sample import Sample
from kd3d.datasets.waymo import WaymoDataset
from kd3d.errors import DataError, UsageError
from kd3d.evaluation.kitti_eval import kitti_ap
from kd3d.evaluation.metrics import Metrics
from kd3d.evaluation.nuscenes_eval import evaluate_results
from kd3d.evaluation.results import check_tokens, write_results
from kd3d.evaluation.waymo_eval import LEVELS, waymo_ap
from kd3d.geometry.boxes import Boxes3D
from kd3d.runs.atomic import write_json

Predict = Callable[[Sample], Boxes3D]
Progress = Callable[[int, int], None]


def evaluate(
    predict: Predict,
    dataset: SampleDataset,
    *,
    classes: Sequence[str],
    out_dir: Path | str,
    progress: Progress | None = None,
    max_range_m: float | None = None,
) -> Metrics:
    """Run ``predict`` over every frame and score it; ``out_dir`` gets ``results.json`` (nuScenes) and ``metrics.json``.

    Args:
        predict: one sample to scored boxes in its LiDAR frame; ``label`` indexes ``classes``.
        dataset: nuScenes, KITTI or Waymo, with labels.
        classes: the detector's class names.
        out_dir: made when missing.
        progress: called with frames done and their number.
        max_range_m: see ``score_predictions``.

    Raises:
        DataError: a frame is damaged, or a class is not one of the data set's.
        OutputError: ``out_dir`` is not writable.
    """
    predictions = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        predictions[sample.token] = predict(sample)
        if progress is not None:
            progress(index + 1, len(dataset))
    return score_predictions(predictions, dataset, classes=classes, out_dir=out_dir, max_range_m=max_range_m)


def score_predictions(
    predictions: Mapping[str, Boxes3D],
    dataset: SampleDataset,
    *,
    classes: Sequence[str],
    out_dir: Path | str,
    max_range_m: float | None = None,
) -> Metrics:
    """Score detections that were made before, by token; otherwise as ``evaluate``.

    Args:
        predictions: scored boxes by token.
        dataset: they were made on.
        classes: that ``label`` indexes.
        out_dir: made when missing.
        max_range_m: nuScenes only: nothing farther from the ego vehicle counts; ``None`` for the official ranges.

    Raises:
        UsageError: a range that is not positive, or one for another data set than nuScenes.
        DataError: the tokens are not those of ``dataset``, or the data set is of no known kind.
    """
    if isinstance(dataset, NuScenesDataset):
        results = Path(out_dir) / "results.json"
        write_results(predictions, dataset, classes, results)
        where = (dataset.nusc_root, dataset.version, dataset.split)
        return evaluate_results(results, *where, out_dir, samples=dataset.tokens, max_range_m=max_range_m)
    if max_range_m is not None:
        raise UsageError("a range to score within is known for nuScenes only; KITTI's AP has difficulties instead.")
    if isinstance(dataset, KittiDataset):
        metrics = _score_kitti(predictions, dataset, tuple(classes))
    elif isinstance(dataset, WaymoDataset):
        metrics = _score_waymo(predictions, dataset, tuple(classes))
    else:
        raise DataError(f"{type(dataset).__name__}: only a whole nuScenes, KITTI or Waymo split can be evaluated.")
    write_json(Path(out_dir) / "metrics.json", metrics.to_json())
    return metrics


def _score_kitti(predictions: Mapping[str, Boxes3D], dataset: KittiDataset, classes: tuple[str, ...]) -> Metrics:
    check_tokens(set(predictions), set(dataset.tokens), where=f"the predictions for {dataset.split}")
    unknown = [name for name in classes if name not in dataset.classes]
    if unknown:
        raise DataError(f"{', '.join(unknown)}: not a KITTI class. Use {', '.join(dataset.classes)}.")
    found = [
        camera_annotation(
            predictions[token], dataset.calibration(i), classes=classes, image_size_px=dataset.image_size_px(i)
        )
        for i, token in enumerate(dataset.tokens)
    ]
    ap = kitti_ap(found, [dataset.annotation(i) for i in range(len(dataset))], classes)
    per_class = {name: ap.value["3d"][name]["moderate"] for name in classes}
    return Metrics(
        mAP=float(np.mean(list(per_class.values()))),
        NDS=None,
        per_class=per_class,
        extras={"ap_r40": ap.value, "objects": ap.objects},
    )


def _score_waymo(predictions: Mapping[str, Boxes3D], dataset: WaymoDataset, classes: tuple[str, ...]) -> Metrics:
    if dataset.split == "test":
        raise DataError("the split test of the Waymo Open Dataset has no labels. Evaluate on val.")
    check_tokens(set(predictions), set(dataset.tokens), where=f"the predictions for {dataset.split}")
    labels = [dataset.labels(index) for index in range(len(dataset))]
    ap = waymo_ap([predictions[token] for token in dataset.tokens], labels, classes)
    means = {level: {f"m{name}": ap.mean(level, name) for name in ("AP", "APH")} for level in LEVELS}
    return Metrics(
        mAP=means["LEVEL_2"]["mAP"],
        NDS=None,
        per_class={name: ap.value[name]["LEVEL_2"]["AP"] for name in classes},
        extras={"mAPH": means["LEVEL_2"]["mAPH"], "levels": means, "waymo_ap": ap.value, "objects": ap.objects},
    )
