"""Worker processes of the world: from a script without a main guard, when one dies, and when none is wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kd3d.datasets.world import crew, write_world
from kd3d.errors import Kd3dError

SETTINGS = {"scenes": 2, "seed": 3, "samples_per_scene": 1, "cameras": False, "sweeps": 0}


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_script_through_standard_input_finishes_without_a_main_guard(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from kd3d.datasets.world import write_world
print(write_world(Path("world"), workers=2, **{SETTINGS!r}).samples)
"""
    done = subprocess.run(
        [sys.executable, "-"], input=script, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_one_worker_means_no_other_process_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_world(tmp_path / "two", workers=2, **SETTINGS)  # type: ignore[arg-type]

    def refuse() -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(crew, "_start", refuse)
    write_world(tmp_path / "one", workers=1, **SETTINGS)  # type: ignore[arg-type]
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_a_killed_worker_is_an_error_at_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = crew._start

    def killed() -> subprocess.Popen[bytes]:
        process = start()
        process.kill()  # as the kernel does when memory runs out
        return process

    monkeypatch.setattr(crew, "_start", killed)
    with pytest.raises(Kd3dError, match=r"the worker that made scene-\d{4} died .* with fewer workers"):
        write_world(tmp_path / "world", workers=2, **SETTINGS)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
