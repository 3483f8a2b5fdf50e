"""A GPU that is lent for minutes: what is to be measured and trained on it, in order, resumable at any moment.

    python benchmarks/gpu_session.py --list                                 the parts, and what they lack here
    python benchmarks/gpu_session.py --minutes 9 --out DIR                  as many parts as fit
    python benchmarks/gpu_session.py --minutes 9 --out DIR --from EARLIER   goes on where an earlier call left off

Every part is a process of its own. At the deadline it gets Ctrl-C, upon which trainings write a checkpoint; whatever
kills this script itself costs the last minute, because DIR is written anew that often: ``session.json`` (what was done,
what failed and why), and ``state.tar.NNN`` (results, weights of finished trainings, checkpoints of the others), of
15 MiB at most each. Nothing but the standard library is needed to start; what is missing is said first, and parts that
need it are passed over. ``--smoke`` runs a tiny plan on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_plan import Part, plan, smoke_plan

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
NEEDED = ("torch", "numpy", "nuscenes", "pyquaternion", "cachetools", "safetensors", "typer")
USEFUL = ("optuna", "numba", "onnx", "onnxscript", "onnxruntime", "scipy", "matplotlib", "pytest", "hypothesis",
          "tensorrt", "cuda.bindings")  # fmt: skip
GRACE_S = 20.0  # from Ctrl-C to the end of a process, and for the last packing
PACK_EVERY_S = 45.0
PIECE, LIMIT = 15 << 20, 60 << 20
_MARK, _HERE = "done", "done-here"


@dataclass
class Session:
    """Where things lie, and what happened in this call."""

    work: Path
    out: Path
    until: float
    jobs: int
    environment: dict[str, str]
    told: dict[str, str] = field(default_factory=dict)
    packed: float = 0.0

    def done(self, name: str) -> bool:
        """Whether a part has ended well, now or earlier."""
        return any((self.work / folder / f"{name}.json").exists() for folder in (_MARK, _HERE))

    def left(self) -> float:
        """Seconds until processes are stopped."""
        return self.until - GRACE_S - time.monotonic()


def work_through(parts: Sequence[Part], session: Session) -> None:
    """Run what is not done and still fits, several at a time; stop everything at the deadline."""
    running: dict[str, tuple[Part, subprocess.Popen[bytes], float]] = {}
    tried: set[str] = set()
    try:
        while session.left() > 0:
            for name, (part, process, began) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    _ended(part, process.returncode, time.monotonic() - began, session)
            new = _next(parts, session, tried, [one for one, _, _ in running.values()])
            if new is not None:
                tried.add(new.name)
                running[new.name] = (new, _start(new, session), time.monotonic())
                continue
            if not running:
                break
            if time.monotonic() - session.packed > PACK_EVERY_S:
                pack(session, parts)
            time.sleep(0.2)
    finally:
        for name, code in stop({name: process for name, (_, process, _) in running.items()}).items():
            if code == 0:
                _ended(running[name][0], 0, time.monotonic() - running[name][2], session)
            else:
                session.told[name] = "stopped at the deadline; goes on next time"
        pack(session, parts)


def _next(parts: Iterable[Part], session: Session, tried: set[str], running: Sequence[Part]) -> Part | None:
    if len(running) >= session.jobs or any(part.alone for part in running):
        return None
    for part in parts:
        if part.name in tried or session.done(part.name) or not all(map(session.done, part.needs)):
            continue
        missing = [name for name in part.requires if not there(name)]
        if missing:
            session.told[part.name] = f"passed over: {', '.join(missing)} is not installed"
        elif session.left() < part.least_s:
            session.told[part.name] = f"not begun: it needs {part.least_s:.0f} s"
        elif not (part.alone and running):
            return part
        else:
            return None  # it waits for the others to end, and nothing is to overtake it
    return None


def _start(part: Part, session: Session) -> subprocess.Popen[bytes]:
    print(f"{part.name}: begins, {session.left():.0f} s left", flush=True)
    log = session.work / "logs" / f"{part.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**session.environment, "PYTHONUNBUFFERED": "1"}  # or errors stand before what led to them
    with log.open("ab") as file:
        # Sessions of their own: Ctrl-C reaches the data workers of a training, too, and only through us.
        return subprocess.Popen(
            [PYTHON, *part.command], cwd=session.work, env=environment, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def _ended(part: Part, code: int, seconds: float, session: Session) -> None:
    name = part.name
    if code == 0:
        mark = session.work / (_MARK if part.kept else _HERE) / f"{name}.json"
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(json.dumps({"seconds": round(seconds, 1)}))
        session.told[name] = "done"
    else:
        tail = (session.work / "logs" / f"{name}.log").read_text(errors="replace").strip().splitlines()[-3:]
        session.told[name] = f"failed with {code}: {' | '.join(tail)}"
    print(f"{name}: {session.told[name]}", flush=True)


def stop(processes: dict[str, subprocess.Popen[bytes]]) -> dict[str, int]:
    """Ctrl-C to all, and after most of ``GRACE_S`` the end; their codes."""
    for process in processes.values():
        _signal(process, signal.SIGINT)
    until = time.monotonic() + 0.7 * GRACE_S
    codes = {}
    for name, process in processes.items():
        try:
            codes[name] = process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            codes[name] = process.wait()
    return codes


def _signal(process: subprocess.Popen[bytes], which: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.killpg(process.pid, which)


def pack(session: Session, parts: Sequence[Part]) -> None:
    """Write ``out`` anew: first under other names, so that a kill leaves the earlier state."""
    session.packed = time.monotonic()
    session.out.mkdir(parents=True, exist_ok=True)
    content, left_out = _archive(session, parts)
    pieces = [content[at : at + PIECE] for at in range(0, len(content), PIECE)]
    for index, piece in enumerate(pieces):
        (session.out / f".state.tar.{index:03d}").write_bytes(piece)
    for index in range(len(pieces)):
        (session.out / f".state.tar.{index:03d}").replace(session.out / f"state.tar.{index:03d}")
    for old in sorted(session.out.glob("state.tar.*"))[len(pieces) :]:
        old.unlink()
    done = [part.name for part in parts if session.done(part.name)]
    record = {"done": done, "told": session.told, "left_out": left_out, "bytes": len(content)}
    (session.out / "session.json").write_text(json.dumps(record, indent=1))


def _archive(session: Session, parts: Sequence[Part]) -> tuple[bytes, list[str]]:
    """Small files first, then runs as far as the limit goes; a run is there as a whole or not at all."""
    buffer, left_out = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in (_MARK, "logs", "results"):
            _add(tar, session.work, sorted((session.work / folder).rglob("*.*")))
        for part in parts:
            files = _kept(session.work / "runs" / part.run) if part.run else []
            if buffer.tell() + sum(path.stat().st_size for path in files) > LIMIT:
                left_out.append(part.name)
            else:
                _add(tar, session.work, files)
    return buffer.getvalue(), left_out


def _kept(run: Path) -> list[Path]:
    """Of a finished training its records and last weights, of others all that they go on from."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and not path.name.endswith(".tmp")]
    files = [path for path in files if "teacher-cache" not in path.parts]
    if not (run / "result.json").exists():
        return files
    cycles = sorted({path.relative_to(run).parts[0] for path in files if path.parent != run})
    last = cycles[-1] if cycles else ""
    return [path for path in files if path.parent == run or path.parent == run / last / "model"]


