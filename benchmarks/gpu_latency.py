"""Points to boxes on a GPU: CP-Pillar for Waymo and its student v0.64, in fp16, beside what the GPU could do at best.

    python benchmarks/gpu_latency.py [--iterations 200] [--out FILE]

Each detector (random weights: time does not depend on them) runs as torch between the CUDA kernels, with and without
CUDA graphs; as an fp16 ONNX in ONNX Runtime where it has the CUDA provider; as an engine where TensorRT is installed.
What is not installed is named in the record. Clouds are generated, 160,000 points each, as a Waymo frame has. The
roofline is the datasheet's dense fp16 rate and bandwidth of the device, over the same pillars.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch_network import TorchNetwork
from worlds import RESULTS

from kd3d.bench import BenchSettings, full_bench
from kd3d.bench.synthetic import SyntheticFrame, synthetic_frames
from kd3d.compress.search.cost import PillarStats, cost
from kd3d.compress.search.roofline import Roofline, parse_roofline
from kd3d.detectors.batch import prepare
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import BackendError
from kd3d.runs import environment
from kd3d.runs.atomic import write_json
from kd3d.runtime.cuda.pipeline import CudaPipeline
from kd3d.runtime.device.choose import open_backend
from kd3d.spec import DetectorSpec

DETECTORS = ("waymo-centerpoint-pillar", "waymo-centerpoint-pillar-v0.64")
POINTS, FRAMES, PUBLISHED_FPS = 160_000, 20, 51.0  # SparseKD (arXiv 2205.15156), v0.64 on an A100
PEAKS = {"H200": (989, 4800), "H100": (989, 3350), "A100": (312, 2039)}  # TFLOPS, GB/s: NVIDIA's datasheets


def measure(name: str, settings: BenchSettings, roofline: Roofline | None) -> dict[str, Any]:
    """All runtimes of one detector."""
    spec = preset(name)
    frames = synthetic_frames(spec, count=FRAMES, points=POINTS)
    torch.manual_seed(0)
    module = build(spec).eval()
    found: dict[str, Any] = {"points": POINTS, "frames": "generated", **at_best(spec, frames, roofline)}
    for graphs in (False, True):
        backend = open_backend("torch", torch=torch)
        network = TorchNetwork(module, backend, graphs=graphs)
        with CudaPipeline(spec, network) as pipeline:
            found[network.name] = bench({network.name: pipeline}, frames, settings)
            found[network.name]["around_network_ms"] = around(pipeline, frames)
    found.update(exported(name, settings.iterations))
    return found


def at_best(spec: DetectorSpec, frames: list[SyntheticFrame], roofline: Roofline | None) -> dict[str, Any]:
    """MACs over the mean pillars of the clouds, and the time that the device needs at least."""
    counts = [prepare([frame], spec).counts for frame in frames[:5]]  # type: ignore[union-attr, list-item]
    pillars = sum(len(one) for one in counts) / len(counts)
    price = cost(spec, PillarStats(pillars, float(sum(int(one.sum()) for one in counts)) / len(counts)))
    told = {"pillars": pillars, "macs": price.macs, "params": price.params}
    return {**told, "roofline_ms": roofline.estimate_ms(price)} if roofline else told


def bench(pipelines: dict[str, Any], frames: list[SyntheticFrame], settings: BenchSettings) -> dict[str, Any]:
    """End-to-end latency and stages of one pipeline."""
    models = {name: {"device": "cuda", "runtime": "torch"} for name in pipelines}
    report = full_bench(pipelines, frames, settings=settings, models=models)
    (row,) = report.to_json()["models"]
    median = row["e2e_ms"]["p50"]
    return {
        "e2e_ms": row["e2e_ms"],
        "stages": row["stages"],
        "fps": 1e3 / median,
        "times_published_v0.64": 1e3 / median / PUBLISHED_FPS,
    }


def around(pipeline: CudaPipeline, frames: list[SyntheticFrame]) -> dict[str, float]:
    """Device time of pre-processing, decoding and suppression together, by the device's clock; median and worst."""
    times = []
    for frame in frames * 3:
        pipeline.nms(pipeline.decode(pipeline.network(pipeline.pre(frame))))  # type: ignore[arg-type]
        times.append(sum(pipeline.device_ms[stage] for stage in ("pre", "decode", "nms")))
    times = sorted(times[len(frames) :])
    return {"p50": times[len(times) // 2], "max": times[-1]}


def exported(name: str, iterations: int) -> dict[str, Any]:
    """The exported network in ONNX Runtime and TensorRT, through the command line as a user has it."""
    import onnxruntime

    found: dict[str, Any] = {}
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    engine = importlib.util.find_spec("tensorrt") is not None
    if not cuda:
        found["onnxruntime-cuda"] = "not measured: this ONNX Runtime has no CUDA provider (onnxruntime-gpu)"
    if not engine:
        found["tensorrt"] = "not measured: TensorRT is not installed"
    if not (cuda or engine):
        return found
    with TemporaryDirectory() as folder:
        onnx, built = f"{folder}/onnx", f"{folder}/engine"
        try:
            command("export", "onnx", "--model", name, "--out", onnx, "--precision", "fp16")
            if cuda:
                found["onnxruntime-cuda"] = timed(onnx, iterations, "--provider", "cuda")
            if engine:
                command("export", "trt", "--model", onnx, "--out", built)
                found["tensorrt"] = timed(built, iterations, "--device-stages", "cuda", "--cuda-graph")
        except BackendError as error:
            found["exported"] = f"not measured: {error}"
    return found


def timed(artefact: str, iterations: int, *how: str) -> dict[str, Any]:
    """One artefact under ``kd3d bench``."""
    words = ("--synthetic", "--iterations", str(iterations), "--streams", "1", "--no-power")
    (row,) = command("bench", artefact, *words, *how)["models"]
    return {key: row[key] for key in ("e2e_ms", "stages")}


def command(*words: str) -> dict[str, Any]:
    """The JSON line of a command of kd3d.

    Raises:
        BackendError: it failed; its last line.
    """
    done = subprocess.run(
        [sys.executable, "-m", "kd3d.cli", *words, "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise BackendError(f"kd3d {words[0]} {words[1]} ended with {done.returncode}: {lines[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def ceilings(text: str | None) -> Roofline | None:
    """Those that were given, or the datasheet's of this device."""
    if text is not None:
        return parse_roofline(text)
    name = torch.cuda.get_device_name()
    return next((Roofline(*peak) for known, peak in PEAKS.items() if known in name), None)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--roofline", help="TFLOPS,GBPS; by default the datasheet's of the device, if it is known")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_latency.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here; nothing was measured.")
    settings, roofline = BenchSettings(iterations=options.iterations, warmup=30), ceilings(options.roofline)
    record: dict[str, Any] = {
        "benchmark": "gpu_latency",
        "gpu": torch.cuda.get_device_name(),
        "roofline": None if roofline is None else {"tflops": roofline.tflops, "gbps": roofline.gbps},
        "detectors": {},
    }
    for name in DETECTORS:
        record["detectors"][name] = measure(name, settings, roofline)
        write_json(options.out, {**record, "environment": environment.record()})
        print(name, json.dumps(record["detectors"][name]), flush=True)


if __name__ == "__main__":
    main()
