"""nuScenes mAP and NDS, computed by the devkit's own ``DetectionEval``."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kd3d.datasets.nuscenes_tables import CLASSES, find_version, open_database, resolve_split, split_scenes
from kd3d.datasets.quiet import quiet
from kd3d.errors import DataError, UsageError
from kd3d.evaluation.metrics import Metrics, finite
from kd3d.evaluation.results import MAX_BOXES, check_tokens
from kd3d.optional import require
from kd3d.runs.atomic import read_json, write_json

CONFIG = "detection_cvpr_2019"
TP_ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
# Errors that have no meaning for a class: cones have no front, barriers and cones no speed and no attributes.
_NOT_APPLICABLE = {"traffic_cone": ("attr_err", "vel_err", "orient_err"), "barrier": ("attr_err", "vel_err")}


def evaluate_results(
    results_path: Path | str,
    dataset_root: Path | str,
    version: str | None,
    split: str,
    out_dir: Path | str,
    *,
    samples: Collection[str] | None = None,
    max_range_m: float | None = None,
) -> Metrics:
    """Score an official results file.

    Args:
        results_path: the file, of any detector.
        dataset_root: the folder with the database it was made on.
        version: such as ``v1.0-mini``; found when ``None``.
        split: ``train``, ``val`` or an official split name.
        out_dir: gets ``metrics.json``.
        samples: tokens of the split that the file covers; ``None`` for all, as the official metrics are defined.
        max_range_m: objects and boxes farther from the ego vehicle do not count; ``None`` keeps the official range of
            each class. With it the metrics are not the official ones.

    Raises:
        UsageError: ``max_range_m`` is not positive.
        DataError: the results file is damaged, or its samples are not those of the split.
        OutputError: ``out_dir`` is not writable.
    """
    if max_range_m is not None and not max_range_m > 0:
        raise UsageError(f"the range to score within must be positive, not {max_range_m:g} m.")
    results_path, root = Path(results_path), Path(dataset_root)
    version = find_version(root, version)
    split = resolve_split(split, version)
    nusc = open_database(root, version)
    tokens = _split_tokens(nusc, split)
    if samples is not None and not tokens <= set(samples):
        tokens &= set(samples)
        nusc = _Part(nusc, tokens)
    boxes = _check_results(results_path, tokens)
    metrics = _devkit_metrics(nusc, results_path, split, max_range_m) if boxes else _nothing_found()
    write_json(Path(out_dir) / "metrics.json", metrics.to_json())
    return metrics


class _Part:
    """The devkit's database, with only some of its samples listed; everything else is the database's own."""

    def __init__(self, nusc: Any, tokens: set[str]) -> None:
        self._nusc = nusc
        self.sample = [sample for sample in nusc.sample if sample["token"] in tokens]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nusc, name)


def _split_tokens(nusc: Any, split: str) -> set[str]:
    names = split_scenes(split)
    scenes = {scene["token"] for scene in nusc.scene if scene["name"] in names}
    tokens = {sample["token"] for sample in nusc.sample if sample["scene_token"] in scenes}
    if not tokens:
        raise DataError(f"{nusc.table_root}: has no scene of the split {split}. Choose another split.")
    return tokens


def _check_results(path: Path, tokens: set[str]) -> int:
    """Number of boxes in the file, after what the devkit would only assert has been checked."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict) or "meta" not in content:
        raise DataError(f"{path}: not a nuScenes results file (no 'results' and 'meta'). Write it with kd3d eval.")
    results: dict[str, list[Any]] = content["results"]
    check_tokens(set(results), tokens, where=str(path))
    odd = [token for token, rows in results.items() if not isinstance(rows, list)]
    if odd:
        raise DataError(f"{path}: sample {odd[0]} has no list of boxes. Write the file with kd3d eval.")
    full = [token for token, rows in results.items() if len(rows) > MAX_BOXES]
    if full:
        raise DataError(f"{path}: sample {full[0]} has more than {MAX_BOXES} boxes. Keep the best {MAX_BOXES}.")
    return sum(len(rows) for rows in results.values())


def _devkit_metrics(nusc: Any, results_path: Path, split: str, max_range_m: float | None) -> Metrics:
    config = require("nuscenes.eval.common.config", extra="nuscenes").config_factory(CONFIG)
    if max_range_m is not None:
        config.class_range = {name: min(limit, max_range_m) for name, limit in config.class_range.items()}
    evaluation = require("nuscenes.eval.detection.evaluate", extra="nuscenes")
    with tempfile.TemporaryDirectory() as scratch, quiet():
        try:
            run = evaluation.DetectionEval(
                nusc, config, result_path=str(results_path), eval_set=split, output_dir=scratch, verbose=False
            )
            summary = run.evaluate()[0].serialize()
        except (AssertionError, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise DataError(
                f"{results_path}: the devkit refuses it ({type(error).__name__}: {error}). "
                "Check every box against the nuScenes results format."
            ) from error
    metrics = _metrics(summary)
    return metrics if max_range_m is None else replace(metrics, extras={**metrics.extras, "max_range_m": max_range_m})


def _metrics(summary: dict[str, Any]) -> Metrics:
    return Metrics(
        mAP=float(summary["mean_ap"]),
        NDS=float(summary["nd_score"]),
        per_class={name: float(summary["mean_dist_aps"][name]) for name in CLASSES},
        tp_errors={name: float(summary["tp_errors"][name]) for name in TP_ERRORS},
        extras={
            "config": CONFIG,
            "label_aps": finite(summary["label_aps"]),
            "label_tp_errors": finite(summary["label_tp_errors"]),
        },
    )


def _nothing_found() -> Metrics:
    """The score of a file without any box, on which the devkit stops: no precision, and every error at its worst."""
    errors = {
        name: {metric: np.nan if metric in _NOT_APPLICABLE.get(name, ()) else 1.0 for metric in TP_ERRORS}
        for name in CLASSES
    }
    return Metrics(
        mAP=0.0,
        NDS=0.0,
        per_class=dict.fromkeys(CLASSES, 0.0),
        tp_errors=dict.fromkeys(TP_ERRORS, 1.0),
        extras={"config": CONFIG, "label_tp_errors": finite(errors)},
    )