def _add(tar: tarfile.TarFile, base: Path, files: Iterable[Path]) -> None:
    for path in files:
        try:
            content = path.read_bytes()  # read at once: a running training may replace the file meanwhile
        except FileNotFoundError:
            continue
        about = tarfile.TarInfo(str(path.relative_to(base)))
        about.size, about.mtime = len(content), int(time.time())
        tar.addfile(about, io.BytesIO(content))


def unpack(earlier: Path, work: Path) -> None:
    """Bring ``work`` to where an earlier call left off; what is there already stays."""
    pieces = sorted(earlier.glob("state.tar.*"))
    if not pieces:
        raise SystemExit(f"{earlier} holds no state.tar.000: it is not the --out of an earlier call.")
    content = b"".join(piece.read_bytes() for piece in pieces)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for item in tar.getmembers():
            path, source = work / item.name, tar.extractfile(item)
            if source is None or not path.resolve().is_relative_to(work.resolve()):  # extractall's filter needs 3.11.4
                raise SystemExit(f"{earlier} holds {item.name!r}, which no call of this script packs.")
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source.read())


def there(name: str) -> bool:
    """Whether a module could be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def missing(names: Iterable[str]) -> list[str]:
    """Those that are not installed."""
    return [name for name in names if not there(name)]


def environment_of(work: Path, *, device: str, smoke: bool) -> dict[str, str]:
    """What the parts read: where things lie, and the device."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    found = {"KD3D_RUNS": str(work / "runs"), "KD3D_RESULTS": str(work / "results"), "KD3D_DEVICE": device}
    tiny = {"KD3D_WORLD_SCENES": "1", "KD3D_WORLD_SAMPLES": "2", "KD3D_WORLDS": str(work / "worlds")} if smoke else {}
    common = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "KD3D_STEPS": "4000"}
    return {**os.environ, **common, **found, **tiny}


def main(parts_of: Callable[[argparse.Namespace], list[Part]] | None = None) -> None:
    """Command line."""
    options = _options()
    parts = parts_of(options) if parts_of else smoke_plan() if options.smoke else plan()
    print(f"missing: {', '.join(missing(NEEDED)) or 'nothing that is needed'};"
          f" of use: {', '.join(missing(USEFUL)) or 'all there'}")  # fmt: skip
    if options.list:
        for part in parts:
            lack = missing(part.requires)
            print(part.name, *part.command, f"(passed over: no {', '.join(lack)})" if lack else "")
        return
    if missing(NEEDED):
        raise SystemExit(f"install {', '.join(missing(NEEDED))} first.")
    device = "cpu" if options.smoke else "cuda"
    if device == "cuda" and not _sees_gpu():
        raise SystemExit("torch sees no CUDA device here. --smoke tries the machinery on a CPU.")
    work = options.work.resolve()
    for folder in ("runs", "results"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    if options.earlier is not None:
        unpack(options.earlier, work)
    how = environment_of(work, device=device, smoke=options.smoke)
    session = Session(work, options.out.resolve(), time.monotonic() + 60 * options.minutes, options.jobs, how)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would parts
    try:
        work_through(parts, session)
    except KeyboardInterrupt:
        print("interrupted; what was done is in", session.out)
    print((session.out / "session.json").read_text())


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _sees_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="from now to the end of this call")
    parser.add_argument("--out", type=Path, default=Path("gpu-session-out"))
    parser.add_argument("--from", dest="earlier", type=Path, help="the --out of an earlier call")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "gpu-session")
    parser.add_argument("--jobs", type=int, default=12, help="trainings at a time")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
