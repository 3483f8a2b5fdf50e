"""The commands that are killed, small enough that a hundred of them take minutes, and what each must leave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TINY = "world-centerpoint-pillar-tiny"
_STEPS = ("--batch-size", "2")
_SPACE = ("--budget-flops", "60%", "--widths", "0.5,1", "--depths", "1", "--cells", "1")


@dataclass(frozen=True)
class Command:
    """A kind of command.

    Args:
        name: of the kind.
        kills: how many.
        words: of the command, with ``OUT`` and ``BASE`` for its output and for the folder of inputs.
        resume: what is added when it is given again.
        result: what must be equal to that of a run that was left alone; of the output folder.
    """

    name: str
    kills: int
    words: tuple[str, ...]
    result: Callable[[Path], Any]
    resume: tuple[str, ...] = ()


def digest(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _every_file(out: Path) -> Any:
    return {str(path.relative_to(out)): digest(path) for path in sorted(out.rglob("*")) if path.is_file()}


def _lines(path: Path) -> list[Any]:
    """Of a log of training, without its times."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("_s")} for line in lines]


def _trained(out: Path) -> Any:
    state = [digest(path) for path in sorted(out.rglob("weights.safetensors"))]
    return state, {str(path.relative_to(out)): _lines(path) for path in sorted(out.rglob("metrics.jsonl"))}


def _searched(out: Path) -> Any:
    found = json.loads((out / "search.json").read_text())
    return [(row["name"], row["score"], row["steps"], row["state"]) for row in found["candidates"]], found["best"][
        "name"
    ]


def _exported(out: Path) -> Any:
    record = json.loads((out / "export.json").read_text())
    gates = [(gate["name"], gate["state"]) for gate in record["gates"]]
    return digest(out / "model.onnx"), digest(out / "spec.json"), gates


def _benched(out: Path) -> Any:
    found = json.loads((out / "bench.json").read_text())
    return [(model["name"], model["e2e_ms"]["n"]) for model in found["models"]]


def _paged(out: Path) -> Any:
    return (out / "report.html").read_text().rstrip().endswith("</html>")


def _imported(out: Path) -> Any:
    return digest(out / "weights.safetensors"), digest(out / "spec.json")


_DATA = ("--data", "BASE/world", "--out", "OUT")
_TAUGHT = ("--teacher", "BASE/teacher", *_DATA, *_STEPS)
_SEARCH = (
    "search", "--teacher", "BASE/teacher", *_DATA, *_SPACE, "--strategy", "random", "--trials", "4", "--rungs", "1,2",
    "--data-workers", "0", "--batch-size", "1",
)  # fmt: skip
COMMANDS = (
    Command(
        "train",
        18,
        ("train", "--preset", TINY, *_DATA, *_STEPS, "--steps", "8", "--checkpoint-every", "2", "--eval-every", "3"),
        _trained,
        ("--resume",),
    ),
    Command(
        "distill", 10, ("distill", "--student", TINY, *_TAUGHT, "--steps", "6", "--control"), _trained, ("--resume",)
    ),
    Command(
        "distill-cached",
        6,
        ("distill", "--student", TINY, *_TAUGHT, "--steps", "6", "--teacher-cache", "OUT.cache"),
        _trained,
        ("--resume",),
    ),
    Command(
        "compress",
        12,
        ("compress", *_TAUGHT, *_SPACE, "--steps", "4", "--candidates", "2", "--short-steps", "2"),
        _trained,
        ("--resume",),
    ),
    Command("search-journal", 9, (*_SEARCH, "--storage", "OUT.study.log"), _searched, ("--resume",)),
    Command("search-sqlite", 7, (*_SEARCH, "--storage", "OUT.study.db", "--workers", "2"), _searched, ("--resume",)),
    Command(
        "export",
        10,
        ("export", "onnx", "--model", "BASE/teacher", "--out", "OUT", "--precision", "fp16", "--parity-frames", "1"),
        _exported,
    ),
    Command(
        "bench",
        8,
        ("bench", "BASE/export", "--frames", "BASE/frames", "--out", "OUT", "--iterations", "40", "--warmup", "5"),
        _benched,
    ),
    Command(
        "synth",
        8,
        ("data", "synth", "--out", "OUT", "--scenes", "2", "--samples", "2", "--seed", "4", "--no-cameras"),
        _every_file,
    ),
    Command(
        "import",
        5,
        (
            "import",
            "BASE/foreign.pth",
            "--format",
            "openpcdet",
            "--like",
            "nuscenes-centerpoint-pillar",
            "--out",
            "OUT",
        ),
        _imported,
    ),
    Command("frames", 4, ("data", "frames", "--data", "BASE/world", "--out", "OUT", "-n", "4"), _every_file),
    Command("report", 3, ("report", "OUT"), _paged),
)
BY_NAME = {command.name: command for command in COMMANDS}
