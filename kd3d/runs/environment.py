"""Where a number was made: machine, versions, commit. Versions come from package metadata, without an import."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "numba",
    "nuscenes-devkit",
    "tensorrt",
    "spconv",
)


def record() -> dict[str, Any]:
    """The environment as JSON values; what cannot be found is ``None`` or absent, never guessed."""
    from kd3d import __version__

    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "kd3d": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "os": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "machine": machine(),
        "packages": packages(),
        "thread_variables": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
            if name in os.environ
        },
    }


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory, frequency governor and graphics cards."""
    return {
        "cpu": _cpu_name(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "gpus": graphics_cards(),
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def packages() -> dict[str, str]:
    """Versions of the installed packages that numbers depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of the source, ``-dirty`` when tracked files were changed; ``None`` if not a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    head = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
    if head is None:
        return None
    changed = _output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return f"{head}-dirty" if changed else head


def graphics_cards() -> list[str]:
    """Name, memory and driver of each NVIDIA card, as ``nvidia-smi`` reports them."""
    if shutil.which("nvidia-smi") is None:
        return []
    text = _output(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def board_name() -> str | None:
    """Name of a Jetson board, which ``nvidia-smi`` does not tell; ``None`` elsewhere."""
    name = _first_line(Path("/proc/device-tree/model"))
    return name.strip("\x00\n ") if name else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
