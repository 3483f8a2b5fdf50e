"""What the vehicle's side reads: exports, engines, latency tables, blocks, benchmarks. Damaged."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
from targets import Target, command, finite, support

ENGINE = b"an engine of no runtime " * 40


def _export(folder: Path) -> None:
    """An export of the tiny detector whose network needs no torch."""
    from kd3d.bench.synthetic import synthetic_frames
    from kd3d.export.manifest import export_json, pipeline_json
    from kd3d.spec import to_json

    network = support("tiny_network")
    out = folder / "export"
    out.mkdir()
    network.write_network(out / "model.onnx")
    (out / "spec.json").write_text(json.dumps(to_json(network.TINY)))
    (out / "pipeline.json").write_text(json.dumps(pipeline_json(network.TINY, pillars=None)))
    parity = {"boxes": 3, "matched": 3, "frames": 1}
    gates = [{"name": "checker", "state": "passed"}, {"name": "parity", "state": "passed"}]
    record = export_json(
        model={"name": "x"}, artifact=out / "model.onnx", opset=20, pillars=None, operators={"Tile": 1}, parity=parity,
        gates=gates,
    )  # fmt: skip
    (out / "export.json").write_text(json.dumps(record))
    np.save(folder / "cloud.npy", synthetic_frames(network.TINY, count=1, points=500)[0].points)


def _infer(folder: Path) -> Any:
    return command("infer", "--model", "export", "--points", "cloud.npy")


def _infer_file(folder: Path) -> Any:
    return command("infer", "--model", "export/model.onnx", "--points", "cloud.npy")


def _boxed(found: Any) -> str:
    numbers = [value for box in found["boxes"] for value in box.values() if isinstance(value, (int, float))]
    return "" if finite(numbers) else "boxes that are not finite"


def _source(folder: Path) -> Any:
    words = ("export", "trt", "--model", "export", "--out", "engine", "--print-trtexec", "8.6")
    return command(*words)


def _engine(folder: Path) -> None:
    from kd3d.export.manifest import pipeline_json
    from kd3d.spec import to_json

    spec = support("tiny_network").TINY
    record = {
        "format": 1,
        "runtime": "tensorrt",
        "version": "10.3.0",
        "device": {"name": "Orin", "driver": "R36", "compute_capability": [8, 7]},
        "machine": {"architecture": platform.machine()},
        "settings": {"version_compatible": False, "hardware": "none", "capabilities": []},
        "engine": {"file": "model.engine", "bytes": len(ENGINE), "sha256": hashlib.sha256(ENGINE).hexdigest()},
    }
    (folder / "model.engine").write_bytes(ENGINE)
    (folder / "engine.json").write_text(json.dumps(record))
    (folder / "spec.json").write_text(json.dumps(to_json(spec)))
    told = pipeline_json(spec, kind="engine", file="model.engine", pillars=None)
    (folder / "pipeline.json").write_text(json.dumps(told))


def _read_engine(folder: Path) -> Any:
    from kd3d.runtime.device.protocol import DeviceInfo
    from kd3d.runtime.engine_file import read_engine_file
    from kd3d.runtime.pipeline import load_pipeline

    load_pipeline(folder)
    found = read_engine_file(folder)
    found.check_version("10.3.0")
    found.check_device(DeviceInfo("Orin", (8, 7), "12.6", 1 << 35, True))
    return found.read()


def _whole(content: bytes) -> str:
    return "" if content == ENGINE else "another engine"


def _table(folder: Path) -> None:
    from kd3d.bench.make_table import Effort, make_table

    _blocks(folder)
    effort = Effort(rounds=2, warmup_s=0, warmups=1, sample_s=0, least=1, most=1)
    make_table(folder / "blocks.zip", folder / "table.json", threads=1, effort=effort)
    (folder / "blocks.zip").unlink()


def _predict(folder: Path) -> Any:
    from kd3d.bench.latency_table import read_table
    from kd3d.compress.search.latency import LatencyModel
    from kd3d.compress.search.stats import PillarStats
    from kd3d.detectors.presets import preset

    table = read_table(folder / "table.json")
    model = LatencyModel(table, stats=lambda spec: PillarStats(200.0, 600.0))
    return [model.predict(preset("world-centerpoint-pillar-tiny"))]


def _positive(values: Any) -> str:
    return "" if finite(values) and min(values) > 0 else f"{values} ms"


def _blocks(folder: Path) -> None:
    from kd3d.compress.search.space import Space
    from kd3d.compress.search.stats import PillarStats
    from kd3d.compress.search.write_blocks import write_blocks
    from kd3d.detectors.presets import preset

    space = Space(encoder=(1.0,), backbone=(0.5, 1.0), neck=(1.0,), head=(1.0,), depth=(1.0,), cell=(1.0,))
    teacher = preset("world-centerpoint-pillar-tiny")
    write_blocks(folder / "blocks.zip", teacher, space, stats=lambda spec: PillarStats(200.0, 600.0), networks=2)


def _read_blocks(folder: Path) -> Any:
    from kd3d.bench.block_file import BlockFile

    with BlockFile(folder / "blocks.zip") as file:
        return [(len(file.graph(item)), sum(array.nbytes for array in item.feeds().values())) for item in file.items]


def _benchmark(folder: Path) -> None:
    from kd3d.bench.statistics import summary

    times = [10.0 + index / 9 for index in range(40)]
    models = [
        {"name": name, "device": "cpu", "runtime": "onnxruntime", "threads": 1, "e2e_ms": summary(times)}
        for name in ("a", "b")
    ]
    about = {"schema": "kd3d.bench/1", "env": {"date": "2026-11-21", "machine": {"cpu": "C", "gpus": []}}}
    (folder / "bench.json").write_text(json.dumps({**about, "frames": {"digest": "d"}, "models": models}))


def _compare(folder: Path) -> Any:
    from kd3d.bench.baseline import check_comparable, judge, read_baseline, verdict_line
    from kd3d.bench.statistics import summary

    found = read_baseline(folder / "bench.json")
    about = {"device": "cpu", "runtime": "onnxruntime", "threads": 1}
    check_comparable(found, {"a": about}, machine={"cpu": "C", "gpus": []}, digest="d")
    verdict = judge(found, {"models": [{"name": "a", **about, "e2e_ms": summary([10.0, 11.0, 12.0])}]})
    return [verdict_line(row) for row in verdict["models"]]


VEHICLE = (
    Target("export", _export, ("export/*",), _infer, _boxed, 400),
    Target("onnx", _export, ("export/model.onnx",), _infer_file, _boxed, 400),
    Target("export-to-tensorrt", _export, ("export/*",), _source, count=300),
    Target("engine", _engine, ("*",), _read_engine, _whole, 300),
    Target("latency-table", _table, ("table.json",), _predict, _positive, 200),
    Target("blocks", _blocks, ("blocks.zip",), _read_blocks, count=250),
    Target("baseline", _benchmark, ("bench.json",), _compare, count=300),
)
