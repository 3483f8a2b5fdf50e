"""Energy of x86 processor packages from the kernel's powercap counters; reading them usually needs root."""

from __future__ import annotations

from pathlib import Path

from kd3d.bench.energy import Reading


class RaplSource:
    """Energy counters of all packages; they wrap, which is undone here.

    Args:
        packages: their folders below ``/sys/class/powercap``.
    """

    name = "RAPL"
    scope = "processor packages (shared with everything else on the machine)"

    def __init__(self, packages: list[Path]) -> None:
        self._packages = packages
        self._ranges = [_count(folder / "max_energy_range_uj") for folder in packages]
        self._last = [_count(folder / "energy_uj") for folder in packages]
        self._total_uj = 0

    def read(self) -> Reading | None:
        """Joules since the source was opened; ``None`` where a counter cannot be read."""
        try:
            now = [_count(folder / "energy_uj") for folder in self._packages]
        except (OSError, ValueError):
            return None
        for before, after, span in zip(self._last, now, self._ranges, strict=True):
            self._total_uj += after - before if after >= before else after - before + span
        self._last = now
        return Reading(joules=self._total_uj / 1e6)

    def close(self) -> None:
        """Nothing is held open."""


def rapl_source(root: Path = Path("/sys")) -> RaplSource | None:
    """The counters of this machine; ``None`` where there are none, or they may not be read."""
    packages = [path for path in sorted((root / "class/powercap").glob("intel-rapl:*")) if path.name.count(":") == 1]
    try:
        return RaplSource(packages) if packages else None
    except (OSError, ValueError):
        return None


def _count(path: Path) -> int:
    return int(path.read_text())
