"""What a step of distillation costs beside the student's own step: with and without the cache, and blended.

    python benchmarks/kd_step.py [--precision bf16] [--device cuda] [--rounds 20] [--out FILE]

One student of about 25 % of the teacher's MACs, the same frames, batch and precision, all arms in turns in one process:

- ``own``: the detection losses alone
- ``cached``: sparsekd's losses with fixed weights, the teacher's answers from the cache
- ``teacher``: the same, the teacher run at every step
- ``cut``: the same signals blended at the neck, answers from the cache
- ``inference``: the teacher alone

Bars: ``cached`` and ``cut`` at most 1.35 times ``own``; ``teacher`` at most ``own`` + ``inference`` and a tenth of
their sum; ``cut`` at most 1.1 times ``cached``. Times are of the step, batches are ready. Writes results/kd_step.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fitting import AUGMENTATION
from worlds import RESULTS, world

from kd3d.compress.data import CompressData
from kd3d.compress.distill.cache import CacheSettings
from kd3d.compress.distill.coefs import BlendSettings
from kd3d.compress.recipe_file import load_recipe
from kd3d.compress.recorded import CachedTeacher
from kd3d.compress.search.cost import StatsTable, cost
from kd3d.detectors.assets import shipped_teacher
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.runs import environment
from kd3d.runs.atomic import write_json
from kd3d.training.batch import TrainBatch
from kd3d.training.loader import Draws, FrameSource
from kd3d.training.objective import DetectionObjective
from kd3d.training.precision import resolve_precision
from kd3d.training.session import Session
from kd3d.training.settings import TrainSettings

STUDENT = "world-centerpoint-pillar-small"
WORLD = (2000, "train", 2)
BATCH, BATCHES, DRAWS = 4, 4, 4
BARS = {"cached / own": 1.35, "cut / own": 1.35, "teacher / (own + inference)": 1.10, "cut / cached": 1.10}


class Bench:
    """The arms, ready to take steps.

    Args:
        device: of all.
        precision: of the student.
        folder: for what is written.
    """

    def __init__(self, device: torch.device, precision: str, folder: Path) -> None:
        self.device, self.folder = device, folder
        self.teacher, self.spec = shipped_teacher(), preset(STUDENT)
        self.train = TrainSettings(steps=10_000, batch_size=BATCH, precision=precision, workers=0)  # type: ignore[arg-type]
        self.data = CompressData(world(WORLD, sweeps=self.spec.points.sweeps), augmentation=AUGMENTATION)
        recipe = load_recipe("sparsekd")
        blended = replace(recipe, blend=BlendSettings(mode="cut"))
        self.fixed, self.cut = (item.objective(self.teacher.module, self.spec) for item in (recipe, blended))
        cached = CachedTeacher(self.teacher, self.fixed, self.data, self.train, CacheSettings(folder / "cache", DRAWS))
        self.cache, self.filled = cached.fill(folder, device)
        self.asked = self._batches(None)
        self.recorded = self._batches(self.cache)

    def arms(self) -> dict[str, Callable[[int], None]]:
        """Each arm as a function of the step's number."""
        precision = resolve_precision(self.train.precision, self.device)

        def infer(step: int) -> None:
            with precision.autocast():
                self.fixed.answer(self.asked[step % BATCHES], self.device)

        return {
            "own": self._steps(DetectionObjective(self.spec), self.asked),
            "cached": self._steps(self.fixed, self.recorded),
            "teacher": self._steps(self.fixed, self.asked),
            "cut": self._steps(self.cut, self.recorded),
            "inference": infer,
        }

    def _steps(self, objective: Any, batches: list[TrainBatch]) -> Callable[[int], None]:
        torch.manual_seed(0)
        source = FrameSource(self.data.train, self.spec, None, None, None, 0)
        module = build(self.spec).to(self.device)
        session = Session(module, source, objective=objective, settings=self.train, run=self.folder)
        return lambda step: void(session.stepper.step([batches[step % BATCHES]]))

    def _batches(self, cache: Any) -> list[TrainBatch]:
        source = FrameSource(self.data.train, self.spec, None, AUGMENTATION, None, self.train.seed, Draws(DRAWS, cache))
        keys = [[(0, start * BATCH + index) for index in range(BATCH)] for start in range(BATCHES)]
        return [source.batch(row).to(self.device) for row in keys]


def void(_: object) -> None:
    """Drop what a step reports."""


def timed(arms: dict[str, Callable[[int], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of ``rounds`` steps of each arm, in turns, after a warm-up of three each."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for step in range(-3, rounds):
        for name, take in arms.items():
            wait(device)
            began = time.perf_counter()
            take(step + 3)
            wait(device)
            if step >= 0:
                found[name].append(1e3 * (time.perf_counter() - began))
    return found


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def judged(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, the ratios that have a bar (median of the rounds' own ratios), and whether they hold."""
    rows = [dict(zip(times, row, strict=True)) for row in zip(*times.values(), strict=True)]
    ratios = {
        "cached / own": [row["cached"] / row["own"] for row in rows],
        "cut / own": [row["cut"] / row["own"] for row in rows],
        "teacher / (own + inference)": [row["teacher"] / (row["own"] + row["inference"]) for row in rows],
        "cut / cached": [row["cut"] / row["cached"] for row in rows],
    }
    found = {name: statistics.median(values) for name, values in ratios.items()}
    return {
        "step_ms_p50": {name: statistics.median(values) for name, values in times.items()},
        "ratios": found,
        "bars": BARS,
        "holds": {name: found[name] <= bar for name, bar in BARS.items()},
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "kd_step.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, options.precision, Path(folder))
        stats = StatsTable(bench.data.train, 20)
        prices = [cost(spec, stats(spec)).macs for spec in (bench.spec, bench.teacher.spec)]
        record = {
            "benchmark": "kd_step",
            "student": STUDENT,
            "macs_share": prices[0] / prices[1],
            "device": str(device),
            "precision": options.precision,
            "batch": BATCH,
            "rounds": options.rounds,
            **judged(timed(bench.arms(), options.rounds, device)),
            "cache": {
                "augmentations": DRAWS,
                "records": bench.filled.records,
                "seconds": bench.filled.seconds,
                "bytes_per_record": bench.filled.bytes / bench.filled.records,
            },
            "environment": environment.record(),
        }
    write_json(options.out, record)
    print({key: record[key] for key in ("step_ms_p50", "ratios", "holds", "cache")})


if __name__ == "__main__":
    main()
