"""Makes scenes in worker processes that talk in lines of JSON.

Plain processes rather than ``multiprocessing``: they do not import the caller's main module again, so this works from a
script without a main guard, a notebook or standard input; a worker that dies is noticed; and workers end when their
standard input closes, so none outlives a killed parent by more than a scene.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from kd3d.datasets.world.simulate import Job, SceneTables, make_scene
from kd3d.errors import Kd3dError

Progress = Callable[[int, int], None]
_MODULE = "kd3d.datasets.world.worker"


class WorkerError(Kd3dError):
    """A scene could not be made."""


def make_scenes(jobs: list[Job], workers: int, progress: Progress | None) -> list[SceneTables]:
    """Make all scenes; the result is in the order of ``jobs`` whatever the number of workers.

    Raises:
        WorkerError: a worker died, or a scene failed; the text names the scene.
        OSError: a scene's files could not be written.
    """
    if workers == 1:
        return [_report(make_scene(job), done + 1, len(jobs), progress) for done, job in enumerate(jobs)]
    crew = [_start() for _ in range(workers)]
    try:
        return _share(jobs, crew, progress)
    finally:
        for process in crew:
            process.kill()
        for process in crew:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


def _report(scene: SceneTables, done: int, total: int, progress: Progress | None) -> SceneTables:
    if progress is not None:
        progress(done, total)
    return scene


def _share(jobs: list[Job], crew: list[subprocess.Popen[bytes]], progress: Progress | None) -> list[SceneTables]:
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
    for index in range(len(jobs)):
        todo.put(index)
    for process in crew:
        threading.Thread(target=_serve, args=(process, jobs, todo, answers), daemon=True).start()
    finished: dict[int, SceneTables] = {}
    while len(finished) < len(jobs):
        index, answer = answers.get()
        _raise_failure(jobs[index], answer)
        finished[index] = _report(
            SceneTables(answer["tables"], answer["boxes"]), len(finished) + 1, len(jobs), progress
        )
    return [finished[index] for index in range(len(jobs))]


def _serve(
    process: subprocess.Popen[bytes],
    jobs: list[Job],
    todo: queue.SimpleQueue[int],
    answers: queue.SimpleQueue[tuple[int, dict[str, Any]]],
) -> None:
    """Hand jobs to one worker until none is left."""
    while True:
        try:
            index = todo.get_nowait()
        except queue.Empty:
            return
        line = b""
        with suppress(OSError, ValueError):
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps({**asdict(jobs[index]), "root": str(jobs[index].root)}).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        answers.put((index, json.loads(line) if line.endswith(b"\n") else {"died": True}))
        if not line:
            return


def _raise_failure(job: Job, answer: dict[str, Any]) -> None:
    if "errno" in answer:
        raise OSError(answer["errno"], answer["error"])
    if "error" in answer:
        raise WorkerError(f"{job.name} (seed {job.key}) could not be made: {answer['error']}")
    if "died" in answer:
        raise WorkerError(f"the worker that made {job.name} died (out of memory?). Try again with fewer workers.")


def _start() -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    environment["OPENBLAS_NUM_THREADS"] = "1"
    return subprocess.Popen(
        [sys.executable, "-m", _MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
