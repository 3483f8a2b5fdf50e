"""Writes the benchmark worlds that are missing (see worlds.py), so that their time is not counted as training.

python benchmarks/generate_worlds.py             all
python benchmarks/generate_worlds.py --small     without those of the shipped teacher and of the fleet
python benchmarks/generate_worlds.py --fleet     the fleet's alone
"""

from __future__ import annotations

import argparse

from worlds import FLEET, SWEEPS, TEACHER, TRAIN, VALIDATION, world

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--fleet", action="store_true")
    options = parser.parse_args()
    wanted = (VALIDATION, TRAIN) if options.small else (VALIDATION, TEACHER, TRAIN, FLEET)
    for which in (FLEET,) if options.fleet else wanted:
        dataset = world(which, sweeps=SWEEPS)
        print(f"{which}: {len(dataset)} key frames")
