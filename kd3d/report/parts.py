"""What a run folder holds, whichever command wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.errors import DataError
from kd3d.runs.atomic import read_json
from kd3d.runs.folder import ENVIRONMENT, SETTINGS

# Of a folder and of the compress run inside a demo: what is drawn under which name.
TRAININGS = {
    "train": "metrics.jsonl",
    "student": "distil/metrics.jsonl",
    "control": "control/metrics.jsonl",
    "student, distilled": "distill/distil/metrics.jsonl",
    "control, without the teacher": "distill/control/metrics.jsonl",
}
BOXES = {
    "teacher": ("evaluation/teacher/results.json", "teacher_evaluation/results.json"),
    "student": (
        "evaluation/student/results.json",
        "distill/distil/evaluation/results.json",
        "distil/evaluation/results.json",
    ),
}


@dataclass(frozen=True)
class RunParts:
    """Files of a run that exist.

    Args:
        run: the folder.
        search: the folder with the search, ``None`` where nothing was searched.
        trainings: ``metrics.jsonl`` by what was trained.
        boxes: official results files of ``teacher`` and ``student``.
        benches: folders with a ``bench.json``.
        settings, environment: of the run; empty where it has none.
        demo: figures of ``demo.json``, ``None`` where it is no demo.
    """

    run: Path
    search: Path | None
    trainings: Mapping[str, Path]
    boxes: Mapping[str, Path]
    benches: tuple[Path, ...]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    demo: Mapping[str, Any] | None

    @property
    def empty(self) -> bool:
        """Whether there is nothing that a page could show."""
        return not (self.search or self.trainings or self.boxes or self.benches or self.demo)


def find_parts(run: Path) -> RunParts:
    """Look for the parts of a run.

    Raises:
        DataError: a JSON file of the run is damaged.
    """
    run = Path(run)
    inner = run / "compress"
    searched = [folder for folder in (run, inner) if _has_search(folder)]
    trainings = {name: path for name, file in TRAININGS.items() if (path := _first(run, inner, file)) is not None}
    boxes = {}
    for name, files in BOXES.items():
        found = [path for file in files if (path := _first(run, inner, file)) is not None]
        if found:
            boxes[name] = found[0]
    benches = tuple(folder for folder in (run, run / "bench", run / "export") if (folder / "bench.json").is_file())
    return RunParts(
        run,
        searched[0] if searched else None,
        trainings,
        boxes,
        benches,
        read_object(run / SETTINGS) or {},
        read_object(run / ENVIRONMENT) or {},
        read_object(run / "demo.json"),
    )


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object; ``None`` where there is no such file.

    Raises:
        DataError: it is damaged, or no object.
    """
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: must be an object. Restore the file or run again.")
    return found


def _has_search(folder: Path) -> bool:
    return (folder / "search.json").exists() or (folder / "candidates.jsonl").exists()


def _first(run: Path, inner: Path, file: str) -> Path | None:
    return next((folder / file for folder in (run, inner) if (folder / file).is_file()), None)
