"""Predicted against measured latency of random students, on this machine.

    python benchmarks/latency_prediction.py [--teacher PRESET ...] [--provider cpu|cuda] [--threads N] [--students 30]

Per teacher: the blocks of its space are written and measured as `kd3d search --write-blocks` and `kd3d bench
--make-table` do; then students that the table does not know, drawn evenly over widths that need not be in the space,
and costing 15 to 60 % of the teacher's MACs, are exported from torch and timed in turns. Reported: median and largest
relative error, rank correlation (Spearman) with latency, and for comparison that of MACs with latency. The number of
pillars is that of synthetic frames of 30000 points. Writes results/latency_prediction.json (-cuda with that provider).
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from worlds import RESULTS

from kd3d.bench.block_file import Item
from kd3d.bench.make_table import Effort, make_table, summarise, time_graph
from kd3d.bench.synthetic import synthetic_frames
from kd3d.compress.search.block_graphs import network_inputs
from kd3d.compress.search.blocks import grid_key, rows
from kd3d.compress.search.cost import cost
from kd3d.compress.search.latency import LatencyModel
from kd3d.compress.search.space import Choice, Space, scaled
from kd3d.compress.search.stats import PillarStats
from kd3d.compress.search.write_blocks import Stats, write_blocks
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.export.graph import write_graph
from kd3d.runs import environment
from kd3d.runs.atomic import write_json
from kd3d.runtime.pillars import hard_pillars
from kd3d.spec import DetectorSpec

TEACHERS = ("world-centerpoint-pillar", "kitti-centerpoint-pillar")
LOW, HIGH, POINTS = 0.15, 0.60, 30000


def main() -> None:
    """Measure, predict, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", nargs="+", default=list(TEACHERS))
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--students", type=int, default=30)
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--blocks", type=int, default=600, help="about how many at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample-s", type=float, default=0.2)
    parser.add_argument("--cpu-clock", action="store_true", help="processor time, for a busy machine; one thread only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.cpu_clock and asked.threads != 1:
        parser.error("--cpu-clock needs --threads 1")
    record: dict[str, Any] = {"benchmark": "latency_prediction", "settings": {**vars(asked), "out": None}}
    record["teachers"] = {name: _teacher(name, asked) for name in asked.teacher}
    record["environment"] = environment.record()
    suffix = "" if asked.provider == "cpu" else f"_{asked.provider}"
    write_json(asked.out / f"latency_prediction{suffix}.json", record)
    for name, found in record["teachers"].items():
        print(name, {key: value for key, value in found.items() if key not in ("students", "table")})


def _teacher(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    teacher, stats = preset(name), synthetic_stats()
    students = random_students(teacher, stats, count=asked.students, seed=asked.seed)
    effort = Effort(rounds=asked.rounds, sample_s=asked.sample_s)
    how: dict[str, Any] = {
        "provider": asked.provider,
        "threads": asked.threads or None,
        "clock_ns": time.process_time_ns if asked.cpu_clock else time.perf_counter_ns,
        "effort": effort,
    }
    with tempfile.TemporaryDirectory() as folder:
        zipped = Path(folder) / "blocks.zip"
        written = write_blocks(zipped, teacher, Space(), stats=stats, networks=asked.networks, limit=asked.blocks)
        began = time.perf_counter()
        table = make_table(zipped, Path(folder) / "table.json", **how, progress=_line(name))
        table_s = time.perf_counter() - began
        measured = _measure(students, stats, Path(folder), how)
    model = LatencyModel(table, stats=stats)
    explained = [model.explain(spec) for spec in students]
    predicted = np.array([found.ms for found in explained])
    macs = np.array([cost(spec, stats(spec)).macs for spec in students])
    errors = np.abs(predicted - measured) / measured
    return {
        "device": table.title,
        "blocks": written.blocks,
        "networks": written.networks,
        "table_s": table_s,
        "noisy_families": len(table.noisy()),
        "error_median": float(np.median(errors)),
        "error_max": float(errors.max()),
        "rank_correlation": rank_correlation(predicted, measured),
        "rank_correlation_of_macs": rank_correlation(macs, measured),
        "measured_share": float(np.mean([found.exact for found in explained])),
        "fit_error": model.fit_error,
        "constant_ms": model.constant_ms,
        "factors": dict(model.factors),
        "students": [
            {"name": spec.name, "macs": int(cost_), "predicted_ms": float(guess), "measured_ms": float(true)}
            for spec, cost_, guess, true in zip(students, macs, predicted, measured, strict=True)
        ],
    }


def synthetic_stats() -> Stats:
    """Pillars and points of two synthetic frames, once per grid."""
    known: dict[tuple[str, int], PillarStats] = {}

    def stats(spec: DetectorSpec) -> PillarStats:
        encoder = spec.pillar_encoder
        key = (grid_key(spec), encoder.max_points)
        if key not in known:
            found = [
                hard_pillars(frame.points, spec.grid, max_points=encoder.max_points, max_pillars=encoder.max_pillars)
                for frame in synthetic_frames(spec, count=2, points=POINTS, seed=1)
            ]
            pillars, points = (len(one.counts) for one in found), (int(one.counts.sum()) for one in found)
            known[key] = PillarStats(sum(pillars) / len(found), sum(points) / len(found))
        return known[key]

    return stats


def random_students(teacher: DetectorSpec, stats: Stats, *, count: int, seed: int) -> list[DetectorSpec]:
    """``count`` different students with 15 to 60 % of the teacher's MACs; widths between the space's ends, evenly."""
    rng, space = random.Random(seed), Space()
    teacher_macs = cost(teacher, stats(teacher)).macs
    choices = list(space.choices(teacher))
    found: dict[str, DetectorSpec] = {}
    while len(found) < count:
        base = rng.choice(choices)
        widths = {
            part: round(rng.uniform(min(getattr(space, part)), max(getattr(space, part))), 3)
            for part in ("encoder", "backbone", "neck", "head")
        }
        spec = scaled(teacher, Choice(**widths, layers=base.layers, cell=base.cell), multiple=space.multiple)
        if LOW <= cost(spec, stats(spec)).macs / teacher_macs <= HIGH:
            found[spec.name] = spec
    return list(found.values())


def rank_correlation(first: Any, second: Any) -> float:
    """Spearman's: the correlation of the ranks; equal values do not occur in times."""
    ranks = [np.argsort(np.argsort(np.asarray(values))) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def _measure(students: list[DetectorSpec], stats: Stats, folder: Path, how: dict[str, Any]) -> Any:
    graphs, feeds = [], []
    for index, spec in enumerate(students):
        path = folder / f"student{index}.onnx"
        write_graph(build(spec), spec, path, opset=20, pillars=None, weights_sha256="")
        inputs = tuple(network_inputs(spec, rows(stats(spec))))
        graphs.append(path.read_bytes())
        feeds.append(Item("", "network", "", "", inputs, {}).feeds())
        path.unlink()
    rounds: list[list[list[float]]] = [[] for _ in students]
    for turn in range(how["effort"].rounds):
        order = range(len(students)) if turn % 2 == 0 else reversed(range(len(students)))
        for index in order:
            rounds[index].append(time_graph(graphs[index], feeds[index], **how))
    return np.array([summarise(one)["p50_ms"] for one in rounds])


def _line(name: str) -> Any:
    def progress(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            print(f"{name}: {done} of {total} graphs timed", flush=True)

    return progress


if __name__ == "__main__":
    main()
