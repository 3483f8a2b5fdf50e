"""Power and clocks of a Jetson: the INA3221 monitors through sysfs, or the lines of tegrastats."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd3d.bench.energy import Reading
from kd3d.bench.lines import LineStream

INPUTS = ("VDD_IN", "POM_5V_IN")  # rails that feed the whole module
_RAIL = re.compile(r"\b((?:VDD|VIN|POM|VDDQ)\w*) (\d+)(?:mW)?/\d+(?:mW)?")
_SKIPPED = ("NC", "sum of shunt voltages")


def total_w(rails: Mapping[str, float]) -> tuple[float, str]:
    """Watts of the module and which rails they are: its input where the board measures it, else the sum of the rails.

    The sum on AGX Orin is what its four monitors see, which is less than a meter at the plug.
    """
    for name in INPUTS:
        if name in rails:
            return rails[name], f"module input {name}"
    return sum(rails.values()), f"sum of {', '.join(sorted(rails))}"


def parse_tegrastats(line: str) -> Reading | None:
    """One line of tegrastats; ``None`` where it holds no power rail."""
    rails = {name: int(value) / 1000 for name, value in _RAIL.findall(line)}
    if not rails:
        return None
    clock = re.search(r"GR3D_FREQ \d+%@\[?(\d+)", line)
    memory = re.search(r"\bRAM (\d+)/\d+MB", line)
    heat = re.search(r"\bgpu@([\d.]+)C", line, re.IGNORECASE)
    return Reading(
        total_w(rails)[0],
        rails=rails,
        gpu_mhz=float(clock[1]) if clock else None,
        memory_mb=float(memory[1]) if memory else None,
        celsius=float(heat[1]) if heat else None,
    )


class InaSource:
    """The INA3221 monitors of a Jetson: volts times amperes of every labelled channel.

    Args:
        rails: name to the files with its millivolts and milliamperes.
    """

    name = "INA3221"

    def __init__(self, rails: Mapping[str, tuple[Path, Path]]) -> None:
        self.rails = dict(rails)

    @property
    def scope(self) -> str:
        """Which rails the watts are."""
        return total_w(dict.fromkeys(self.rails, 0.0))[1]

    def read(self) -> Reading | None:
        """Watts by rail; ``None`` where a file cannot be read."""
        try:
            rails = {name: _number(volts) * _number(amperes) / 1e6 for name, (volts, amperes) in self.rails.items()}
        except (OSError, ValueError):
            return None
        return Reading(total_w(rails)[0], rails=rails)

    def close(self) -> None:
        """Nothing is held open."""


def ina_rails(root: Path = Path("/sys")) -> dict[str, tuple[Path, Path]]:
    """The power rails below ``root``: files with millivolts and milliamperes by name."""
    found = {}
    for label in sorted((root / "bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*/in*_label")):
        name, channel = _text(label), label.name[2:-6]
        files = label.with_name(f"in{channel}_input"), label.with_name(f"curr{channel}_input")
        if name and name not in _SKIPPED and all(file.exists() for file in files):
            found[name] = files
    return found


class TegrastatsSource:
    """The latest line of a running ``tegrastats``."""

    name = "tegrastats"
    scope = "module input where the board measures it, else the sum of the rails"

    def __init__(self, interval_ms: int = 100, command: str = "tegrastats") -> None:
        self._lines = LineStream([command, "--interval", str(interval_ms)])

    def read(self) -> Reading | None:
        """Of the latest line."""
        line = self._lines.latest()
        return None if line is None else parse_tegrastats(line)

    def close(self) -> None:
        """End the program."""
        self._lines.close()


def jetson_state(root: Path = Path("/sys")) -> dict[str, Any] | None:
    """Board, power mode and GPU clocks; ``None`` on another machine."""
    model = _text(root / "firmware/devicetree/base/model").strip("\0")
    if "Jetson" not in model and "Tegra" not in model:
        return None
    gpu = next(
        iter(sorted((root / "class/devfreq").glob("*gpu*")) or sorted((root / "class/devfreq").glob("*ga10b*"))), None
    )
    clocks = {name: _hertz(gpu / f"{name}_freq") for name in ("cur", "min", "max")} if gpu is not None else {}
    return {"model": model, "power_mode": power_mode(), "gpu_mhz": clocks, "locked": _locked(clocks)}


def parse_nvpmodel(text: str) -> str | None:
    """The mode's name in the output of ``nvpmodel -q``."""
    found = re.search(r"NV Power Mode:\s*(\S+)", text)
    return found[1] if found else None


def power_mode() -> str | None:
    """The power mode that ``nvpmodel -q`` names."""
    if shutil.which("nvpmodel") is None:
        return None
    try:
        done = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_nvpmodel(done.stdout)


def _locked(clocks: Mapping[str, float | None]) -> bool | None:
    """Whether the GPU's clock cannot sink, which is what jetson_clocks does."""
    low, high = clocks.get("min"), clocks.get("max")
    return None if low is None or high is None else low >= high


def _hertz(path: Path) -> float | None:
    try:
        return _number(path) / 1e6
    except (OSError, ValueError):
        return None


def _number(path: Path) -> float:
    return float(path.read_text())


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
