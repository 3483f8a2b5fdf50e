"""Several workers of a search on this machine, each a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from kd3d.compress.search.worker import POLL_S, SearchTask, Worker
from kd3d.errors import BackendError, Kd3dError
from kd3d.runs.environment import usable_cores

_LEAVE_S = 30.0  # for a worker to end its step and write a checkpoint


def run_workers(task: SearchTask, count: int, *, watch: Callable[[], bool], note: Callable[[str], None]) -> None:
    """Search with ``count`` processes; one that dies is told of, and its work is taken up by the others.

    Args:
        task: of the search.
        count: processes.
        watch: called every second; ``True`` when the search is done.
        note: told when a worker is lost.

    Raises:
        Kd3dError: what ended a worker.
        BackendError: all workers died.
        KeyboardInterrupt: Ctrl-C; the workers have left in order.
    """
    context: Any = multiprocessing.get_context("spawn")
    content = pickle.dumps(task)
    threads = max(1, usable_cores() // count)
    workers = []
    for place in range(count):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(content, theirs, place, threads), daemon=False)
        process.start()
        theirs.close()
        workers.append((process, ours))
    try:
        _attend(workers, watch, note)
    finally:
        _dismiss([process for process, _ in workers])


def _attend(workers: list[tuple[Any, Connection]], watch: Callable[[], bool], note: Callable[[str], None]) -> None:
    left = list(workers)
    while left:
        time.sleep(POLL_S / 2)
        for process, pipe in [one for one in left if not one[0].is_alive()]:
            left.remove((process, pipe))
            error = _said(pipe)
            if error is not None:
                raise error
            if process.exitcode != 0:
                note(f"worker {process.pid} died ({_how(process.exitcode)}); the others take up its trial")
        done = watch()
    if not done:
        raise BackendError(
            "all workers of the search died before it was done. They may have run out of memory: use fewer --workers, "
            "and go on with --resume."
        )


def _said(pipe: Connection) -> BaseException | None:
    """The error that a worker sent before it ended."""
    try:
        return pickle.loads(pipe.recv_bytes()) if pipe.poll() else None  # type: ignore[no-any-return]
    except (EOFError, OSError):
        return None


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _dismiss(processes: list[Any]) -> None:
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, signal.SIGINT)
    until = time.monotonic() + _LEAVE_S
    for process in processes:
        process.join(max(0.1, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _work(content: bytes, pipe: Connection, place: int, threads: int) -> None:
    """The life of a worker process."""
    os.setpgid(0, 0)  # Ctrl-C in the terminal goes to the process that began it, which passes it on once
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    try:
        import torch

        torch.set_num_threads(min(threads, torch.get_num_threads()))
        task: SearchTask = pickle.loads(content)
        device = task.runner.device
        if device == "cuda":
            object.__setattr__(task.runner, "device", f"cuda:{place % torch.cuda.device_count()}")
        Worker(task, task.board(), lambda job, update: None).work()
    except KeyboardInterrupt:
        return
    except Kd3dError as error:
        error.__traceback__ = None
        error.__cause__ = error.__context__ = None
        pipe.send_bytes(pickle.dumps(error))


def _leave_with(parent: int) -> None:
    """Stop this worker, as Ctrl-C does, when the process that began it is gone."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGINT)
