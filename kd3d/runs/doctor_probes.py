"""What is on this machine, asked without importing anything heavy: package metadata, files, and two C libraries."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_RUNTIMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
_TOOLKITS = ("/usr/local/cuda/lib64/libcudart.so*", "/usr/local/cuda/targets/*/lib/libcudart.so*")
_NVML = "libnvidia-ml.so.1"
_L4T = Path("/etc/nv_tegra_release")

Loader = Callable[[str], Any]


def version(distributions: Sequence[str], lookup: Callable[[str], str] = importlib.metadata.version) -> str | None:
    """Version of the first of ``distributions`` that is installed."""
    for name in distributions:
        try:
            return lookup(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def package_folder(module: str) -> Path | None:
    """Where a top-level package lies; ``None`` where it is not installed. It is not imported."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    places = list(found.submodule_search_locations or ()) if found is not None else []
    return Path(places[0]) if places else None


def ort_providers(folder: Path | None = None) -> list[str]:
    """Accelerators that the installed ONNX Runtime was built with, by its libraries: ``cuda``, ``tensorrt``."""
    folder = folder or package_folder("onnxruntime")
    if folder is None:
        return []
    names = {path.name for path in (folder / "capi").glob("*onnxruntime_providers_*")}
    return [kind for kind in ("cuda", "tensorrt") if any(f"providers_{kind}." in name for name in names)]


def torch_cuda(folder: Path | None = None) -> str | None:
    """The CUDA version that the installed torch was built for; ``None`` for a CPU build or without torch."""
    folder = folder or package_folder("torch")
    try:
        text = (folder / "version.py").read_text() if folder is not None else ""
    except OSError:
        return None
    found = re.search(r"^cuda[^=\n]*=\s*['\"]([0-9.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def cuda_runtime(load: Loader = ctypes.CDLL) -> str | None:
    """Version of libcudart, such as ``12.6``: of the loader's path, a toolkit, or NVIDIA's wheels."""
    for name in (*_RUNTIMES, *_elsewhere()):
        number = ctypes.c_int()
        try:
            if load(name).cudaRuntimeGetVersion(ctypes.byref(number)) == 0:
                return f"{number.value // 1000}.{number.value % 1000 // 10}"
        except (OSError, AttributeError):
            continue
    return None


def nvrtc(load: Loader = ctypes.CDLL) -> str | None:
    """Version of NVRTC, CUDA's run-time compiler: of NVIDIA's wheels, the loader's path, or a toolkit."""
    wheel = version(("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"))
    if wheel is not None:
        return wheel
    toolkit = [str(path) for path in sorted(Path("/usr/local/cuda/lib64").glob("libnvrtc.so*"))]
    for name in ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", *toolkit):
        major, minor = ctypes.c_int(), ctypes.c_int()
        try:
            if load(name).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == 0:
                return f"{major.value}.{minor.value}"
        except (OSError, AttributeError):
            continue
    return None


def driver(load: Loader = ctypes.CDLL) -> str | None:
    """Version of the NVIDIA driver, by NVML."""
    text = ctypes.create_string_buffer(96)
    try:
        library = load(_NVML)
        if library.nvmlInit_v2() != 0:
            return None
        try:
            ok = library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text))) == 0
        finally:
            library.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return text.value.decode() if ok else None


def tegrastats() -> str | None:
    """Where Jetson's tool for power and temperature is."""
    return shutil.which("tegrastats")


def l4t(release: Path = _L4T) -> str | None:
    """Jetson's L4T release, such as ``36.4`` (JetPack 6) or ``38.2`` (JetPack 7); ``None`` on other machines."""
    try:
        found = re.search(r"R(\d+).*?REVISION:\s*(\d+)", release.read_text())
    except OSError:
        return None
    return f"{found[1]}.{found[2]}" if found else None


def _elsewhere() -> list[str]:
    found = [str(path) for pattern in _TOOLKITS for path in sorted(Path("/").glob(pattern[1:]))]
    wheels = package_folder("nvidia")
    if wheels is not None:
        found += [str(path) for path in sorted(wheels.glob("*/lib/libcudart.so*"))]
    return found
