"""The real nuScenes key frame: parity and latency of the published network (random weights) and the shipped teacher.

    python benchmarks/nuscenes_keyframe.py --out runs/nuscenes-keyframe

Random weights say nothing about accuracy, and the shipped teacher has never seen a real sensor; its boxes are
counted, not scored. Reads `$KD3D_SHARED/data/nuscenes_keyframe` (or `../shared/data/nuscenes_keyframe`).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from kd3d.bench import bench
from kd3d.cli.models import SHIPPED, load_model
from kd3d.cli.points import frames_at
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.export.onnx import export_onnx
from kd3d.export.parity import compare
from kd3d.runs import environment
from kd3d.runs.atomic import write_json
from kd3d.runtime.pipeline import load_pipeline

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("KD3D_SHARED", ROOT.parent / "shared")) / "data" / "nuscenes_keyframe"
RESULTS = Path(__file__).resolve().parent / "results" / "nuscenes_keyframe.json"
MODELS = {"nuscenes-centerpoint-pillar": "random", SHIPPED: "trained on the generated world"}
SHOWN_SCORE = 0.3


def measure(name: str, out: Path) -> dict[str, Any]:
    """Export with every gate, compare with torch on the key frame alone, and time."""
    model = load_model(name, presets=True)
    frames = frames_at(DATA, model.spec)
    export_onnx(model, out, frames=frames)
    with load_pipeline(out) as shipped:
        parity = compare(TorchPipeline(model, padded=True), shipped, frames).to_json()
        found = shipped(frames[0])
        times = bench({name: shipped}, frames, iterations=200, source={"source": "nuscenes_keyframe"})
    return {
        "weights": MODELS[name],
        "params": sum(parameter.numel() for parameter in model.module.parameters()),
        "points": len(frames[0].points),
        "boxes": int((found.score >= SHOWN_SCORE).sum()) if found.score is not None else 0,
        "parity": parity,
        "bench": times.to_json(),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    models = {name: measure(name, options.out / name) for name in MODELS}
    write_json(RESULTS, {"models": models, "shown_score": SHOWN_SCORE, "environment": environment.record()})


if __name__ == "__main__":
    main()
