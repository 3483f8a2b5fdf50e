"""``make bench``: run every suite ``bench_*.py`` of this folder, one after another; each records its JSON in ``results/``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run the suites whose name contains one of the given words, or all of them; ends with 1 if any failed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*")
    wanted = parser.parse_args().names
    suites = [
        path for path in sorted(HERE.glob("bench_*.py")) if not wanted or any(word in path.name for word in wanted)
    ]
    failed = []
    for path in suites:
        began = time.monotonic()
        print(f"== {path.name}", flush=True)
        if subprocess.run([sys.executable, str(path)], cwd=HERE.parent, check=False).returncode:
            failed.append(path.name)
        print(f"== {path.name}: {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} suite(s) failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
