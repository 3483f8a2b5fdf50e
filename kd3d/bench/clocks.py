"""The state of the machine before and after: governor, frequencies, GPU clocks; and what is wrong with it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kd3d.bench.energy import PowerSource
from kd3d.bench.jetson import InaSource, TegrastatsSource, ina_rails, jetson_state
from kd3d.bench.nvidia import NvidiaSmiSource, NvmlSource, nvml_state, open_nvml, smi_state
from kd3d.bench.rapl import rapl_source
from kd3d.errors import BackendError

SUNK = 0.97  # of the clock before; below that a clock counts as lower after the run


def state(device: str, root: Path = Path("/sys")) -> dict[str, Any]:
    """CPU frequencies, and the GPU's where ``device`` is one; what cannot be found is ``None``.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        root: of sysfs.
    """
    found: dict[str, Any] = {"cpu": cpu_state(root), "gpu": None}
    jetson = jetson_state(root)
    if jetson is not None:
        found["jetson"] = jetson
    elif device.startswith("cuda"):
        found["gpu"] = _gpu_state(gpu_index(device))
    return found


def _gpu_state(index: int) -> dict[str, Any] | None:
    nvml = open_nvml()
    if nvml is None:
        return smi_state(index)
    try:
        return nvml_state(nvml, index)
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def cpu_state(root: Path = Path("/sys")) -> dict[str, Any]:
    """Governor, mean present frequency and the highest possible in MHz, turbo, and the load of the last minute."""
    folders = sorted((root / "devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    governors = sorted({text for folder in folders if (text := _text(folder / "scaling_governor"))})
    now = [value for folder in folders if (value := _number(folder / "scaling_cur_freq")) is not None]
    most = [value for folder in folders if (value := _number(folder / "cpuinfo_max_freq")) is not None]
    off = _number(root / "devices/system/cpu/intel_pstate/no_turbo")
    boost = _number(root / "devices/system/cpu/cpufreq/boost")
    turbo = off == 0 if off is not None else (boost == 1 if boost is not None else None)
    return {
        "governor": ", ".join(governors) or None,
        "mhz": sum(now) / len(now) / 1e3 if now else _cpuinfo_mhz(),
        "mhz_max": max(most) / 1e3 if most else None,
        "turbo": turbo,
        "load_1min": _load(),
    }


def concerns(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What about the machine makes the numbers less certain, one sentence each."""
    said = []
    governor = before["cpu"]["governor"]
    if governor not in (None, "performance"):
        said.append(
            f"CPU governor is {governor}: frequencies follow the load. Use: cpupower frequency-set -g performance"
        )
    jetson = before.get("jetson")
    if jetson is not None and jetson["locked"] is False:
        said.append("the Jetson's GPU clock is free to sink between frames. Use: jetson_clocks")
    gpu, later = before["gpu"], after["gpu"]
    if gpu is not None and later is not None:
        said += _gpu_concerns(gpu, later)
    return said


def _gpu_concerns(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    said = [f"the GPU was slowed down by {reason}" for reason in after["throttled_by"]]
    if before["other_processes"]:
        said.append(f"{before['other_processes']} other process(es) use the GPU")
    was, now = before["mhz"]["sm"], after["mhz"]["sm"]
    if was and now and now < SUNK * was:
        said.append(f"the GPU's clock sank from {was:g} to {now:g} MHz. Lock it: nvidia-smi -lgc")
    return said


def find_power_source(device: str, interval_ms: int = 100, root: Path = Path("/sys")) -> PowerSource | None:
    """What measures power here: a Jetson's monitors, the GPU's, or the processor's; ``None`` where nothing does."""
    rails = ina_rails(root)
    if rails:
        return InaSource(rails)
    if jetson_state(root) is not None:
        return _started(lambda: TegrastatsSource(interval_ms))
    if device.startswith("cuda"):
        nvml = open_nvml()
        if nvml is not None:
            return NvmlSource(nvml, gpu_index(device))
        return _started(lambda: NvidiaSmiSource(gpu_index(device), interval_ms))
    return rapl_source(root)


def _started(make: Callable[[], PowerSource]) -> PowerSource | None:
    try:
        return make()
    except BackendError:
        return None


def gpu_index(device: str) -> int:
    """The driver's number of a device: ``cuda:1`` is 1 and ``cuda`` is 0, counted in ``CUDA_VISIBLE_DEVICES``."""
    found = re.fullmatch(r"cuda:(\d+)", device)
    index = int(found[1]) if found else 0
    shown = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return int(shown[index]) if index < len(shown) and shown[index].isdigit() else index


def _cpuinfo_mhz() -> float | None:
    found = [
        float(value) for value in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    ]
    return sum(found) / len(found) if found else None


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
