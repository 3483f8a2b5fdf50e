"""Clocks held still while a benchmark runs, and given back however it ends. Nothing here happens unless asked for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from kd3d.bench.clocks import gpu_index
from kd3d.bench.jetson import jetson_state
from kd3d.bench.nvidia import open_nvml
from kd3d.errors import BackendError

_TDP = 0xFFFFFF00  # NVML_CLOCK_LIMIT_ID_TDP of nvml.h: the clock that the board sustains at its power limit
_LEAVE = "or leave --lock-clocks out"
_ENDING = ("SIGTERM", "SIGHUP")  # as a lost connection sends; Python's own answer would skip the unlocking
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


@contextmanager
def locked_clocks(devices: Sequence[str], *, root: Path = Path("/sys"), run: Run | None = None) -> Iterator[list[Any]]:
    """Lock the clocks of ``devices`` while the body runs; yields what was locked, for the record.

    A Jetson by ``jetson_clocks`` (CPU, GPU and memory at the most of the power mode; the settings before are stored
    first), a GPU through NVML, a processor by the governor ``performance``. They are given back at the end, also after
    an error, Ctrl-C, SIGTERM or a lost connection; a killed process (SIGKILL) cannot do that.

    Args:
        devices: ``cpu``, ``cuda`` or ``cuda:N``; each is locked once.
        root: of sysfs.
        run: runs a command; ``subprocess.run`` unless given.

    Raises:
        BackendError: no permission, or nothing that can be locked.
    """
    command = run or _command
    with _unwound_by_signals(), ExitStack() as stack:
        if jetson_state(root) is not None:
            yield [stack.enter_context(_jetson(command))]
            return
        yield [
            stack.enter_context(_gpu(gpu_index(device)) if device.startswith("cuda") else _governor(root))
            for device in dict.fromkeys(devices)
        ]


@contextmanager
def _jetson(run: Run) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="kd3d-clocks-") as scratch:
        stored = str(Path(scratch) / "clocks.conf")
        _required(run, ["jetson_clocks", "--store", stored])
        try:
            _required(run, ["jetson_clocks"])
            yield {"device": "jetson", "by": "jetson_clocks"}
        finally:
            _required(run, ["jetson_clocks", "--restore", stored])


def _required(run: Run, command: Sequence[str]) -> None:
    done = run(command)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout or f"it ended with {done.returncode}").split())
        raise BackendError(
            f"{' '.join(command[:2])} failed: {said}. Clocks are locked by root only: run kd3d by sudo, {_LEAVE}."
        )


def _command(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise BackendError(f"{command[0]} is not here. Install NVIDIA's tools for Jetson, {_LEAVE}.")
    return subprocess.run(list(command), capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def _gpu(index: int) -> Iterator[dict[str, Any]]:
    nvml = open_nvml()
    if nvml is None:
        raise BackendError(f"a GPU's clocks are locked through NVML: pip install nvidia-ml-py, {_LEAVE}.")
    try:
        _same_order(nvml)
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        core = _lock_core(nvml, gpu)
        try:
            memory = _lock_memory(nvml, gpu)
            try:
                yield {"device": f"cuda:{index}", "by": "NVML", "sm": core, "memory_mhz": memory}
            finally:
                if memory is not None:
                    nvml.nvmlDeviceResetMemoryLockedClocks(gpu)
        finally:
            nvml.nvmlDeviceResetGpuLockedClocks(gpu)
    except nvml.NVMLError as error:
        raise BackendError(
            f"NVML does not lock the clocks of GPU {index} ({error}). That takes root, and Volta or later: run kd3d by "
            f"sudo, {_LEAVE}."
        ) from error
    finally:
        nvml.nvmlShutdown()


def _same_order(nvml: Any) -> None:
    """CUDA and NVML may count unequal GPUs differently; the wrong one must not be touched."""
    names = {
        str(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(at))) for at in range(nvml.nvmlDeviceGetCount())
    }
    named = any(not part.strip().isdigit() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(","))
    if named or (len(names) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"):
        raise BackendError(
            "it cannot be told which GPU to lock: set CUDA_DEVICE_ORDER=PCI_BUS_ID, and numbers in "
            f"CUDA_VISIBLE_DEVICES, {_LEAVE}."
        )


def _lock_core(nvml: Any, gpu: Any) -> str | float:
    """At the clock that the board sustains; drivers without that word get the highest one, in MHz."""
    try:
        nvml.nvmlDeviceSetGpuLockedClocks(gpu, _TDP, _TDP)
    except nvml.NVMLError:
        most = nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM)
        nvml.nvmlDeviceSetGpuLockedClocks(gpu, most, most)
        return float(most)
    return "tdp"


def _lock_memory(nvml: Any, gpu: Any) -> float | None:
    """At the highest clock; ``None`` where the GPU (before Ampere) or the binding cannot."""
    try:
        most = nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_MEM)
        nvml.nvmlDeviceSetMemoryLockedClocks(gpu, most, most)
    except (nvml.NVMLError, AttributeError):
        return None
    return float(most)


@contextmanager
def _governor(root: Path) -> Iterator[dict[str, Any]]:
    files = sorted((root / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    if not files:
        raise BackendError(f"this processor shows no clocks that could be locked. Run where cpufreq is, {_LEAVE}.")
    before = {file: file.read_text() for file in files}
    with ExitStack() as stack:
        for file, text in before.items():
            try:
                file.write_text("performance")
            except OSError as error:
                raise BackendError(
                    f"{file}: cannot be written ({error.strerror}). Clocks are locked by root only: run kd3d by sudo, "
                    f"{_LEAVE}."
                ) from error
            stack.callback(file.write_text, text)
        kinds = sorted({text.strip() for text in before.values()})
        yield {"device": "cpu", "by": "governor performance", "before": kinds}


@contextmanager
def _unwound_by_signals() -> Iterator[None]:
    """Signals that end a process raise instead, so that ``finally`` runs. Only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    before = {kind: signal.signal(kind, _end) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
