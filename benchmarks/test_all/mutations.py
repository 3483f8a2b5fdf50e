"""Damaged inputs of one kind, each read in a process of its own with bounded memory and time.

    python benchmarks/test_all/mutations.py TARGET --seed 5 --count 250
    python benchmarks/test_all/mutations.py TARGET --seed 5 --only 17      one of them, with the traceback
    python benchmarks/test_all/mutations.py --list

An input passes if it is read as something sane, or refused with an error of kd3d's own, whose exit code is 2 to 9. Any
other exception fails, and so do a crash, code that was run, more than 2 GiB of memory and more than 20 s of work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from mutate_bytes import CANARY, mutated
from targets import TARGETS, Target, UnexpectedError

from kd3d.errors import Kd3dError

MEMORY, CPU_S, WALL_S = 2 << 30, 20, 120
_TOLD = 12  # failures that are told with their traceback's end


def main() -> None:
    """Read damaged inputs of one target; the last line is a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=250)
    parser.add_argument("--only", type=int)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        print("\n".join(TARGETS))
        return
    places = [options.only] if options.only is not None else range(options.first, options.first + options.count)
    found = read_all(TARGETS[options.target], options.seed, places, loud=options.only is not None)
    print(json.dumps(found))
    raise SystemExit(1 if found["outcome"] == "failed" else 0)


def read_all(target: Target, seed: int, places: Any, *, loud: bool = False) -> dict[str, Any]:
    """Make the whole files once, then damage a copy of them for each place."""
    codes: Counter[str] = Counter()
    failures = []
    with tempfile.TemporaryDirectory(prefix="kd3d-mutations-") as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        os.environ["HOME"] = scratch
        target.make(whole)
        _check_whole(target, whole, Path(scratch) / "first")
        files = sorted({path for pattern in target.files for path in whole.glob(pattern) if path.is_file()})
        assert files, f"{target.name}: nothing to damage"
        for place in places:
            random = np.random.default_rng([seed, zlib.crc32(target.name.encode()), place])
            work = Path(scratch) / "work"
            shutil.copytree(whole, work)
            path = work / files[random.integers(len(files))].relative_to(whole)
            content, what = mutated(path.name, path.read_bytes(), random)
            path.write_bytes(content)
            code, problem = _apart(target, work)
            codes[code] += 1
            if problem:
                failures.append({"input": place, "file": path.name, "what": what, "problem": problem})
            if loud:
                print(f"{path.relative_to(work)}: {what}: {code} {problem}", file=sys.stderr)
            shutil.rmtree(work, ignore_errors=True)
    return _summary(codes, failures)


def _check_whole(target: Target, whole: Path, copy: Path) -> None:
    """The undamaged input must be read: this also imports what the children would each import again."""
    shutil.copytree(whole, copy)
    before = Path.cwd()
    os.chdir(copy)
    try:
        problem = target.sane(target.read(copy))
    finally:
        os.chdir(before)
    if problem:
        raise SystemExit(f"{target.name}: the undamaged input gives {problem}")
    shutil.rmtree(copy)


def _apart(target: Target, work: Path) -> tuple[str, str]:
    """Read in a child; its exit code as a word, and the problem if there is one."""
    answer, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answer)
        _child(target, work, tell)
    os.close(tell)
    told, status = _wait(pid, answer)
    if (work / CANARY).exists():
        return "code was run", "code in the input was run"
    if told:
        code, problem = json.loads(told)
        return str(code), problem
    if status is None:
        return "hang", f"still waiting after {WALL_S} s"
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    name = signal.Signals(number).name if number else f"exit {os.WEXITSTATUS(status)}"
    return name, f"more than {CPU_S} s of work" if number == signal.SIGXCPU else f"the process died of {name}"


def _wait(pid: int, answer: int) -> tuple[bytes, int | None]:
    import select

    told, until = b"", time.monotonic() + WALL_S
    with os.fdopen(answer, "rb", 0) as pipe:
        while time.monotonic() < until:
            if select.select([pipe], [], [], 1.0)[0]:
                part = pipe.read(1 << 16)
                told += part
                if not part:
                    return told, os.waitpid(pid, 0)[1]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return b"", None


def _child(target: Target, work: Path, tell: int) -> None:
    """Never returns."""
    os.chdir(work)
    sink = os.open(os.devnull, os.O_RDWR)
    os.dup2(sink, 0)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    spent = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (spent + CPU_S, spent + CPU_S + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = _outcome(target, work)
    os.write(tell, json.dumps(answer).encode())
    os._exit(0)


def _outcome(target: Target, work: Path) -> tuple[str, str]:
    try:
        problem = target.sane(target.read(work))
        return "0", f"read as {problem}" if problem else ""
    except UnexpectedError as error:
        return "1", str(error)[-1200:]
    except Kd3dError as error:
        text = str(error)
        whole = 2 <= error.exit_code <= 9 and len(text) > 10
        return str(error.exit_code), "" if whole else f"{type(error).__name__} with code {error.exit_code}: {text!r}"
    except BaseException as error:  # noqa: BLE001  this is what the run looks for
        trace = traceback.extract_tb(error.__traceback__)
        at = "; ".join(f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in trace[-6:])
        return "1", f"{type(error).__name__}: {str(error)[:300]} at {at}"


def _summary(codes: Counter[str], failures: list[dict[str, Any]]) -> dict[str, Any]:
    told = failures[:_TOLD]
    found = {
        "inputs": sum(codes.values()),
        "codes": dict(sorted(codes.items())),
        "failures": len(failures),
        "told": told,
    }
    if not failures:
        return {"outcome": "passed", **found}
    first = "; ".join(f"input {one['input']}: {one['file']}, {one['what']}: {one['problem']}" for one in told[:3])
    return {"outcome": "failed", "problem": f"{len(failures)} of {sum(codes.values())} inputs: {first}", **found}


if __name__ == "__main__":
    main()
