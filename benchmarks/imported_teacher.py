"""The main job on a teacher of another framework: an OpenPCDet checkpoint becomes an exported, timed student.

    python benchmarks/imported_teacher.py [--steps N] [--scenes N] [--work FOLDER] [--out FILE]

The shipped teacher, trained on the generated world, is written in OpenPCDet's container with OpenPCDet's names, layouts
and configuration. Imported again it must give the same maps and score the same; then one command,
``kd3d compress --teacher model.pth --config model.yaml ... --bench``, makes a student of it, exports both, and times
both in turns. The way to boxes is the preset's (``--like``): OpenPCDet has no local maxima. A few minutes on one core:
the student's training is far too short to say what a student can reach. Writes results/imported_teacher.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from worlds import RESULTS

from kd3d.cli.main import run
from kd3d.compress.data import score
from kd3d.datasets.frames import to_frame
from kd3d.datasets.open import open_dataset
from kd3d.detectors.assets import shipped_teacher
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.importers.openpcdet_file import write_openpcdet
from kd3d.importers.request import import_file
from kd3d.runs import environment
from kd3d.runs.atomic import write_json

SEED, LIKE, BUDGET = 5150, "world-centerpoint-pillar", "25%"
COMPARED_FRAMES = 5


def main() -> None:
    """Write, import, compare, compress, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--work", type=Path, help="Keep the world, the checkpoint and the run here.")
    parser.add_argument("--out", type=Path, default=RESULTS / "imported_teacher.json")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        record = measure(asked.work or Path(temporary), asked)
    write_json(asked.out, record)
    print(json.dumps({key: record[key] for key in ("native", "imported", "teacher", "student", "maps")}))


def measure(work: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    native, world = shipped_teacher(), work / "world"
    checkpoint, config = write_openpcdet(work / "openpcdet", native)
    call("data", "synth", "--out", world, "--scenes", asked.scenes, "--samples", asked.samples, "--seed", SEED,
         "--no-cameras", "--force")  # fmt: skip
    imported = import_file(checkpoint, config=config, like=LIKE).model
    frames = open_dataset(world, split="val", sweeps=native.spec.points.sweeps)
    scores = {
        name: {key: score(model.module, frames, work / f"{name}-evaluation")[key] for key in ("mAP", "NDS")}
        for name, model in (("native", native), ("imported", imported))
    }
    command = ["compress", "--teacher", checkpoint, "--config", config, "--like", LIKE, "--data", world,
               "--budget-flops", BUDGET, "--bench"]  # fmt: skip
    training = ["--steps", asked.steps, "--lr", 2e-3, "--norm-momentum", 0.1, "--cells", 1, "--seed", 1, "--force"]
    start = time.perf_counter()
    made = call(*command, "--out", work / "run", *training)
    return {
        "benchmark": "imported_teacher",
        "seed": SEED,
        "frames": {"validation": len(frames), "scenes": asked.scenes, "samples_per_scene": asked.samples},
        "command": "kd3d "
        + " ".join(part.name if isinstance(part, Path) else str(part) for part in command + training),
        "compress_minutes": (time.perf_counter() - start) / 60,
        **scores,
        "maps": largest_differences(native, imported, frames),
        **{side: brief(made, side) for side in ("teacher", "student")},
        "speedup_p50": made["teacher"]["latency_ms_p50"] / made["student"]["latency_ms_p50"],
        "macs_share": made["student"]["macs"] / made["teacher"]["macs"],
        "environment": environment.record(),
    }


def brief(made: dict[str, Any], side: str) -> dict[str, Any]:
    """What is published of one model."""
    parity = made["export"][side]["parity"]
    kept = ("mAP", "NDS", "macs", "params", "latency_ms_p50", "fps")
    return {**{key: made[side][key] for key in kept}, "parity": {k: parity[k] for k in ("passed", "matched", "boxes")}}


def largest_differences(native: Model, imported: Model, frames: Any) -> dict[str, Any]:
    """Of the head maps, relative to the largest value (at least 1), and how many boxes there are on each side."""
    pipelines, worst = [TorchPipeline(native), TorchPipeline(imported)], 0.0
    counts = [0, 0]
    for index in range(min(COMPARED_FRAMES, len(frames))):
        frame = to_frame(frames[index])
        ours, theirs = ({k: np.asarray(v) for k, v in p.network(p.pre(frame)).items()} for p in pipelines)
        for name, value in ours.items():
            worst = max(worst, float(np.abs(value - theirs[name]).max() / max(1.0, np.abs(value).max())))
        counts = [count + len(pipeline(frame)) for count, pipeline in zip(counts, pipelines, strict=True)]
    return {"largest_relative_difference": worst, "boxes": counts, "frames": min(COMPARED_FRAMES, len(frames))}


def call(*arguments: Any) -> dict[str, Any]:
    """A command line, and the object of its last line."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = run([*map(str, arguments), "--json"])
    if code:
        raise SystemExit(f"kd3d {' '.join(map(str, arguments))} ended with {code}: {said.getvalue()[-2000:]}")
    found: dict[str, Any] = json.loads(said.getvalue().splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
