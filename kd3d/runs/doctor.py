"""What of kd3d's surroundings is there, and how to add what is not."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kd3d.errors import UsageError
from kd3d.optional import available
from kd3d.runs import doctor_probes as probes
from kd3d.runs import environment

TARGETS = ("cpu", "orin", "rtx", "a100")
_GPUS = frozenset(("orin", "rtx", "a100"))
_X86 = frozenset(("rtx", "a100"))
_INDEX = "--extra-index-url https://pypi.nvidia.com"


@dataclass(frozen=True)
class Check:
    """One thing looked for.

    Args:
        name: what.
        ok: whether it is there.
        needed: whether the main job on a CPU, or the target, needs it.
        found: version or description.
        remedy: the line that adds it, or empty.
    """

    name: str
    ok: bool
    needed: bool
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class _Package:
    """A Python package.

    Args:
        module: to look for.
        distributions: names it is published under.
        purpose: what for.
        remedy: the line that adds it.
        needed: whether the main job needs it.
        useful: targets that have a use for it.
        required: targets that need it.
    """

    module: str
    distributions: tuple[str, ...]
    purpose: str
    remedy: str
    needed: bool = False
    useful: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()


def _extra(name: str) -> str:
    return f"pip install 'kd3d[{name}]'"


_PACKAGES = (
    _Package("torch", ("torch",), "training, distillation, export", _extra("torch"), True),
    _Package("safetensors", ("safetensors",), "weights", _extra("torch"), True),
    _Package("nuscenes", ("nuscenes-devkit",), "reading and scoring nuScenes", _extra("nuscenes"), True),
    _Package("cv2", ("opencv-python-headless",), "camera pictures of the generated world", _extra("nuscenes"), True),
    _Package("onnx", ("onnx",), "export", _extra("onnx"), True),
    _Package(
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu"),
        "parity and latency",
        _extra("onnx"),
        True,
        frozenset(TARGETS),
        frozenset(("cpu",)),
    ),
    _Package(
        "numba",
        ("numba",),
        "fast pillars and NMS; numpy is used without it",
        _extra("fast"),
        useful=frozenset(TARGETS),
    ),
    _Package("matplotlib", ("matplotlib",), "pictures", _extra("plot")),
    _Package("optuna", ("optuna",), "search by training", _extra("search")),
    _Package("pyarrow", ("pyarrow",), "reading the Waymo Open Dataset", _extra("waymo")),
    _Package("psycopg", ("psycopg",), "a search that machines share through PostgreSQL", _extra("postgres")),
    _Package("modelopt", ("nvidia-modelopt",), "AutoCast, another way to fp16", _extra("autocast")),
    _Package(
        "tensorrt",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        "engines on NVIDIA GPUs",
        f"pip install 'tensorrt>=10.3' {_INDEX}",
        useful=_GPUS,
        required=_GPUS,
    ),
    _Package(
        "tensorrt_rtx",
        ("tensorrt_rtx", "tensorrt-rtx"),
        "builds without a GPU, engines on RTX cards",
        _extra("trt-rtx"),
        useful=frozenset(("rtx",)),
    ),
    _Package("cuda.bindings", ("cuda-bindings",), "device memory", "pip install cuda-bindings", useful=_GPUS),
    _Package(
        "pycuda",
        ("pycuda",),
        "device memory; its build needs nvcc and a C++ compiler",
        "pip install 'pycuda>=2024.1'",
        useful=_GPUS,
    ),
    _Package("pynvml", ("nvidia-ml-py",), "power, clocks, --lock-clocks", "pip install nvidia-ml-py", useful=_X86),
)
_ON_VEHICLE = {"onnxruntime": "pip install onnxruntime"}  # without what only an export needs
_ON_ORIN = {
    "tensorrt": "sudo apt install python3-libnvinfer  # and make the environment with --system-site-packages",
    "libcudart": "sudo apt install nvidia-jetpack",
    "NVRTC": "sudo apt install nvidia-jetpack",
    "NVIDIA driver": "flash JetPack 6 or 7: it brings the driver",
    "onnxruntime for CUDA": "",
}


def examine(target: str | None = None) -> list[Check]:
    """Every check, in the order a reader cares: Python, packages, accelerator, disk.

    Args:
        target: ``cpu``, ``orin``, ``rtx`` or ``a100``: only what that vehicle computer needs or can use;
            ``None`` is the main job on this machine, with everything that may be added.

    Raises:
        UsageError: an unknown target.
    """
    if target is not None and target not in TARGETS:
        raise UsageError(f"--target must be {', '.join(TARGETS)}, not {target}.")
    chosen = [entry for entry in _PACKAGES if target is None or target in entry.useful]
    checks = [_python(), *(_package(entry, target) for entry in chosen)]
    checks += [check for check in _accelerator(target) if check is not None]
    checks += [_gpu(target), _cores(), _disk()]
    if target == "orin":
        checks = [replace(check, remedy=_on_orin(check)) for check in checks]
    return [check for check in checks if target != "cpu" or check.name != "NVIDIA GPU"]


def _python() -> Check:
    ok = (3, 10) <= sys.version_info[:2] < (3, 13)
    remedy = "" if ok else "make a virtual environment with Python 3.10, 3.11 or 3.12"
    return Check("Python", ok, True, ".".join(map(str, sys.version_info[:3])), remedy)


def _package(entry: _Package, target: str | None) -> Check:
    name = entry.distributions[0]
    needed = entry.needed if target is None else target in entry.required
    if not available(entry.module):
        remedy = entry.remedy if target is None else _ON_VEHICLE.get(name, entry.remedy)
        return Check(name, False, needed, f"not installed ({entry.purpose})", remedy)
    found = probes.version(entry.distributions) or "installed, version unknown"
    return Check(name, True, needed, f"{found} ({entry.purpose})")


def _accelerator(target: str | None) -> list[Check | None]:
    """What lies between Python and the GPU; nothing of it concerns a CPU."""
    if target == "cpu":
        return []
    on_gpu = target is not None
    return [
        _providers(),
        _torch_cuda() if target in (None, "a100", "rtx") else None,
        _found(
            "libcudart", probes.cuda_runtime, "device memory through ctypes", "pip install nvidia-cuda-runtime-cu12"
        ),
        _found("NVRTC", probes.nvrtc, "the CUDA kernels of --device-stages", "pip install nvidia-cuda-nvrtc"),
        _device_memory() if on_gpu else None,
        _found(
            "NVIDIA driver", probes.driver, "by NVML", "sudo ubuntu-drivers install", needed=on_gpu and target in _X86
        ),
        _jetson() if target in (None, "orin") else None,
        _tegrastats() if target == "orin" else None,
    ]


def _found(name: str, probe: Callable[[], str | None], purpose: str, remedy: str, *, needed: bool = False) -> Check:
    found = probe()
    if found is None:
        return Check(name, False, needed, f"not found ({purpose})", remedy)
    return Check(name, True, needed, f"{found} ({purpose})")


def _providers() -> Check | None:
    if not available("onnxruntime"):
        return None
    name, kinds = "onnxruntime for CUDA", probes.ort_providers()
    if kinds:
        return Check(name, True, False, f"built with {' and '.join(kinds)}")
    line = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
    return Check(name, False, False, "this build runs on the CPU only", line)


def _torch_cuda() -> Check | None:
    if not available("torch"):
        return None
    found = probes.torch_cuda()
    if found is not None:
        return Check("torch for CUDA", True, False, f"built for CUDA {found}")
    line = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126"
    return Check("torch for CUDA", False, False, "this build runs on the CPU only", line)


def _device_memory() -> Check:
    """One way to device memory is enough."""
    ways = [name for name, module in (("cuda-bindings", "cuda.bindings"), ("pycuda", "pycuda")) if available(module)]
    ways += ["libcudart"] if probes.cuda_runtime() else []
    ways += ["torch"] if available("torch") and probes.torch_cuda() else []
    if ways:
        return Check("device memory", True, True, f"through {', '.join(ways)}")
    return Check("device memory", False, True, "none of its four ways is here", "pip install cuda-bindings")


def _jetson() -> Check | None:
    found = probes.l4t()
    if found is None:
        return None
    pack = {"35": "JetPack 5: Python 3.8 is too old for kd3d", "36": "JetPack 6", "38": "JetPack 7"}
    return Check("Jetson", True, False, f"L4T {found} ({pack.get(found.split('.')[0], 'an unknown JetPack')})")


def _tegrastats() -> Check:
    return _found("tegrastats", probes.tegrastats, "power and clocks", "sudo apt install nvidia-l4t-tools")


def _gpu(target: str | None) -> Check:
    cards = environment.graphics_cards()
    if not cards and target == "orin" and probes.l4t() is not None:
        return Check("NVIDIA GPU", True, True, "that of the Jetson")
    needed = target in _GPUS
    if cards:
        return Check("NVIDIA GPU", True, needed, "; ".join(cards))
    found = "none seen by nvidia-smi"
    return Check("NVIDIA GPU", False, needed, found if needed else f"{found} (everything but `--device cuda` works)")


def _on_orin(check: Check) -> str:
    return "" if check.ok else _ON_ORIN.get(check.name, check.remedy)


def _cores() -> Check:
    return Check(
        "processor", True, True, f"{environment.machine()['cpu']}, {environment.usable_cores()} usable core(s)"
    )


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Check(
        "free disk here", free > 2, True, f"{free:.1f} GiB", "" if free > 2 else "free at least 2 GiB for `kd3d demo`"
    )
