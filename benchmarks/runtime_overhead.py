"""What our runtime adds to the network: pipelines beside a bare ONNX Runtime session, and host work beside the network.

    python benchmarks/runtime_overhead.py [--frames N] [--repeats N] [--out FILE]

Two questions, on the shipped teacher in ONNX Runtime on the CPU, over frames of the validation world:

* ``network``: the runner's ``infer`` against ``session.run`` of the same ONNX on the same inputs, in turns that begin
  with the one and with the other alternately. ``ratio`` is the median over frames of the paired ratios of the fastest
  repeats; at most 1.05 is asked for.
* ``host``: points to pillars, decoding and NMS together, as a share of the network's time in the same pipeline, medians
  over frames; under 20 % is asked for.

Writes benchmarks/results/runtime_overhead.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
from worlds import RESULTS, VALIDATION, world

from kd3d.datasets.frames import to_frame
from kd3d.detectors.assets import shipped_teacher
from kd3d.export.onnx import export_onnx
from kd3d.runs.atomic import write_json
from kd3d.runs.environment import record
from kd3d.runtime.pipeline import Pipeline, load_pipeline
from kd3d.runtime.runners import OrtRunner

MAX_RATIO, MAX_SHARE = 1.05, 0.20


def main() -> None:
    """Export, time, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "runtime_overhead.json")
    options = parser.parse_args()
    teacher = shipped_teacher()
    scenes = world(VALIDATION, sweeps=teacher.spec.points.sweeps)
    frames = [to_frame(scenes[index * len(scenes) // options.frames]) for index in range(options.frames)]
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(teacher, Path(folder) / "teacher")
        network = compare_network(Path(folder) / "teacher", frames, options.repeats)
        host = host_share(Path(folder) / "teacher", frames, options.repeats)
    print(f"network: {network['ratio']:.3f} times a bare session (asked for: at most {MAX_RATIO})")
    print(f"host: {100 * host['share']:.1f} % of the network (asked for: under {100 * MAX_SHARE:.0f} %)")
    settings = {"frames": options.frames, "repeats": options.repeats, "threads": "as ONNX Runtime chooses"}
    write_json(
        options.out,
        {
            "benchmark": "runtime_overhead",
            "model": teacher.spec.name,
            "settings": settings,
            "network": network,
            "host": host,
            "environment": record(),
        },
    )


def compare_network(export: Path, frames: list[Any], repeats: int) -> dict[str, Any]:
    """The runner against a session that is set up alike, frame by frame."""
    onnx = export / "model.onnx"
    setup = onnxruntime.SessionOptions()
    setup.use_deterministic_compute, setup.log_severity_level = True, 3
    session = onnxruntime.InferenceSession(str(onnx), setup, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    rows = []
    with OrtRunner(onnx) as runner, load_pipeline(export) as pipeline:
        for index, frame in enumerate(frames):
            feeds = {name: value.copy() for name, value in pipeline.pre(frame).items()}
            contenders = {
                "bare": lambda given=feeds: session.run(names, given),
                "kd3d": lambda given=feeds: runner.infer(given),
            }
            rows.append(in_turns(contenders, repeats, start=index))
    ratios = sorted(row["kd3d"] / row["bare"] for row in rows)
    return {
        "ratio": median(ratios),
        "ratio_p10": ratios[len(ratios) // 10],
        "ratio_p90": ratios[len(ratios) * 9 // 10],
        "bare_ms": median(row["bare"] for row in rows),
        "kd3d_ms": median(row["kd3d"] for row in rows),
        "bar": MAX_RATIO,
    }


def in_turns(contenders: dict[str, Callable[[], Any]], repeats: int, *, start: int) -> dict[str, float]:
    """Fastest time of each in milliseconds; the one to begin changes from turn to turn."""
    order = list(contenders)
    for name in order:
        contenders[name]()
    best = dict.fromkeys(order, float("inf"))
    for turn in range(start, start + repeats):
        for name in order if turn % 2 else reversed(order):
            began = time.perf_counter_ns()
            contenders[name]()
            best[name] = min(best[name], (time.perf_counter_ns() - began) / 1e6)
    return best


def host_share(export: Path, frames: list[Any], repeats: int) -> dict[str, Any]:
    """Stages of the whole pipeline, fastest of the repeats of each frame, medians over frames."""
    rows: list[dict[str, float]] = []
    with load_pipeline(export) as pipeline:
        one_frame(pipeline, frames[0])
        for frame in frames:
            times = [one_frame(pipeline, frame) for _ in range(repeats)]
            rows.append({stage: min(found[stage] for found in times) for stage in pipeline.stages})
    stages = {stage: median(row[stage] for row in rows) for stage in Pipeline.stages}
    shares = sorted((row["pre"] + row["decode"] + row["nms"]) / row["network"] for row in rows)
    return {
        "share": median(shares),
        "share_p90": shares[len(shares) * 9 // 10],
        "stages_ms": stages,
        "bar": MAX_SHARE,
    }


def one_frame(pipeline: Pipeline, frame: Any) -> dict[str, float]:
    """Milliseconds of each stage of one frame."""
    found, value = {}, frame
    for stage in pipeline.stages:
        began = time.perf_counter_ns()
        value = getattr(pipeline, stage)(value)
        found[stage] = (time.perf_counter_ns() - began) / 1e6
    return found


if __name__ == "__main__":
    main()
