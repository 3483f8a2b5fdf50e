"""Memory of this process."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def rss_mb(status: Path = _STATUS) -> float | None:
    """Resident memory now, in megabytes (10^6 bytes); ``None`` where the system does not say."""
    return _field("VmRSS", status)


def peak_rss_mb(status: Path = _STATUS) -> float | None:
    """The most that was resident at once, in megabytes."""
    found = _field("VmHWM", status)
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _field(name: str, status: Path) -> float | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 / 1e6 if found else None
