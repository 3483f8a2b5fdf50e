"""What `gpu_session.py` does with a GPU that is lent for minutes: parts, each a process of its own, in order of worth.

Nothing but the standard library is imported here, so that what is missing can be said first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (1, 2, 3)
STUDENTS, TAUGHT = ("width", "depth", "resolution"), ("plain", "kd", "auto")
RANDOM = 8  # students, as in search_gain.py
SWEPT, JUDGED, SWEEP_STEPS = 14, (2, 3), 800  # as in blend_sweep.py
TABLE_STUDENT, TABLE_STEPS, SEEDS_STEPS = "near:width", 1600, 5000
# The rows of kd_table.py, most wanted first; a test compares them with its own.
TABLE_ROWS = (
    "control",
    "inherit",
    "recipe:sparsekd",
    "recipe:auto",
    "logits",
    "recipe:crossscale",
    "recipe:unidistill",
    "recipe:labelfree",
    "recipe:ssad",
    "labels",
    "center-boxes",
    "pivotal-boxes",
    "fitnet",
    "attention",
    "mimic",
    "affinity",
    "gid-relation",
    "gid-logits",
    "region",
    "nine-points",
    "relations",
    "responses",
    "pillars",
    "soft-heatmap",
    "soft-boxes",
    "ranking",
    "cross-scale",
)
COMBINATIONS = (
    "width-logits",
    "width-fitnet",
    "resolution-responses",
    "resolution-attention",
    "width-responses",
    "depth-logits",
    "depth-fitnet",
    "resolution-logits",
)


@dataclass(frozen=True)
class Part:
    """One process.

    Args:
        name: of its mark and log.
        command: after ``python``.
        least_s: not started with less time left.
        alone: nothing else runs meanwhile: it measures, or takes all cores.
        needs: parts that must be done before.
        requires: modules without which it is passed over.
        run: folder, below the runs, with its checkpoints.
        kept: what it made is in ``--out``; if not, it is done again on a fresh machine.
    """

    name: str
    command: tuple[str, ...]
    least_s: float = 60.0
    alone: bool = False
    needs: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    run: str | None = None
    kept: bool = True


def benchmark(script: str, *words: str) -> tuple[str, ...]:
    """A command of a script beside this one."""
    return (str(ROOT / "benchmarks" / script), *words)


def plan() -> list[Part]:
    """All parts."""
    first = [
        Part("worlds", benchmark("generate_worlds.py", "--small"), alone=True, kept=False),
        Part("tests", ("-m", "pytest", "-m", "gpu", str(ROOT / "tests" / "gpu")), alone=True, requires=("pytest",)),
        Part("latency", benchmark("gpu_latency.py"), 90.0, alone=True, requires=("onnxruntime",)),
        Part("prediction", benchmark("latency_prediction.py", "--provider", "cuda"), 120.0, alone=True,
             requires=("onnxruntime", "onnx")),
    ]  # fmt: skip
    return [*first, *_table(), *_gains(), *_sweeps(), *_searches(), *_from_scratch()]


def _table() -> Iterator[Part]:
    for seed in SEEDS:
        for row in TABLE_ROWS:
            name = row.replace(":", "-")
            words = ("--student", TABLE_STUDENT, "--rows", row, "--seeds", str(seed), "--steps", str(TABLE_STEPS))
            run = f"kd-table/{TABLE_STUDENT.replace(':', '-')}/{name}-{seed}-{TABLE_STEPS}"
            yield Part(
                f"table-{name}-{seed}", benchmark("kd_table.py", *words, "--no-table"), needs=("worlds",), run=run
            )


def _gains() -> Iterator[Part]:
    for seed in SEEDS:
        for row in (f"{student}-taylor-{taught}" for student in STUDENTS for taught in TAUGHT):
            command = benchmark("kd_gain.py", "--long", "run", "--row", row, "--seed", str(seed))
            yield Part(f"{row}-{seed}", command, needs=("worlds",), run=f"kd-gain-long/{row}-{seed}")


def _sweeps() -> Iterator[Part]:
    """A part for each training: combinations of one student share the runs without distillation."""
    begun = set()
    for combination in COMBINATIONS:
        student = combination.partition("-")[0]
        sweep = [f"{combination}-sweep-{place}-1" for place in range(SWEPT)]
        judged = [f"{name}-{seed}" for name in (f"{combination}-blend", f"{student}-plain") for seed in JUDGED]
        chosen = [f"{combination}-chosen-{seed}" for seed in JUDGED]
        for name in (*sweep, *judged, *chosen):
            if name not in begun:
                command = benchmark("blend_sweep.py", "run", "--combination", combination, "--only", name)
                needs = ("worlds", *(sweep if name in chosen else ()))
                yield Part(name, command, needs=needs, run=f"blend-sweep-{SWEEP_STEPS}/{name}")
            begun.add(name)


def _searches() -> Iterator[Part]:
    yield Part("gain-teacher", benchmark("search_gain.py", "teacher"), needs=("worlds",))
    yield Part("six-teacher", benchmark("six_tasks.py"), needs=("worlds",), run="six-tasks/teacher")
    six = ("--six-tasks",)
    for flags, run, teacher in (((), "search-gain", "gain-teacher"), (six, "search-gain-six-tasks", "six-teacher")):
        for seed in SEEDS:
            for arm in ("uniform", "searched", *(f"random-{place}" for place in range(RANDOM))):
                named, _, place = arm.partition("-")
                words = ("run", "--arm", named, "--seed", str(seed), *(("--place", place) if place else ()))
                command, needs = benchmark("search_gain.py", *flags, *words), ("worlds", teacher)
                where = f"{run}/{arm}-{seed}"
                yield Part(f"{run}-{arm}-{seed}", command, needs=needs, requires=("optuna",), run=where)


def _from_scratch() -> Iterator[Part]:
    arms = [(arm, seed) for seed in SEEDS for arm in ("control", "kd", "inherit")]
    for arm, seed in arms:
        words = ("run", "--arm", arm, "--seed", str(seed), "--steps", str(SEEDS_STEPS))
        run = f"kd-three-seeds/{arm}-{seed}-{SEEDS_STEPS}"
        yield Part(f"seeds-{arm}-{seed}", benchmark("kd_three_seeds.py", *words), needs=("worlds",), run=run)
    made = tuple(f"seeds-{arm}-{seed}" for arm, seed in arms)
    yield Part("seeds-table", benchmark("kd_three_seeds.py", "table"), needs=made)


def smoke_plan() -> list[Part]:
    """The same machinery in two minutes on a CPU: tiny worlds, one training of a few steps, no measuring."""
    command = benchmark("kd_three_seeds.py", "run", "--arm", "kd", "--seed", "1", "--steps", "8")
    worlds = Part("worlds", benchmark("generate_worlds.py", "--small"), 0.0, alone=True, kept=False)
    return [worlds, Part("seeds-kd-1", command, 0.0, needs=("worlds",), run="kd-three-seeds/kd-1-8")]
