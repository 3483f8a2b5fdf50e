"""What of kd3d's surroundings is there, and how to add what is not."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kd3d.optional import available
from kd3d.runs import environment


@dataclass(frozen=True)
class Check:
    """One thing looked for.

    Args:
        name: what.
        ok: whether it is there.
        needed: whether the main job on a CPU needs it.
        found: version or description.
        remedy: the line that adds it, or empty.
    """

    name: str
    ok: bool
    needed: bool
    found: str
    remedy: str = ""


# module, distribution, extra, needed for the main job, what for
_PACKAGES = (
    ("torch", "torch", "torch", True, "training, distillation"),
    ("safetensors", "safetensors", "torch", True, "weights"),
    ("nuscenes", "nuscenes-devkit", "nuscenes", True, "reading and scoring nuScenes"),
    ("cv2", "opencv-python-headless", "nuscenes", True, "camera pictures of the generated world"),
    ("onnx", "onnx", "onnx", True, "export"),
    ("onnxruntime", "onnxruntime", "onnx", True, "parity and latency"),
    ("numba", "numba", "fast", False, "fast pillars and NMS; numpy is used without it"),
    ("matplotlib", "matplotlib", "plot", False, "pictures"),
    ("optuna", "optuna", "search", False, "search by training"),
    ("tensorrt", "tensorrt", "gpu", False, "engines on NVIDIA GPUs"),
)


def examine() -> list[Check]:
    """Every check, in the order a reader cares: Python, packages, accelerator, disk."""
    checks = [_python(), *(_package(*entry) for entry in _PACKAGES), _gpu(), _cores(), _disk()]
    return [check for check in checks if check is not None]


def _python() -> Check:
    ok = (3, 10) <= sys.version_info[:2] < (3, 13)
    remedy = "" if ok else "make a virtual environment with Python 3.10, 3.11 or 3.12"
    return Check("Python", ok, True, ".".join(map(str, sys.version_info[:3])), remedy)


def _package(module: str, distribution: str, extra: str, needed: bool, purpose: str) -> Check:
    if not available(module):
        return Check(distribution, False, needed, f"not installed ({purpose})", f"pip install 'kd3d[{extra}]'")
    return Check(distribution, True, needed, f"{_version(distribution)} ({purpose})")


def _version(distribution: str, lookup: Callable[[str], str] = importlib.metadata.version) -> str:
    for name in (distribution, f"{distribution}-gpu"):
        try:
            return lookup(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "installed, version unknown"


def _gpu() -> Check:
    cards = environment.graphics_cards()
    if cards:
        return Check("NVIDIA GPU", True, False, "; ".join(cards))
    return Check("NVIDIA GPU", False, False, "none seen by nvidia-smi (everything but `--device cuda` works)")


def _cores() -> Check:
    return Check(
        "processor", True, True, f"{environment.machine()['cpu']}, {environment.usable_cores()} usable core(s)"
    )


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Check(
        "free disk here", free > 2, True, f"{free:.1f} GiB", "" if free > 2 else "free at least 2 GiB for `kd3d demo`"
    )
