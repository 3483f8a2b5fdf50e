"""How fast candidates are costed: 10,000 random students of each teacher, made from a choice and costed, on one core.

    python benchmarks/cost_speed.py

Writes benchmarks/results/cost_speed.json. ``seconds`` is the processor time of the slowest teacher for all candidates,
making their specifications included; ``ratio`` is that over the 10 s allowed, below 1 is faster. For scale, a few of
the same candidates are also built and counted by hooks, which must give the same numbers to the last MAC.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch

import argparse
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kd3d.compress.search.cost import Cost, PillarStats, Stats, cost
from kd3d.compress.search.published import WAYMO_VOXELS
from kd3d.compress.search.space import Choice, Space, scaled
from kd3d.detectors.presets import buildable, preset
from kd3d.runs.atomic import write_json
from kd3d.runs.environment import record
from kd3d.spec import DetectorSpec, VoxelEncoderSpec

ROOT = Path(__file__).resolve().parents[1]
ALLOWED_S = 10.0
PILLARS = PillarStats(pillars=200, points=900)
TEACHERS: dict[str, Stats] = {
    "world-centerpoint-pillar": PILLARS,
    "nuscenes-centerpoint-pillar": PILLARS,
    "waymo-centerpoint-voxel": WAYMO_VOXELS,
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=10_000, help="per teacher")
    parser.add_argument("--counted", type=int, default=10, help="built and counted for comparison, per teacher")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/cost_speed.json")
    options = parser.parse_args()
    rows = [
        measure(name, stats, candidates=options.candidates, counted=options.counted, seed=options.seed)
        for name, stats in TEACHERS.items()
    ]
    seconds = max(row["seconds"] for row in rows)
    result = {
        "schema": "kd3d.benchmark.cost_speed/1",
        "seconds": seconds,
        "ratio": round(seconds / (ALLOWED_S * options.candidates / 10_000), 4),
        "allowed_seconds_per_10000": ALLOWED_S,
        "candidates": options.candidates,
        "seed": options.seed,
        "threads": 1,
        "teachers": rows,
        "environment": record(),
    }
    write_json(options.out, result)
    print(f"ratio {result['ratio']}. Written to {options.out}")


def measure(name: str, stats: Stats, *, candidates: int, counted: int, seed: int) -> dict[str, Any]:
    """Processor and wall time for the students of one teacher."""
    teacher, rng = preset(name), random.Random(seed)
    made = voxel_student if isinstance(teacher.encoder, VoxelEncoderSpec) else pillar_student
    draws = [rng.random() for _ in range(candidates)]
    started, used = time.perf_counter(), time.process_time()
    priced = [(spec := made(teacher, random.Random(draw)), cost(spec, stats)) for draw in draws]
    used, wall = time.process_time() - used, time.perf_counter() - started
    row = {
        "teacher": name,
        "seconds": round(used, 3),
        "wall_seconds": round(wall, 3),
        "microseconds_each": round(used / candidates * 1e6, 1),
        "distinct_costs": len({(price.params, price.macs, price.acts) for _, price in priced}),
    }
    if counted and buildable(teacher):
        row.update(compare(priced[:counted]))
    print(
        f"{name:<30} {row['seconds']:.2f} s, {row['microseconds_each']:.0f} us each, {row['distinct_costs']} distinct"
    )
    return row


def pillar_student(teacher: DetectorSpec, rng: random.Random) -> DetectorSpec:
    """A random point of the space, channels in steps of 8."""
    space = Space()
    width: Callable[[], float] = lambda: rng.uniform(0.25, 1.0)  # noqa: E731
    layers = tuple(rng.randint(0, layers) for layers in teacher.backbone.layers)
    return scaled(teacher, Choice(width(), width(), width(), width(), layers), multiple=space.multiple)


def voxel_student(teacher: DetectorSpec, rng: random.Random) -> DetectorSpec:
    """The teacher at random widths of its three parts."""
    encoder, backbone, head = teacher.encoder, teacher.backbone, teacher.center_head
    assert isinstance(encoder, VoxelEncoderSpec)

    def narrow(widths: tuple[int, ...]) -> Iterator[int]:
        factor = rng.uniform(0.25, 1.0)
        return (max(4, round(width * factor / 4) * 4) for width in widths)

    first, *stages, last = narrow((encoder.input_channels, *encoder.channels, encoder.out_channels))
    (shared,) = narrow((head.shared_channels,))
    return replace(
        teacher,
        encoder=replace(encoder, input_channels=first, channels=tuple(stages), out_channels=last),
        backbone=replace(
            backbone, channels=tuple(narrow(backbone.channels)), up_channels=tuple(narrow(backbone.up_channels))
        ),
        head=replace(head, shared_channels=shared, branch_channels=shared),
    )


def compare(priced: list[tuple[DetectorSpec, Cost]]) -> dict[str, Any]:
    """Build and count the same students; they must agree, or the speed means nothing."""
    import torch

    from kd3d.compress.search.counter import count
    from kd3d.detectors.batch import PillarBatch
    from kd3d.detectors.build import build

    torch.set_num_threads(1)
    used = 0.0
    for spec, price in priced:
        pillars, points = int(PILLARS.pillars), int(PILLARS.points)
        counts = torch.full((pillars,), points // pillars)
        counts[: points - int(counts.sum())] += 1
        dynamic = spec.pillar_encoder.mode == "dynamic"
        shape = (points,) if dynamic else (pillars, spec.pillar_encoder.max_points)
        batch = PillarBatch(
            torch.randn(*shape, spec.point_inputs), counts, torch.arange(pillars), 1,
            torch.repeat_interleave(counts) if dynamic else None,
        )  # fmt: skip
        start = time.process_time()
        seen = count(build(spec), batch)
        used += time.process_time() - start
        if (seen.params, seen.macs, seen.macs_thop, seen.acts) != (
            price.params,
            price.macs,
            price.macs_thop,
            price.acts,
        ):
            raise SystemExit(f"{spec.name}: counted {seen}, costed {price}.")
    return {"counted": len(priced), "counting_seconds_each": round(used / len(priced), 3)}


if __name__ == "__main__":
    main()
