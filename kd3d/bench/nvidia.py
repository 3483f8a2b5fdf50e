"""Power, clocks and memory of a desktop or server GPU: NVML through nvidia-ml-py, else nvidia-smi."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from typing import Any

from kd3d.bench.energy import Reading
from kd3d.bench.lines import LineStream

# Bits of nvmlDeviceGetCurrentClocksThrottleReasons (nvml.h).
THROTTLE = {
    0x2: "applications clocks setting",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
QUERY = "power.draw,clocks.sm,memory.used,temperature.gpu"


def open_nvml() -> Any | None:
    """An initialised NVML module, or ``None`` where nvidia-ml-py or the driver is absent."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


class NvmlSource:
    """One GPU through NVML; its energy counter where the GPU has one (Volta and later).

    Args:
        nvml: the initialised module.
        index: of the GPU, as the driver counts.
    """

    name = "NVML"
    scope = "the whole GPU board"

    def __init__(self, nvml: Any, index: int = 0) -> None:
        self._nvml = nvml
        self._gpu = nvml.nvmlDeviceGetHandleByIndex(index)

    def read(self) -> Reading | None:
        """The present values; ``None`` where the board does not say its power."""
        nvml = self._nvml
        milliwatts = self._try("nvmlDeviceGetPowerUsage")
        millijoules = self._try("nvmlDeviceGetTotalEnergyConsumption")
        if milliwatts is None and millijoules is None:
            return None
        memory = self._try("nvmlDeviceGetMemoryInfo")
        return Reading(
            None if milliwatts is None else milliwatts / 1e3,
            None if millijoules is None else millijoules / 1e3,
            gpu_mhz=self._try("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            memory_mb=None if memory is None else memory.used / 1e6,
            celsius=self._try("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        )

    def close(self) -> None:
        """Release NVML."""
        self._nvml.nvmlShutdown()

    def _try(self, call: str, *arguments: Any) -> Any | None:
        try:
            return getattr(self._nvml, call)(self._gpu, *arguments)
        except self._nvml.NVMLError:
            return None


class NvidiaSmiSource:
    """The latest line of a running ``nvidia-smi``."""

    name = "nvidia-smi"
    scope = "the whole GPU board"

    def __init__(self, index: int = 0, interval_ms: int = 100, command: str = "nvidia-smi") -> None:
        wanted = [f"--query-gpu={QUERY}", "--format=csv,noheader,nounits", f"--id={index}", f"--loop-ms={interval_ms}"]
        self._lines = LineStream([command, *wanted])

    def read(self) -> Reading | None:
        """Of the latest line."""
        line = self._lines.latest()
        return None if line is None else parse_smi(line)

    def close(self) -> None:
        """End the program."""
        self._lines.close()


def parse_smi(line: str) -> Reading | None:
    """One line of ``power.draw, clocks.sm, memory.used, temperature.gpu``; ``None`` where there is no power in it."""
    values = [_float(part) for part in line.split(",")]
    if len(values) != 4 or values[0] is None:
        return None
    watts, clock, mebibytes, celsius = values
    memory = None if mebibytes is None else mebibytes * 2**20 / 1e6
    return Reading(watts, gpu_mhz=clock, memory_mb=memory, celsius=celsius)


def nvml_state(nvml: Any, index: int = 0) -> dict[str, Any]:
    """Name, driver, clocks now and at most, power limit, temperature, what slows the GPU, and others that use it."""

    def ask(call: str, *arguments: Any) -> Any | None:
        try:
            return getattr(nvml, call)(*arguments)
        except nvml.NVMLError:
            return None

    gpu = nvml.nvmlDeviceGetHandleByIndex(index)
    limit, name = ask("nvmlDeviceGetEnforcedPowerLimit", gpu), ask("nvmlDeviceGetName", gpu)
    driver, capability = ask("nvmlSystemGetDriverVersion"), ask("nvmlDeviceGetCudaComputeCapability", gpu)
    reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons", gpu) or 0
    clocks = {"sm": nvml.NVML_CLOCK_SM, "memory": nvml.NVML_CLOCK_MEM}
    users = ask("nvmlDeviceGetComputeRunningProcesses", gpu) or []
    return {
        "name": _words(name),
        "driver": _words(driver),
        "compute_capability": None if capability is None else "{}.{}".format(*capability),
        "mhz": {key: ask("nvmlDeviceGetClockInfo", gpu, kind) for key, kind in clocks.items()},
        "mhz_max": {key: ask("nvmlDeviceGetMaxClockInfo", gpu, kind) for key, kind in clocks.items()},
        "power_limit_w": None if limit is None else limit / 1e3,
        "celsius": ask("nvmlDeviceGetTemperature", gpu, nvml.NVML_TEMPERATURE_GPU),
        "throttled_by": [text for bit, text in THROTTLE.items() if reasons & bit],
        "other_processes": sum(one.pid != os.getpid() for one in users),
    }


def smi_state(index: int = 0) -> dict[str, Any] | None:
    """The same from nvidia-smi, as far as it goes; ``None`` where there is none."""
    keys = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit")
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={','.join(keys)}", "--format=csv,noheader,nounits", f"--id={index}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_smi_state(done.stdout) if done.returncode == 0 else None


def parse_smi_state(text: str) -> dict[str, Any] | None:
    """The state in one line of nvidia-smi's table; ``None`` where it is no such line."""
    parts = [part.strip() for part in text.strip().split(",")]
    if len(parts) != 7:
        return None
    sm, memory, most_sm, most_memory, limit = (_float(part) for part in parts[2:])
    return {
        "name": parts[0],
        "driver": parts[1],
        "mhz": {"sm": sm, "memory": memory},
        "mhz_max": {"sm": most_sm, "memory": most_memory},
        "power_limit_w": limit,
        "throttled_by": [],
        "other_processes": None,
    }


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _words(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
