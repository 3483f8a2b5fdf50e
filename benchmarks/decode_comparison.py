"""Ways to decode the shipped teacher's maps: peaks, suppression and score threshold, all on the same forward passes.

    python benchmarks/decode_comparison.py [--scenes 1]

The network runs once per validation frame and every variant decodes those maps. The variants differ from the shipped
decoding in what their name says, and in nothing else. Suppression "per class" lets only boxes of one class suppress
each other; without it all classes of a task do. Times are of decoding and suppression, one thread. Writes
results/decode_comparison.json; with fewer scenes than the validation world has it only prints.

Whoever picks a decoding by this table picks it on the frames that the scores in the README are measured on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from worlds import RESULTS, VALIDATION, world

from kd3d.datasets.base import SampleDataset
from kd3d.datasets.frames import to_frame
from kd3d.detectors.assets import shipped_teacher
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.evaluation.evaluate import score_predictions
from kd3d.geometry.boxes import Boxes3D
from kd3d.runs import environment
from kd3d.runs.atomic import write_json
from kd3d.runtime.decode import candidates, suppress
from kd3d.runtime.heads import heads_from_arrays
from kd3d.spec import DetectorSpec, to_json

SHIPPED = "as shipped"
SUPPRESSIONS = (("none", None), ("rotate", 0.2), ("rotate", 0.5), ("circle", 0.5))
THRESHOLDS = (0.01, 0.03, 0.05, 0.1, 0.2, 0.3)


@dataclass
class Variant:
    """One way to decode.

    Args:
        name: for the table.
        spec: gives the candidates.
        suppressor: gives the suppression; with one task per class where boxes of different classes are to stay.
        predictions: boxes by token, filled frame by frame.
        times_ms: of decoding and suppression, likewise.
    """

    name: str
    spec: DetectorSpec
    suppressor: DetectorSpec
    predictions: dict[str, Boxes3D] = field(default_factory=dict)
    times_ms: list[float] = field(default_factory=list)

    def take(self, token: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Decode the maps of one frame and keep the boxes."""
        began = time.perf_counter()
        boxes = suppress(candidates(heads_from_arrays(arrays, self.spec), self.spec), self.suppressor)
        self.times_ms.append(1e3 * (time.perf_counter() - began))
        self.predictions[token] = boxes

    def row(self, dataset: SampleDataset, out: Path) -> dict[str, Any]:
        """Scores and costs, as recorded."""
        found = score_predictions(self.predictions, dataset, classes=self.spec.head.classes, out_dir=out).to_json()
        return {
            "name": self.name,
            "decode": to_json(self.suppressor.decode),
            "classes_suppress_each_other": self.suppressor.head.tasks == self.spec.head.tasks,
            **{key: found[key] for key in ("mAP", "NDS", "per_class")},
            "boxes_per_frame": float(np.mean([len(boxes) for boxes in self.predictions.values()])),
            "decode_and_nms_ms": {f"p{part}": float(np.percentile(self.times_ms, part)) for part in (50, 99)},
        }


def main() -> None:
    """Run the network once, decode in all ways, score, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=VALIDATION[2], help="fewer make a trial that records nothing")
    which = (*VALIDATION[:2], parser.parse_args().scenes)
    teacher = shipped_teacher()
    dataset, chosen = world(which, sweeps=teacher.spec.points.sweeps), list(variants(teacher.spec))
    pipeline = TorchPipeline(teacher)
    for index in range(len(dataset)):
        frame = to_frame(dataset[index])
        arrays = pipeline.network(pipeline.pre(frame))
        for variant in chosen:
            variant.take(frame.token, arrays)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, variant in enumerate(chosen):
            rows.append(variant.row(dataset, Path(folder) / str(number)))
            print("{name:34} mAP {mAP:.4f}  NDS {NDS:.4f}  {boxes_per_frame:6.1f} boxes".format(**rows[-1]), flush=True)
    record = {
        "benchmark": "decode_comparison",
        "frames": len(dataset),
        "validation_world": which,
        "shipped": to_json(teacher.spec.decode),
        "variants": rows,
        "environment": environment.record(),
    }
    if which == VALIDATION:
        write_json(RESULTS / "decode_comparison.json", record)


def variants(spec: DetectorSpec) -> Iterator[Variant]:
    """The shipped decoding first; then peaks with every suppression, over and per class; then thresholds."""
    yield Variant(SHIPPED, spec, spec)
    for kernel in (3, 1):
        for nms, threshold in SUPPRESSIONS:
            limits = spec.decode.nms_threshold if threshold is None else (threshold,) * len(spec.head.tasks)
            decode = replace(spec.decode, peak_kernel=kernel, nms=nms, nms_threshold=limits)
            changed = replace(spec, decode=decode)
            name = f"peaks {kernel}x{kernel}, {nms}" + ("" if threshold is None else f" {threshold:g}")
            if changed != spec:
                yield Variant(name, changed, changed)
            if threshold is not None:
                yield Variant(f"{name} per class", changed, one_task_per_class(changed))
    for threshold in THRESHOLDS:
        if threshold != spec.decode.score_threshold:
            changed = replace(spec, decode=replace(spec.decode, score_threshold=threshold))
            yield Variant(f"{SHIPPED}, score above {threshold:g}", changed, changed)


def one_task_per_class(spec: DetectorSpec) -> DetectorSpec:
    """The same classes in tasks of their own, for suppression; each with the threshold of the task it was in."""
    thresholds = [
        threshold
        for classes, threshold in zip(spec.head.tasks, spec.decode.nms_threshold, strict=True)
        for _ in classes
    ]
    return replace(
        spec,
        head=replace(spec.head, tasks=tuple((name,) for name in spec.head.classes)),
        decode=replace(spec.decode, nms_threshold=tuple(thresholds)),
    )


if __name__ == "__main__":
    main()
