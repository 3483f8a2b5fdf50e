"""The folder of a run: what was asked for, on which machine, and what happened."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.errors import DataError, OutputError, UsageError
from kd3d.runs import environment
from kd3d.runs.atomic import output_errors, read_json, write_json

SETTINGS, ENVIRONMENT, LOG = "settings.json", "environment.json", "log.txt"


@dataclass(frozen=True)
class RunFolder:
    """An opened run folder."""

    path: Path

    def log(self, text: str) -> None:
        """Append one dated line to ``log.txt``.

        Raises:
            OutputError: the folder is not writable or the disk is full.
        """
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with output_errors(self.path / LOG), (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {text}\n")

    @property
    def settings(self) -> Mapping[str, Any]:
        """The resolved settings the run was started with.

        Raises:
            DataError: their file is damaged.
        """
        found = read_json(self.path / SETTINGS)
        if not isinstance(found, dict):
            raise DataError(f"{self.path / SETTINGS}: must be a JSON object. Restore it, or start a new run.")
        return found


def start_run(path: Path, settings: Mapping[str, Any], *, resume: bool = False, force: bool = False) -> RunFolder:
    """Open ``path`` for a run: a new one, or the continuation of one with the same settings.

    Args:
        path: the run folder; made if absent. One whose run failed before it made anything counts as empty.
        settings: resolved settings, JSON values.
        resume: the folder must hold a run that was started with the same settings.
        force: a folder that is not empty is used all the same; its files are kept and overwritten one by one.

    Raises:
        OutputError: the folder is not empty, or not writable.
        UsageError: ``resume`` with other settings; names the ones that differ.
    """
    run = RunFolder(Path(path))
    if resume and (run.path / SETTINGS).exists():
        _same_settings(run, settings)
        run.log("resumed")
        return run
    with output_errors(run.path):
        occupied = run.path.exists() and (not run.path.is_dir() or _holds_work(run.path))
    if occupied and not force and not resume:
        raise OutputError(f"{run.path}: the folder is not empty. Choose another, or add --resume or --force.")
    with output_errors(run.path):
        run.path.mkdir(parents=True, exist_ok=True)
    write_json(run.path / SETTINGS, dict(settings))
    write_json(run.path / ENVIRONMENT, environment.record())
    run.log("started")
    return run


def _holds_work(path: Path) -> bool:
    names = {entry.name for entry in path.iterdir()}
    return bool(names) and (SETTINGS not in names or bool(names - {SETTINGS, ENVIRONMENT, LOG}))


def _same_settings(run: RunFolder, settings: Mapping[str, Any]) -> None:
    before = run.settings
    differing = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
    if differing:
        pairs = ", ".join(f"{name}: {before.get(name)!r} then, {settings.get(name)!r} now" for name in differing)
        raise UsageError(
            f"{run.path} was started with other settings ({pairs}). Resume with the same ones, or start a new run."
        )
