"""One command, killed at a random moment, and given again until it is done.

    python benchmarks/test_all/kills.py train 7 --seed 5 --base FOLDER

``FOLDER`` keeps what the commands read and what they give when they are left alone; it is made if absent. After the
kill nothing half-written may stand under its final name. Then the same command, with --resume where it has that, must
end with code 0 and with the result of a run that was left alone: for trainings the same weights bit for bit and log.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from kill_checks import half_written
from kill_commands import BY_NAME, TINY, Command

ROOT = Path(__file__).resolve().parents[2]
ONE_S = 400.0  # that a command may take, on a machine that does other things too
_WAYS = ("kill", "kill", "kill", "kill all", "kill all", "kill all", "interrupt", "interrupt", "terminate")
_SIGNALS = {"kill": signal.SIGKILL, "kill all": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
_FOREIGN = """
import sys; sys.path.insert(0, "tests/support")
import foreign
foreign.write(sys.argv[1], "openpcdet", foreign.centerpoint_pillar("openpcdet", width=16))
"""


def main() -> None:
    """Kill one command once; the last line is a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=list(BY_NAME))
    parser.add_argument("number", type=int)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--base", type=Path, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would ours
    command = BY_NAME[options.command]
    prepare(options.base)
    reference = left_alone(command, options.base)
    random = np.random.default_rng([options.seed, zlib.crc32(command.name.encode()), options.number])
    with tempfile.TemporaryDirectory(prefix="kd3d-kills-") as scratch:
        found = killed(command, options.base, Path(scratch) / "out", random=random, reference=reference)
    print(json.dumps(found))
    raise SystemExit(1 if found["outcome"] == "failed" else 0)


def prepare(base: Path) -> None:
    """What the commands read: a world, frames, a teacher, its export, a foreign checkpoint. Each is made once."""
    base.mkdir(parents=True, exist_ok=True)
    if not (base / "foreign.pth").exists():
        subprocess.run([sys.executable, "-c", _FOREIGN, base / "half.pth"], cwd=ROOT, check=True)
        (base / "half.pth").rename(base / "foreign.pth")
    for words in (
        "data synth --out BASE/world --scenes 5 --samples 2 --seed 3 --no-cameras --workers 1",
        "data frames --data BASE/world --out BASE/frames -n 3",
        f"train --preset {TINY} --data BASE/world --out BASE/run --steps 4 --batch-size 2 --workers 0",
        "export onnx --model BASE/teacher --out BASE/export --parity-frames 1",
    ):
        made = base / words.split("BASE/")[-1].split()[0]
        if not made.exists():
            done = subprocess.run(_line(words.split(), base, base), capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{words}: {done.stderr[-600:]}")
        if made.name == "run" and not (base / "teacher").exists():
            shutil.copytree(made / "model", base / ".teacher")
            (base / ".teacher").rename(base / "teacher")


def left_alone(command: Command, base: Path) -> dict[str, Any]:
    """How long a command takes, and its result; measured once per folder."""
    path = base / f"{command.name}.reference.json"
    if not path.exists():
        out = base / "whole" / command.name
        shutil.rmtree(out, ignore_errors=True)
        for beside in out.parent.glob(f"{out.name}.*") if out.parent.exists() else []:
            shutil.rmtree(beside) if beside.is_dir() else beside.unlink()
        _begin(command, base, out)
        began = time.monotonic()
        code, text = _to_the_end(_line(command.words, base, out))
        if code:
            raise SystemExit(f"{command.name}: ended with {code} when left alone: {text[-800:]}")
        record = {"seconds": time.monotonic() - began, "result": command.result(out)}
        half = path.with_suffix(".half")
        half.write_text(json.dumps(record))
        half.rename(path)
    return dict(json.loads(path.read_text()))


def killed(
    command: Command, base: Path, out: Path, *, random: np.random.Generator, reference: dict[str, Any]
) -> dict[str, Any]:
    """Kill, look, and go on."""
    way, share = str(random.choice(_WAYS)), float(random.uniform(0.02, 1.0))
    for _ in range(6):
        _begin(command, base, out)
        code, survivors = _kill(_line(command.words, base, out), way, share * reference["seconds"])
        if code is not None:
            break
        share *= 0.8  # it was faster this time
        shutil.rmtree(out.parent)
    told = {"way": way, "after_s": round(share * reference["seconds"], 2), "code": code}
    problems = half_written(out)
    if code is None:
        problems.append("it always ended before it could be killed")
    if survivors:
        problems.append(f"left processes behind: {survivors}")
    finished = code == 0 and _result(command, out) == reference["result"]  # the signal came as it ended
    if way == "interrupt" and code not in (130, -signal.SIGINT) and not finished:
        problems.append(f"ended with {code} when interrupted")
    end, text = _to_the_end(_line((*command.words, *command.resume), base, out))
    if end and not _whole_already(command, out, reference, end):
        problems.append(f"given again it ended with {end}: {text[-500:]}")
    elif _result(command, out) != reference["result"]:
        problems.append("its result is not that of a run that was left alone")
    problems += [f"at the end: {one}" for one in half_written(out)]
    outcome = {"outcome": "failed", "problem": "; ".join(problems)} if problems else {"outcome": "passed"}
    return {**outcome, **told}


def _whole_already(command: Command, out: Path, reference: dict[str, Any], code: int) -> bool:
    """It was killed between its last file and its end: then a second time is refused with 9, and all is there."""
    if code != 9 or command.resume:
        return False
    return bool(_result(command, out) == reference["result"])


def _result(command: Command, out: Path) -> Any:
    """As it is compared, or ``None`` where files are absent."""
    try:
        return json.loads(json.dumps(command.result(out)))
    except (OSError, KeyError, ValueError):
        return None


def _begin(command: Command, base: Path, out: Path) -> None:
    """The page needs a run; everything else begins with nothing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if command.name == "report":
        shutil.copytree(base / "run", out)


def _line(words: Any, base: Path, out: Path) -> list[str]:
    told = [str(word).replace("OUT", str(out)).replace("BASE", str(base)) for word in words]
    return [sys.executable, "-m", "kd3d.cli", *told]


@contextmanager
def _started(line: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a session of its own, whose output goes to a file; nothing of it is left at the end."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(line, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        process.output = output  # type: ignore[attr-defined]
        try:
            yield process
        finally:
            for pid in _members(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait()


def _to_the_end(line: list[str]) -> tuple[int, str]:
    with _started(line) as process:
        try:
            process.wait(ONE_S)
        except subprocess.TimeoutExpired:
            return -1, f"took more than {ONE_S:.0f} s"
        process.output.seek(0)  # type: ignore[attr-defined]
        return process.returncode, process.output.read().decode(errors="replace")  # type: ignore[attr-defined]


def _kill(line: list[str], way: str, after_s: float) -> tuple[int | None, list[int]]:
    """The exit code (``None`` if it ended before), and which of its processes were still there half a minute later."""
    with _started(line) as process:
        try:
            process.wait(after_s)
            return None, []
        except subprocess.TimeoutExpired:
            pass
        for pid in _members(process.pid) if way in ("kill all", "interrupt") else [process.pid]:
            with_suppressed(pid, _SIGNALS[way])
        try:
            code = process.wait(60)
        except subprocess.TimeoutExpired:
            return -1, [process.pid]
        until = time.monotonic() + 30
        while _members(process.pid) and time.monotonic() < until:
            time.sleep(0.1)
        return code, _members(process.pid)


def with_suppressed(pid: int, number: int) -> None:
    """Send a signal to a process that may just have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _members(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


if __name__ == "__main__":
    main()
